//! A stream of messages that drives the work behind it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio_stream::Stream;

/// What `work` sends into a channel, as a stream. The work goes on when the stream is asked for its next message, in the task that asks: a
/// task of its own would have to be woken for each message, and so would the connection's after it. It ends with the stream.
pub(in crate::api) struct Driven<T> {
    /// Several at a time, where several are there: each time the work goes on costs about as much as a small message.
    messages: mpsc::Receiver<Vec<T>>,
    /// Received, and next.
    ready: std::vec::IntoIter<T>,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

// Nothing of it is pinned in place.
impl<T> Unpin for Driven<T> {}

impl<T> Driven<T> {
    /// At most so many handfuls of messages wait at a time.
    pub(in crate::api) fn new<W>(handfuls_max: usize, work: impl FnOnce(mpsc::Sender<Vec<T>>) -> W) -> Self
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let (out, messages) = mpsc::channel(handfuls_max);
        Self { messages, ready: Vec::new().into_iter(), work: Some(Box::pin(work(out))) }
    }
}

impl<T> Stream for Driven<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        // What waits goes first. Then the work goes on; what it sends at once is taken at once.
        loop {
            if let Some(message) = self.ready.next() {
                return Poll::Ready(Some(message));
            }
            // Nobody but the work sends: nothing has to wake this task for what is sent while it polls.
            match self.messages.try_recv() {
                Ok(messages) => {
                    self.ready = messages.into_iter();
                    continue;
                }
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            let Some(work) = &mut self.work else { return Poll::Ready(None) };
            if work.as_mut().poll(cx).is_ready() {
                self.work = None;
            } else if self.messages.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn messages_come_in_order_and_the_end_after_the_last() {
        let numbers = Driven::new(2, |out| async move {
            for number in 0..5 {
                out.send(vec![number, number]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(numbers.collect::<Vec<u32>>().await, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[tokio::test]
    async fn nothing_is_done_ahead_of_its_reader() {
        let (done, mut count) = tokio::sync::watch::channel(0);
        let mut numbers = Box::pin(Driven::new(2, move |out| async move {
            for number in 1.. {
                if out.send(vec![number]).await.is_err() {
                    return;
                }
                done.send_replace(number);
            }
        }));
        assert_eq!(numbers.next().await, Some(1));
        assert!(*count.borrow_and_update() <= 3);
        drop(numbers);
        assert!(count.changed().await.is_err(), "the work ends with its stream");
    }
}
