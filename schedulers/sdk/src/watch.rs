//! A mirror of the cell for who looks and has no session: connects, folds, and says when it is current.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use plenum_model::Cell;
use plenum_proto::bounds::PAGE_BYTES_MAX;
use plenum_proto::error::{code_of, no_cell, retry_micros_of, words};
use plenum_proto::v1::{self, cell_client::CellClient};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};

use crate::address::{self, CALL_TIMEOUT, CELL_KEY};
use crate::client::Signed;
use crate::picture::{Picture, Useless};
use crate::repeats::Repeats;
use crate::runtime::{Loss, Notice};
use crate::seen::OTHER_CELL;
use crate::settings::Settings;
use crate::shell::drawn_seed;

/// Messages that are folded into a picture with news before it is given, where as many are there: who looks seldom gets the newest, and soon.
const MESSAGES_MAX: u32 = 1024;

/// What one says that has less than was seen.
const NO_SUCH_REVISION: &str = "NO_SUCH_REVISION";

/// The whole cell, as it changes: every machine, every allocation, everybody's jobs. For frameworks that look and act, beside a [`Client`](crate::Client)'s calls; who places
/// tasks is a [`Scheduler`](crate::Scheduler), and has this in its view.
///
/// It connects by itself, for as long as it takes. After a cut it goes on where it was, and begins with a snapshot where it can't: where too much was missed, and where the
/// cell was restored, which is told by the `incarnation` of its [`identity`](Cell::identity). That no cell answers is told to `tracing`, as a scheduler's runtime tells it.
///
/// Nothing is done while nobody waits in [`Watch::changed`], and nothing piles up here then: who comes back late gets what is true by then, be it as a snapshot.
///
/// ```no_run
/// use plenum_sdk::Client;
///
/// # async fn reconcile(_: &Client, _: &plenum_sdk::model::Cell) {}
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new("http://127.0.0.1:7070", "user/ann")?;
/// let mut watch = client.watch();
/// // What is decided by the picture of one cell is asked of that one only.
/// let client = client.of_cell(&watch.changed().await?.identity().cell_id);
/// let mut every = tokio::time::interval(std::time::Duration::from_secs(10));
/// every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
/// loop {
///     tokio::select! {
///         biased; // What came meanwhile is seen before a tick looks at the picture.
///         cell = watch.changed() => reconcile(&client, cell?).await,
///         _ = every.tick() => match watch.current() {
///             Some(cell) => reconcile(&client, cell).await,
///             None => {} // The cell is away, or this is behind it.
///         }
///     }
/// }
/// # }
/// ```
pub struct Watch {
    client: CellClient<Signed>,
    /// The id of the cell that its client means, in hexadecimal; empty where that says none.
    meant: String,
    link: Link,
    picture: Picture,
    /// Attempts to connect since it was current.
    attempts: u32,
    seed: u64,
    repeats: Repeats,
}

enum Link {
    Down { connect_at: Instant },
    Calling(Call),
    Up(Box<Streaming<v1::SessionResponse>>),
}

type Call = Pin<Box<dyn Future<Output = Result<Streaming<v1::SessionResponse>, Status>> + Send>>;

/// Why a cell is not followed any more, which somebody has to do something about. The [`Watch`] keeps its picture and all that it has seen, and asks again every two seconds if
/// [`Watch::changed`] is waited for again: who published something by the picture best leaves it as it is, and tells people.
#[derive(thiserror::Error)]
pub enum WatchError {
    /// Another cell answers at the address, such as one that a server made in an empty directory.
    #[error(
        "cell {found} answers, and cell {meant} is meant: have the server of that one answer at the address; to follow the other one, begin anew, with a \
         new client"
    )]
    OtherCell {
        /// The id of the one that was followed, or is the client's, in hexadecimal.
        meant: String,
        /// Of the one that answers; empty where it does not say.
        found: String,
    },
    /// It is an older copy of the cell, or has gone on from one.
    #[error(
        "this server has not all that was seen of the cell (incarnation {incarnation}, revision {revision}): start the one that has, or restore the cell; to go on with \
         less, begin anew, with a new watch"
    )]
    Older {
        /// That was seen.
        incarnation: u64,
        /// Of it, the newest that was seen.
        revision: u64,
    },
    /// The cell does not let this principal watch, or takes the request for none.
    #[error("the cell does not let this be watched: {0}")]
    Refused(String),
}

