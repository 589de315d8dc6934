//! The colours of a terminal that shows what a task printed: they are put back when that ends, or is left with Ctrl-C. What else a task makes of a
//! terminal is not known here.

use std::{future::pending, io};

use tokio::{signal::unix::Signal, sync::oneshot};

use crate::{output, signals::interrupt};

/// What begins each order to a terminal.
const ESCAPE: u8 = 0x1b;
/// The order to go back to the usual colours.
const USUAL: &[u8] = b"\x1b[0m";

/// The colours of standard output. By default of none that has any.
#[derive(Debug, Default)]
pub(crate) struct Colours {
    /// Where it is told that they may be others now, with what listens for Ctrl-C from then on; none where there are none, or it was told.
    listener: Option<oneshot::Sender<Signal>>,
    may_be_others: bool,
}

impl Colours {
    /// Those of standard output, and what comes back at Ctrl-C once they may be others. Until then, and elsewhere than at a terminal, Ctrl-C does what it
    /// always does.
    pub(crate) fn of_output() -> (Self, impl Future<Output = ()>) {
        let (listener, listens) = oneshot::channel::<Signal>();
        let interrupted = async move {
            let Ok(mut interrupt) = listens.await else { return pending().await };
            let _ = interrupt.recv().await;
        };
        let listener = Some(listener).filter(|_| output::moves_cursor(&io::stdout()));
        (Self { listener, may_be_others: false }, interrupted)
    }

    /// Looks at what is going to be printed.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        if bytes.contains(&ESCAPE)
            && let Some(listener) = self.listener.take()
        {
            self.may_be_others = true;
            // It listens before anything is printed. Where it can't, Ctrl-C does what it always does.
            if let Some(interrupt) = interrupt() {
                let _ = listener.send(interrupt);
            }
        }
    }

    /// Puts them back where they may be others.
    pub(crate) fn put_back(&self) {
        if self.may_be_others {
            put_back();
        }
    }
}

/// Puts them back. That this failed nobody can be told there.
pub(super) fn put_back() {
    let _ = output::print_and_go_on(USUAL);
}
