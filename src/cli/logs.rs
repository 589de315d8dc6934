//! `plenum alloc logs`: what an allocation printed, also past restarts of its agent and of the server.

use std::{process, time::Duration};

use plenum_proto::v1::{AllocationState, GetAllocationRequest, LogChunk, LogsRequest};
use tokio::time::Instant;
use tonic::Status;

use super::{
    Context,
    colours::{self, Colours},
    gaps,
    silence::{Silence, found},
};
use crate::{
    connect::Connection,
    failure::{EXIT_INTERRUPTED, Failure},
    output,
};

/// How long who follows waits before the log is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long an agent is waited for whose allocation has ended.
const ENDED_PATIENCE: Duration = Duration::from_secs(15);

/// How long it is looked whether a task printed anything on standard error.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// What is printed, and where it goes on.
struct Log {
    asked: LogsRequest,
    lines: gaps::Lines,
    /// Something came, or was there once.
    has_any: bool,
    /// Something was printed, and the agent did not say where that ends.
    is_placeless: bool,
    colours: Colours,
}

/// Prints it to its end. Who follows goes on where it broke off, as long as more may come.
pub(super) async fn print(context: &Context, request: LogsRequest) -> Result<(), Failure> {
    let connection = context.connect().await?;
    let (colours, interrupted) = Colours::of_output();
    let mut log = Log { colours, ..Log::of(request) };
    let reading = async {
        let reading = log.read_on(&connection);
        // Who follows may wait for hours for the next line, which nobody would read.
        if request.follow { output::while_read(reading).await } else { reading.await }
    };
    let outcome = tokio::select! {
        biased;
        outcome = reading => outcome,
        () = interrupted => {
            colours::put_back();
            process::exit(EXIT_INTERRUPTED.into())
        }
    };
    let has_any = log.has_any;
    let printed = finish(std::mem::take(&mut log.lines), outcome, |bytes| log.print(bytes));
    log.colours.put_back();
    printed?;
    // What was printed before is not asked for with `only_new`.
    if !has_any && !request.only_new {
        tell_of_the_other(&connection, request).await;
    }
    Ok(())
}

/// Says that nothing was printed, and where all is that was, if it went to the other one of standard output and standard error. That this can't be found
/// out is no failure.
async fn tell_of_the_other(connection: &Connection, request: LogsRequest) {
    let LogsRequest { allocation, stderr, .. } = request;
    let asked = LogsRequest { allocation, stderr: !stderr, tail_lines: 1, ..LogsRequest::default() };
    if let Ok(Ok(has_other)) = tokio::time::timeout(LOOK_MAX, prints(connection, asked)).await {
        output::tell(&nothing_words(&output::allocation_id(allocation), stderr, has_other));
    }
}

fn nothing_words(id: &str, stderr: bool, has_other: bool) -> String {
    match (has_other, stderr) {
        (false, _) => format!("nothing was printed; `plenum alloc show {id}` tells what became of it"),
        (true, false) => format!(
            "it printed nothing on standard output; `plenum alloc logs {id} --stderr` has what it printed on standard error"
        ),
        (true, true) => {
            format!(
                "it printed nothing on standard error; `plenum alloc logs {id}` has what it printed on standard output"
            )
        }
    }
}

