//! The thread behind the commit path: tells everybody who keeps books what is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use plenum_model::{Delta, Revision, SessionChange};

use super::backlog::Received;
use super::rest::Rest;
use super::whereabouts::Whereabouts;
use crate::commit::Published;
use crate::error::ServerError;
use crate::metrics::NAMES_MAX;
use crate::publish::{Divergence, losses};
use crate::shared::Shared;

/// Most batches that are taken at a time.
const BATCHES_MAX: usize = 64;

/// Divergences of a scheduler are told at most so often: one that judges wrongly may have thousands a second.
const DIVERGENCES_PAUSE: Duration = Duration::from_secs(10);

/// Tells of divergences: the first one of a scheduler at once, others counted with its next one that is told.
#[derive(Default)]
struct Divergences {
    /// By scheduler; those beyond the bound share one, of no name.
    told: BTreeMap<Arc<str>, Told>,
}

struct Told {
    at: Instant,
    /// Claims since then.
    untold: u64,
}

impl Divergences {
    fn note(&mut self, scheduler: &Arc<str>, found: &Divergence) {
        let is_apart = self.told.contains_key(scheduler) || self.told.len() < NAMES_MAX;
        let of = if is_apart { scheduler.clone() } else { Arc::from("") };
        let mut untold = 0;
        if let Some(told) = self.told.get_mut(&of) {
            if told.at.elapsed() < DIVERGENCES_PAUSE {
                told.untold += found.claims;
                return;
            }
            untold = told.untold;
        }
        self.told.insert(of, Told { at: Instant::now(), untold: 0 });
        let Divergence { transaction, revision, base_revision, claims, reason } = found;
        tracing::warn!(
            scheduler = &**scheduler,
            %transaction,
            revision,
            base_revision,
            claims,
            reason,
            untold,
            "divergence: claims were refused for what their scheduler had seen at its base, so one of both judges wrongly: a bug. \
             `plenum txn show {transaction}` has what was asked and why not; the log has all that is needed to decide it again"
        );
    }
}

/// What is told in the log.
struct Tells {
    divergences: Divergences,
    whereabouts: Whereabouts,
}

impl Tells {
    fn begin(shared: &Shared) -> Self {
        // Looked at, and let go of at once: while somebody has it, pages that change are copied.
        let cell = shared.picture.wait_for(Revision(0), true, || {});
        let whereabouts = cell.as_ref().map(Whereabouts::of_cell).unwrap_or_default();
        Self { divergences: Divergences::default(), whereabouts }
    }
}

/// The publishing thread. What it is done with goes back to who made it, for its memory.
pub(crate) fn run(shared: &Arc<Shared>, done: &Sender<Vec<Delta>>) {
    let mut rest = Rest::new(shared.settings.rest);
    let mut tells = Tells::begin(shared);
    loop {
        match shared.published.receive(BATCHES_MAX, rest.due()) {
            Received::Items(batches) => {
                rest.works();
                for published in batches {
                    match fold(shared, published, &mut tells) {
                        Ok(deltas) => drop(done.try_send(deltas)),
                        Err(error) => {
                            shared.fail(error);
                            return;
                        }
                    }
                }
            }
            Received::TimedOut => rest.give_back_when_due(),
            Received::Closed => {
                shared.feed.close();
                return;
            }
        }
    }
}

fn fold(shared: &Arc<Shared>, published: Published, tells: &mut Tells) -> Result<Vec<Delta>, ServerError> {
    shared.picture.tidy();
    let losses = losses(&published).map_err(ServerError::Mirror)?;
    shared.metrics.decided(&published.transactions, &losses);
    shared.metrics.ended(&published.deltas);
    for lost in &losses {
        lost.divergence.iter().for_each(|found| tells.divergences.note(&lost.scheduler, found));
    }
    tells.whereabouts.fold(&published.deltas);
    let now = shared.clock.monotonic_micros();
    shared.hub.fold(&published.deltas, now);
    note_sessions(shared, &published.deltas, now);
    shared.feed.send(published.batch);
    Ok(published.deltas)
}