impl fmt::Debug for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a stream ended.
enum End {
    /// By itself, or it could not be: why, whether that was the cell, and in how many microseconds the server wants to be asked again, if it says.
    Lost { loss: Loss, reason: String, retry_micros: i64 },
    /// What it said can't be followed.
    Unread(String),
    /// There is no sense in another one before somebody did something.
    Fatal(WatchError),
}

impl Watch {
    pub(crate) fn new(client: CellClient<Signed>, meant: String) -> Self {
        Self {
            meant,
            client: client.max_decoding_message_size(PAGE_BYTES_MAX),
            link: Link::Down { connect_at: Instant::now() },
            picture: Picture::default(),
            attempts: 0,
            seed: drawn_seed(),
            repeats: Repeats::default(),
        }
    }

    /// Waits until there is a current picture with something in it that was not given before, and gives it. It is current as of the last heartbeat, which comes once a second:
    /// the first picture of a connection waits for one, or for two where the first one was long in coming. One that the server made more than three seconds ago counts for
    /// none. So a program that stood still, as while its machine slept, is given nothing of what lay in its buffers, but the present once it has come there. Several changes
    /// may be one: to learn what changed, keep a clone of the picture before, which costs as much as some pointers, and compare. Where waiting ends early, as in a `select!`,
    /// nothing is lost.
    ///
    /// # Errors
    /// [`WatchError`]: somebody has to do something about it. Anything else that goes wrong is tried again by itself.
    pub async fn changed(&mut self) -> Result<&Cell, WatchError> {
        let (mut folded, mut has_all) = (0, false);
        loop {
            let is_news = self.picture.is_news(since_boot_micros());
            if is_news && (has_all || folded >= MESSAGES_MAX) {
                break;
            }
            has_all = tokio::select! {
                biased;
                end = self.step() => {
                    self.handle(end)?;
                    false
                }
                // What has come is taken in first; this gives the connection a turn to read it.
                () = tokio::task::yield_now(), if is_news => true,
            };
            folded = if is_news { folded + 1 } else { 0 };
        }
        self.picture.looked();
        Ok(self.picture.cell().expect("what is news is there"))
    }

    /// The picture, where it is current as far as is known: there is a connection, and it has come to what the cell said last, which was at most three seconds ago. Of use
    /// between two changes, while somebody waits for the next one: nothing is heard otherwise, and what was heard grows old.
    #[must_use]
    pub fn current(&self) -> Option<&Cell> {
        self.picture.current(since_boot_micros())
    }

    /// The last picture there was, be it old: of use to who shows it. It is `None` before the first one is whole, and while one that could not be kept is fetched anew.
    #[must_use]
    pub fn cell(&self) -> Option<&Cell> {
        self.picture.cell()
    }

    /// Waits for what happens next; gives how a stream ended. Nothing is lost where this is dropped.
    async fn step(&mut self) -> Option<End> {
        match &mut self.link {
            Link::Down { connect_at } => {
                tokio::time::sleep_until(*connect_at).await;
                self.attempts = self.attempts.saturating_add(1);
                let hello = self.picture.hello(since_boot_micros());
                self.link = Link::Calling(call(self.client.clone(), hello));
                None
            }
            Link::Calling(call) => match call.await {
                Ok(stream) => {
                    self.link = Link::Up(Box::new(stream));
                    None
                }
                Err(status) => Some(self.end_of(&status)),
            },
            Link::Up(stream) => match stream.message().await {
                Ok(Some(message)) => {
                    let taken = self.picture.take(message, since_boot_micros());
                    taken.err().map(|useless| self.useless(useless))
                }
                Ok(None) => Some(End::Lost {
                    loss: Loss::NoConnection,
                    reason: "its stream ended without a word".into(),
                    retry_micros: 0,
                }),
                Err(status) => Some(self.end_of(&status)),
            },
        }
    }