/// Whether there is anything of a log.
async fn prints(connection: &Connection, asked: LogsRequest) -> Result<bool, Status> {
    let mut chunks = connection.jobs().logs(asked).await?.into_inner();
    while let Some(chunk) = chunks.message().await? {
        if !chunk.data.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Prints what is left, also where the log broke off: it had come.
fn finish(
    lines: gaps::Lines,
    outcome: Result<(), Failure>,
    print: impl FnOnce(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let printed = print(&lines.rest());
    outcome.and(printed)
}

impl Log {
    fn of(asked: LogsRequest) -> Self {
        let (lines, colours) = (gaps::Lines::default(), Colours::default());
        Self { asked, lines, has_any: false, is_placeless: false, colours }
    }

    async fn read_on(&mut self, connection: &Connection) -> Result<(), Failure> {
        let mut away = Away::default();
        while let Err(failure) = self.read(connection, &mut away).await {
            if !self.asked.follow || self.is_placeless {
                return Err(failure);
            }
            away.wait(connection, self.asked.allocation, failure).await?;
        }
        Ok(())
    }

    async fn read(&mut self, connection: &Connection, away: &mut Away) -> Result<(), Failure> {
        let follow = self.asked.follow;
        let mut jobs = connection.jobs();
        let mut chunks = next(connection, follow, jobs.logs(self.asked)).await?.into_inner();
        // It takes back that the cell did not answer.
        found(Ok(()), &mut away.silence)?;
        *away = Away::default();
        while let Some(chunk) = next(connection, follow, chunks.message()).await? {
            self.note(&chunk);
            let (ends, data) = self.lines.of(&chunk);
            if ends {
                output::print_bytes(b"\n")?;
            }
            // On standard error, as it is nothing that the task printed.
            if chunk.skipped > 0 {
                output::tell(&gaps::skipped_words(chunk.skipped));
            }
            self.print(&data)?;
        }
        Ok(())
    }

    /// Prints what the task printed.
    fn print(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.colours.see(bytes);
        output::print_bytes(bytes)
    }

    /// Whether there is anything, and where the next request goes on.
    fn note(&mut self, chunk: &LogChunk) {
        self.has_any |= !chunk.data.is_empty() || chunk.skipped > 0;
        self.is_placeless |= chunk.next.is_none() && !chunk.data.is_empty();
        self.asked.from = chunk.next.or(self.asked.from);
    }
}

/// What comes next. Who follows waits for as long as it takes.
async fn next<T>(
    connection: &Connection,
    follow: bool,
    part: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    if follow { part.await } else { connection.part_of_log(part).await }
}

/// Whoever does not answer a reader.
#[derive(Default)]
struct Away {
    silence: Option<Silence>,
    told_of_agent: bool,
    /// Since when the allocation is known to have ended.
    ended_since: Option<Instant>,
}

impl Away {
    /// Waits for a moment, where the log may go on after this failure; or gives it back.
    async fn wait(&mut self, connection: &Connection, allocation: u64, failure: Failure) -> Result<(), Failure> {
        if failure.code == "AGENT_GONE" {
            let request = GetAllocationRequest { allocation, at: None };
            let answer = connection.jobs().get_allocation(request).await.map_err(Failure::from);
            // What the cell does not know either is not waited for.
            let Ok(answer) = found(answer, &mut self.silence) else { return Err(failure) };
            if let Some(answer) = answer {
                // The word of its end may be here before its agent is asked for logs again.
                let ended = has_ended(answer.into_inner().state());
                if ended && self.ended_since.get_or_insert_with(Instant::now).elapsed() > ENDED_PATIENCE {
                    return Err(failure);
                }
                if !std::mem::replace(&mut self.told_of_agent, true) {
                    output::tell("the machine's agent is away at the moment; its log goes on when it is back");
                }
            }
        } else {
            found::<()>(Err(failure), &mut self.silence)?;
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}

/// Nothing more is printed.
fn has_ended(state: AllocationState) -> bool {
    match state {
        AllocationState::Unspecified
        | AllocationState::Complete
        | AllocationState::Failed
        | AllocationState::Stopped
        | AllocationState::Evicted
        | AllocationState::EndedLost => true,
        AllocationState::Granted
        | AllocationState::Starting
        | AllocationState::Running
        | AllocationState::Stopping
        | AllocationState::Evicting
        | AllocationState::Lost => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_behind_the_last_byte_whose_place_was_told() {
        let mut log = Log::of(LogsRequest::default());
        let chunk = |data: &'static str, next| LogChunk { data: data.into(), skipped: 0, next };
        let mut note = |chunk| {
            log.note(&chunk);
            (log.asked.from, log.is_placeless)
        };
        assert_eq!(note(chunk("", Some(0))), (Some(0), false), "nothing was printed yet");
        assert_eq!(note(chunk("", Some(70))), (Some(70), false));
        assert_eq!(note(chunk("one\n", Some(74))), (Some(74), false));
        assert_eq!(note(chunk("two\n", None)), (Some(74), true), "an agent of before");
    }

    // Of a task that was never started it printed nothing, and ended with 0.
    #[test]
    fn a_log_without_anything_in_it_says_so() {
        let told = nothing_words("alloc-7-1", true, false);
        assert_eq!(told, "nothing was printed; `plenum alloc show alloc-7-1` tells what became of it");
        assert_eq!(nothing_words("alloc-7-1", false, false), told);
        assert!(nothing_words("alloc-7-1", false, true).contains("`plenum alloc logs alloc-7-1 --stderr`"));
        assert!(nothing_words("alloc-7-1", true, true).contains("`plenum alloc logs alloc-7-1` has"));
    }

    // What had come behind a gap, up to 64 KiB, was held back for a line to begin in it, and gone when the log broke off before one did.
    #[test]
    fn what_was_held_back_is_printed_when_the_log_breaks_off() {
        let mut printed = Vec::new();
        for outcome in [Ok(()), Err(Failure::new("AGENT_GONE", "it is away"))] {
            let mut lines = gaps::Lines::default();
            let chunk = LogChunk { data: "10%\r20%".into(), skipped: 7, next: None };
            assert!(lines.of(&chunk).1.is_empty(), "it is held back");
            let finished = finish(lines, outcome, |bytes| {
                printed.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(())
            });
            printed.push(finished.map_or_else(|failure| failure.code, |()| "its end".to_owned()));
        }
        assert_eq!(printed, ["10%\r20%", "its end", "10%\r20%", "AGENT_GONE"]);
    }
}