/// Sessions that were opened and closed, whether or not who asked for it is still there.
fn note_sessions(shared: &Shared, deltas: &[Delta], now_micros: i64) {
    // Each transaction's delta has its number; connections are not to be kept from the books for those.
    let opens_or_closes = |change: &SessionChange| !matches!(change, SessionChange::Number { .. });
    for delta in deltas.iter().filter(|delta| delta.sessions.iter().any(opens_or_closes)) {
        shared.sessions.lock().published(delta, now_micros);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use parking_lot::Mutex;
    use plenum_model::{Command, SessionId, TransactionId};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Subscriber};

    use super::*;
    use crate::engine::warnings::Warnings;

    /// A line of the log: its fields by name, the text under `message`.
    #[derive(Default)]
    struct Line(BTreeMap<&'static str, String>);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.insert(field.name(), format!("{value:?}"));
        }
    }

    /// Keeps warnings.
    #[derive(Default)]
    struct Log(Arc<Mutex<Vec<Line>>>);

    impl Log {
        fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
            let lines = self.0.clone();
            Warnings(move |event: &Event<'_>| {
                let mut line = Line::default();
                event.record(&mut line);
                lines.lock().push(line);
            })
        }
    }

    fn divergence(number: u64, claims: u64) -> Divergence {
        let transaction = TransactionId { session: SessionId(4), number };
        Divergence { transaction, revision: 90, base_revision: 80, claims, reason: "NO_ROOM" }
    }

    // One for all of them named the first of a burst, and whoever else had one or two at the same time was never named.
    #[test]
    fn the_first_divergence_of_a_scheduler_is_told_at_once_and_those_of_the_next_ten_seconds_are_counted() {
        assert_eq!(DIVERGENCES_PAUSE, Duration::from_secs(10), "as operators are told");
        let (log, mut divergences) = (Log::default(), Divergences::default());
        let [batch, service] = ["batch", "service"].map(Arc::<str>::from);
        tracing::subscriber::with_default(log.subscriber(), || {
            divergences.note(&batch, &divergence(1, 3));
            divergences.note(&batch, &divergence(2, 5));
            divergences.note(&batch, &divergence(3, 7));
            assert_eq!((log.0.lock().len(), divergences.told[&batch].untold), (1, 12));
            divergences.note(&service, &divergence(6, 1));
            let told = divergences.told.get_mut(&batch).expect("the first one was told");
            told.at = told.at.checked_sub(Duration::from_secs(10)).expect("a clock that has run for so long");
            divergences.note(&batch, &divergence(4, 1));
            divergences.note(&batch, &divergence(5, 1));
        });
        assert_eq!(divergences.told[&batch].untold, 1, "what was told of is counted anew");
        let lines = log.0.lock();
        let told = |line: &Line, field| line.0[field].trim_matches('"').to_owned();
        let [first, other, next] = &lines[..] else { panic!("three lines") };
        for (field, expected) in [
            ("scheduler", "batch"),
            ("transaction", "txn-4-1"),
            ("revision", "90"),
            ("base_revision", "80"),
            ("claims", "3"),
            ("reason", "NO_ROOM"),
            ("untold", "0"),
        ] {
            assert_eq!(told(first, field), expected, "{field}");
        }
        let text = told(first, "message");
        assert!(text.starts_with("divergence: ") && text.contains("`plenum txn show txn-4-1` has"), "{text}");
        assert_eq!((told(other, "scheduler"), told(other, "untold")), ("service".to_owned(), "0".to_owned()));
        assert_eq!((told(next, "transaction"), told(next, "untold")), ("txn-4-4".to_owned(), "12".to_owned()));
    }

    // It was known to nobody, and took one of the places that there are for sessions until the server was started again.
    #[tokio::test]
    async fn a_session_whose_opener_left_is_known_and_grows_old() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let open = Command::OpenSession { scheduler: "batch".into() };
        drop(shared.queue(Shared::request(&"local".into(), "default".into(), open)).unwrap());
        let known = async || {
            loop {
                let cell = shared.snapshot().await;
                let known =
                    cell.sessions().map(|opened| opened.id).find(|id| shared.sessions.lock().owner(*id).is_some());
                if let Some(session) = known {
                    return session;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let session = tokio::time::timeout(Duration::from_secs(30), known()).await.expect("it is known");
        assert_eq!(shared.sessions.lock().overdue(i64::MAX, 1), [session]);
        drop(shared);
        server.kill().await.unwrap();
    }

    #[test]
    fn a_bounded_number_of_schedulers_is_told_apart_and_others_are_one() {
        let (log, mut divergences) = (Log::default(), Divergences::default());
        tracing::subscriber::with_default(log.subscriber(), || {
            for name in 0..100 {
                divergences.note(&name.to_string().into(), &divergence(1, 1));
            }
        });
        assert_eq!((log.0.lock().len(), divergences.told.len()), (NAMES_MAX + 1, NAMES_MAX + 1));
        assert_eq!(divergences.told[""].untold, 100 - NAMES_MAX as u64 - 1);
    }
}