    /// Goes on after what happened.
    fn handle(&mut self, end: Option<End>) -> Result<(), WatchError> {
        let Some(end) = end else {
            if self.attempts > 0 && self.current().is_some() {
                self.attempts = 0;
                self.repeats.stands();
            }
            return Ok(());
        };
        self.picture.lost();
        let pauses = Settings::default().reconnect;
        let pause_micros = pauses.delay_micros(self.attempts, self.seed);
        let (micros, notice) = match end {
            End::Fatal(error) => {
                self.picture.look_again();
                self.pause(pauses.most_micros);
                return Err(error);
            }
            End::Lost { loss, reason, retry_micros } => {
                let micros = retry_micros.clamp(0, pauses.most_micros).saturating_add(pause_micros);
                (micros, Notice::Lost { loss, reason, retry_micros: micros })
            }
            End::Unread(reason) => {
                self.picture.forget();
                (pause_micros, Notice::Mirror { reason })
            }
        };
        self.pause(micros);
        self.repeats.tell(None, &notice);
        Ok(())
    }

    fn pause(&mut self, micros: i64) {
        self.link = Link::Down { connect_at: Instant::now() + Duration::from_micros(micros.max(0).unsigned_abs()) };
    }

    fn end_of(&self, status: &Status) -> End {
        let code = code_of(status);
        let found = || status.metadata().get(CELL_KEY).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        match status.code() {
            // What another program answers is no word of the cell's.
            _ if no_cell(status).is_some() => {}
            _ if code == OTHER_CELL => return End::Fatal(self.other_cell(found())),
            _ if code == NO_SUCH_REVISION => return End::Fatal(self.older()),
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated if !code.is_empty() => {
                return End::Fatal(WatchError::Refused(format!("{code}: {}", status.message())));
            }
            _ => {}
        }
        let reason = if code.is_empty() { words(status) } else { format!("{code}: {}", words(status)) };
        let loss = if code.is_empty() { Loss::NoConnection } else { Loss::ByCell };
        End::Lost { loss, reason, retry_micros: retry_micros_of(status) }
    }

    fn useless(&self, useless: Useless) -> End {
        match useless {
            Useless::Unread(reason) => End::Unread(reason),
            Useless::OtherCell(id) => End::Fatal(self.other_cell(address::hexadecimal(&id))),
            Useless::Older => End::Fatal(self.older()),
            Useless::Late => {
                let reason = "what it tells has been old for half a minute".into();
                End::Lost { loss: Loss::NoConnection, reason, retry_micros: 0 }
            }
        }
    }

    fn other_cell(&self, found: String) -> WatchError {
        let followed = &self.picture.seen().cell_id;
        let meant = if followed.is_empty() { self.meant.clone() } else { address::hexadecimal(followed) };
        WatchError::OtherCell { meant, found }
    }

    fn older(&self) -> WatchError {
        let (incarnation, revision) = self.picture.seen().standing();
        WatchError::Older { incarnation, revision }
    }
}

/// Microseconds since the machine was booted, by a clock that is never set and goes on while the machine sleeps: what was heard before is old then.
fn since_boot_micros() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let since_boot = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
    i64::try_from(since_boot.as_micros()).unwrap_or(i64::MAX)
}

/// Opens a stream. A server that shows that it is there is then waited for without end, as it may have much to read.
fn call(mut client: CellClient<Signed>, hello: v1::Hello) -> Call {
    let followed = address::cell(&hello.cell_id);
    let mut request = Request::new(hello);
    // Who is asked so says which cell it is, if it is another one.
    if let Some(cell) = followed {
        request.metadata_mut().insert(CELL_KEY, cell);
    }
    Box::pin(async move {
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.watch(request)).await;
        let late = |_| Status::deadline_exceeded(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
        Ok(answer.map_err(late)??.into_inner())
    })
}

#[cfg(test)]
mod tests {
    use plenum_proto::error::CODE_KEY;

    use super::*;
    use crate::client::Client;

    // Who looked for a network that fails found none: the cell had answered.
    #[tokio::test]
    async fn that_the_cell_ended_the_stream_is_told_apart_from_a_connection_that_is_gone() {
        let watch = Client::new("http://127.0.0.1:1", "user/ann").unwrap().watch();
        let mut full = Status::resource_exhausted("all that is arriving takes too much room");
        full.metadata_mut().insert(CODE_KEY, "QUEUE_FULL".parse().unwrap());
        let loss = |status: &Status| match watch.end_of(status) {
            End::Lost { loss, .. } => loss,
            End::Unread(_) | End::Fatal(_) => panic!("it is asked again"),
        };
        assert_eq!([&full, &Status::unavailable("gone")].map(loss), [Loss::ByCell, Loss::NoConnection]);
    }
}
