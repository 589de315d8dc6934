//! A framework that schedules by the clock, in less than two hundred lines: it launches recurring jobs that name `cron` as their scheduler at the
//! times that their option `every` asks for. What is launched is placed by whom the option `launch.scheduler` names.
//!
//! It keeps nothing: the cell knows each job's last instant, and launches none twice (one that was restored knows those of its backup). So it may be killed
//! at any moment, and two of it may run at once.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to people")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plenum_sdk::api::{JobKind, JobShape, JobView, LaunchRequest, ListRequest};
use plenum_sdk::{Client, RunError, asked_to_end, code_of, is_unanswered, retry_micros_of, tonic::Status, words};

/// The name that jobs ask for.
const NAME: &str = "cron";

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long it waits where something can't be launched, if the cell asks for nothing else.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// At most, whatever the cell asks for: an operator may have helped meanwhile.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What was said last of a job or of the cell, and until when it rests. All are looked at twice a second, be it for days: what is known already is not said again.
#[derive(Default)]
struct Troubles(BTreeMap<String, (String, Instant)>);

impl Troubles {
    /// Whether `what` has to be said; from now on it is known.
    fn is_new(&mut self, whom: &str, what: &str, rest: Duration) -> bool {
        let before = self.0.insert(whom.to_owned(), (what.to_owned(), Instant::now() + rest));
        before.is_none_or(|(before, _)| before != what)
    }

    fn say(&mut self, whom: &str, what: &str, rest: Duration) {
        if self.is_new(whom, what, rest) {
            eprintln!("{whom}: {what}");
        }
    }

    fn rests(&self, whom: &str) -> bool {
        self.0.get(whom).is_some_and(|(_, until)| Instant::now() < *until)
    }
}

/// A job with its namespace. The slash tells it from the cell.
fn name_of(shape: &JobShape) -> String {
    format!("{}/{}", shape.namespace, shape.name)
}

/// The newest instant for which a job is due, if it was not launched for that yet: a multiple of its period, such as `every = "30s"`, in microseconds
/// since 1970. Those that were missed before it, as while nobody was there to launch, are left out.
///
/// # Errors
/// Why it never is.
fn due(job: &JobView, now_micros: i64) -> Result<Option<i64>, String> {
    let shape = job.shape.as_ref().filter(|shape| shape.kind() == JobKind::Recurring);
    let shape =
        shape.ok_or_else(|| format!("never launched: it is not recurring, and {NAME} places nothing itself"))?;
    let every = shape.options.get("every").map_or("", String::as_str);
    let seconds = every.strip_suffix('s').and_then(|seconds| seconds.parse::<i64>().ok());
    let period = seconds.and_then(|seconds| seconds.checked_mul(1_000_000)).filter(|period| *period > 0);
    let period = period.ok_or_else(|| {
        format!("never launched: its option `every`: expected whole seconds, such as \"30s\", found {every:?}")
    })?;
    let instant = now_micros - now_micros % period;
    // One that was submitted just now waits for its next time, also where it was stopped before and is there again.
    let earliest = job.last_instant_micros.unwrap_or(0).max(job.submitted_micros);
    Ok((instant > earliest).then_some(instant))
}

/// Whether nothing at all can be launched now, be it this job or another one: the cell takes nothing from anybody, no answer came, or an operator wants none of
/// these jobs to be launched.
fn concerns_all(status: &Status) -> bool {
    let code = code_of(status);
    is_unanswered(status) || matches!(code, "" | "READ_ONLY" | "QUEUE_FULL" | "SERVER_ENDING" | "SCHEDULER_PAUSED")
}

/// How long to wait before the same is asked again.
fn rest_after(status: &Status) -> Duration {
    Duration::from_micros(retry_micros_of(status).unsigned_abs()).clamp(RETRY_AFTER, RETRY_AFTER_MAX)
}

/// Launches what is due in the cell now.
async fn launch_all(client: &Client, troubles: &mut Troubles) -> Result<(), Status> {
    let request = ListRequest { filter: format!("scheduler={NAME},state=waiting"), ..ListRequest::default() };
    let listed = client.jobs().list(request).await?.into_inner();
    if listed.truncated {
        let what = format!("there are more jobs of {NAME} than a listing has: those beyond it are not launched");
        troubles.say("listing", &what, Duration::ZERO);
    }
    let names: BTreeSet<String> = listed.jobs.iter().filter_map(|job| job.shape.as_ref()).map(name_of).collect();
    troubles.0.retain(|whom, _| names.contains(whom) || !whom.contains('/'));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    for job in listed.jobs {
        let Some(shape) = &job.shape else { continue };
        let whom = name_of(shape);
        let instant = match due(&job, now) {
            Ok(Some(instant)) if !troubles.rests(&whom) => instant,
            Ok(_) => continue,
            Err(why) => {
                troubles.say(&whom, &why, Duration::ZERO);
                continue;
            }
        };
        let (namespace, name) = (shape.namespace.clone(), shape.name.clone());
        let request = LaunchRequest { namespace, name, instant_micros: Some(instant) };
        match client.jobs().launch(request).await {
            // Another process of this program may have been faster: the answer is the same then.
            Ok(answer) => {
                let answer = answer.into_inner();
                println!("{} {}", if answer.changed { "launched" } else { "found" }, answer.name);
                troubles.0.remove(&whom);
            }
            Err(status) if concerns_all(&status) => return Err(status),
            Err(status) => match code_of(&status) {
                // Launched for a later instant meanwhile, or stopped.
                "INSTANT_PASSED" | "JOB_OVER" | "NO_SUCH_JOB" => {}
                // This one can't be launched now, such as because it is scaled to no tasks. The others can.
                code => troubles.say(&whom, &format!("{code}: {}", words(&status)), rest_after(&status)),
            },
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), RunError> {
    let address = std::env::var("PLENUM_ADDR").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
    // Whoever is this principal may read all jobs, and launch from those of this scheduler.
    let client = Client::new(&address, "scheduler/cron")?;
    let work = async {
        let mut troubles = Troubles::default();
        loop {
            let pause = match launch_all(&client, &mut troubles).await {
                Ok(()) => {
                    troubles.0.remove("cell");
                    LOOK_EVERY
                }
                // A cell that restarts is no reason to end: what is due then is launched then.
                Err(status) => {
                    let rest = rest_after(&status);
                    troubles.say("cell", &words(&status), rest);
                    rest
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = asked_to_end() => {}
        () = work => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
