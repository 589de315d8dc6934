//! A stream of messages that drives the work behind it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio_stream::Stream;

/// What `work` sends into a channel, as a stream. The work goes on when the stream is asked for its next message, in the task that asks: a
/// task of its own would have to be woken for each message, and so would the connection's after it. It ends with the stream.
///
/// The work goes on only when something has woken it: a connection asks twice more for each message that it gets, and what the work waits for,
/// the next request above all, takes as long to be asked for in vain as to come.
pub(in crate::api) struct Driven<T> {
    /// Several at a time, where several are there: each time the work goes on costs about as much as a small message.
    messages: mpsc::Receiver<Vec<T>>,
    /// Received, and next.
    ready: std::vec::IntoIter<T>,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    call: Arc<Call>,
    /// Calls.
    waker: Waker,
}

/// That the work may go on, and who is to be told.
struct Call {
    is_due: AtomicBool,
    /// The task that asked last.
    asks: Mutex<Waker>,
}

impl Call {
    /// Whoever calls from now on wakes this task.
    fn heard_by(&self, task: &Waker) {
        let mut asks = self.asks.lock();
        if !asks.will_wake(task) {
            asks.clone_from(task);
        }
    }

    /// Whether there was a call since this was asked last.
    fn take(&self) -> bool {
        self.is_due.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    /// First it is due, then the task is looked for: one that asks meanwhile either finds the call, or is found by it.
    fn wake_by_ref(self: &Arc<Self>) {
        // Not stored: who takes it has to see what each of several callers did before.
        self.is_due.swap(true, Ordering::AcqRel);
        let asks = self.asks.lock().clone();
        asks.wake();
    }
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
        // It has not begun.
        let call = Arc::new(Call { is_due: AtomicBool::new(true), asks: Mutex::new(Waker::noop().clone()) });
        let waker = call.clone().into();
        Self { messages, ready: Vec::new().into_iter(), work: Some(Box::pin(work(out))), call, waker }
    }
}

impl<T> Stream for Driven<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        this.call.heard_by(cx.waker());
        // What waits goes first. Then the work goes on; what it sends at once is taken at once.
        loop {
            if let Some(message) = this.ready.next() {
                return Poll::Ready(Some(message));
            }
            // Nobody but the work sends: nothing has to wake this task for what is sent while it polls.
            match this.messages.try_recv() {
                Ok(messages) => {
                    this.ready = messages.into_iter();
                    continue;
                }
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) => {}
            }
            let Some(work) = &mut this.work else { return Poll::Ready(None) };
            if !this.call.take() {
                return Poll::Pending;
            }
            if work.as_mut().poll(&mut Context::from_waker(&this.waker)).is_ready() {
                this.work = None;
            } else if this.messages.is_empty() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use tokio::sync::Notify;
    use tokio_stream::StreamExt;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A stream whose work counts how often it went on, and sends that whenever it is notified.
    fn counting() -> (Driven<usize>, Arc<AtomicUsize>, Arc<Notify>) {
        let (polls, notify) = (Arc::<AtomicUsize>::default(), Arc::new(Notify::new()));
        let (counts, waits) = (polls.clone(), notify.clone());
        let stream = Driven::new(2, move |out| async move {
            loop {
                let mut notified = std::pin::pin!(waits.notified());
                std::future::poll_fn(|cx| {
                    counts.fetch_add(1, Ordering::Relaxed);
                    notified.as_mut().poll(cx)
                })
                .await;
                out.send(vec![counts.load(Ordering::Relaxed)]).await.unwrap();
            }
        });
        (stream, polls, notify)
    }

    fn next(stream: &mut Driven<usize>, task: &Arc<Woken>) -> Poll<Option<usize>> {
        Pin::new(stream).poll_next(&mut Context::from_waker(&task.clone().into()))
    }

    #[test]
    fn work_that_nothing_has_woken_does_not_go_on() {
        let (mut stream, polls, notify) = counting();
        let task = Arc::<Woken>::default();
        for _ in 0..3 {
            assert_eq!(next(&mut stream, &task), Poll::Pending);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        notify.notify_one();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(next(&mut stream, &task), Poll::Ready(Some(2)));
        for _ in 0..3 {
            assert_eq!(next(&mut stream, &task), Poll::Pending);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 3, "once for the message, and once for what is waited for next");
    }

    #[test]
    fn who_asked_last_is_woken_and_nobody_else() {
        let (mut stream, _, notify) = counting();
        let [first, last] = [Arc::<Woken>::default(), Arc::default()];
        assert_eq!(next(&mut stream, &first), Poll::Pending);
        assert_eq!(next(&mut stream, &last), Poll::Pending);
        notify.notify_one();
        assert_eq!([&first, &last].map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
        assert!(next(&mut stream, &last).is_ready());
    }

    // As what has used up its turn does.
    #[test]
    fn work_that_wakes_itself_while_it_goes_on_goes_on_when_it_is_asked_again() {
        let mut stream = Driven::new(2, |out| async move {
            for number in 0..2 {
                let mut is_second = false;
                std::future::poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut is_second, true) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                out.send(vec![number]).await.unwrap();
            }
        });
        let task = Arc::<Woken>::default();
        let found = [(); 4].map(|()| next(&mut stream, &task));
        assert_eq!(found, [Poll::Pending, Poll::Ready(Some(0)), Poll::Ready(Some(1)), Poll::Ready(None)]);
        assert_eq!(task.0.load(Ordering::Relaxed), 4, "each time the task hears of it");
    }

    // A handful that was taken makes room, for which the work had waited.
    #[test]
    fn work_that_waits_for_room_goes_on_once_there_is_some() {
        let mut stream = Driven::new(1, |out| async move {
            for number in 0..5 {
                out.send(vec![number]).await.unwrap();
            }
        });
        let task = Arc::<Woken>::default();
        let all: Vec<_> = std::iter::from_fn(|| match next(&mut stream, &task) {
            Poll::Ready(message) => message,
            Poll::Pending => panic!("there is always one"),
        })
        .collect();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

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
