//! A framework that schedules by the clock, in less than a hundred lines: it launches recurring jobs that name `cron` as their scheduler at the
//! times that their option `every` asks for. What is launched is placed by whom the option `launch.scheduler` names.
//!
//! It keeps nothing: the cell knows each job's last instant, and launches none twice. So it may be killed at any moment, and two of
//! it may run at once.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to people")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plenum_sdk::api::{JobKind, JobView, LaunchRequest, ListRequest};
use plenum_sdk::{Client, RunError, asked_to_end, code_of, tonic::Status, words};

/// The name that jobs ask for.
const NAME: &str = "cron";

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often it tries again when nothing can be launched.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// The newest instant for which a job is due, if it was not launched for that yet: a multiple of its period, such as `every = "30s"`, in microseconds
/// since 1970; `None` of a job that names none. Those that were missed before it, as while nobody was there to launch, are left out.
fn due(job: &JobView, now_micros: i64) -> Option<i64> {
    let shape = job.shape.as_ref().filter(|shape| shape.kind() == JobKind::Recurring)?;
    let seconds: i64 = shape.options.get("every")?.strip_suffix('s')?.parse().ok().filter(|seconds| *seconds > 0)?;
    let instant = now_micros - now_micros % seconds.checked_mul(1_000_000)?;
    // One that was submitted just now waits for its next time, also where it was stopped before and is there again.
    let earliest = job.last_instant_micros.unwrap_or(0).max(job.submitted_micros);
    (instant > earliest).then_some(instant)
}

/// Launches what is due in the cell now.
async fn launch_all(client: &Client) -> Result<(), Status> {
    let request = ListRequest { filter: format!("scheduler={NAME},state=waiting"), ..ListRequest::default() };
    let listed = client.jobs().list(request).await?.into_inner();
    if listed.truncated {
        eprintln!("there are more jobs of {NAME} than a listing has: those beyond it are not launched");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    for job in listed.jobs {
        let Some((instant, shape)) = due(&job, now).zip(job.shape.as_ref()) else { continue };
        let (namespace, name) = (shape.namespace.clone(), shape.name.clone());
        let request = LaunchRequest { namespace, name, instant_micros: Some(instant) };
        match client.jobs().launch(request).await {
            // Another process of this program may have been faster: the answer is the same then.
            Ok(answer) => {
                let answer = answer.into_inner();
                println!("{} {}", if answer.changed { "launched" } else { "found" }, answer.name);
            }
            Err(status) => match code_of(&status) {
                // Launched for a later instant meanwhile, or stopped.
                "INSTANT_PASSED" | "JOB_OVER" | "NO_SUCH_JOB" => {}
                // No answer came, or an operator wants none of these jobs to be launched.
                "" | "SCHEDULER_PAUSED" => return Err(status),
                // This one can't be launched now, such as because it is scaled to no tasks. The others can.
                code => eprintln!("{code}: {}: {}", shape.name, words(&status)),
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
        loop {
            let pause = match launch_all(&client).await {
                Ok(()) => LOOK_EVERY,
                // A cell that restarts is no reason to end: what is due then is launched then.
                Err(status) => {
                    eprintln!("{}", words(&status));
                    RETRY_EVERY
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
