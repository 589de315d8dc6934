//! `plenum scheduler`: built-in schedulers, all on one thread.

use plenum_schedulers::{NAMES, SchedulerError, SchedulerOptions, asked_to_end};
use tokio::{
    sync::watch,
    task::{JoinSet, LocalSet},
};

use super::{causes, trace};
use crate::{
    address,
    cli::{self, Context, block_on},
    failure::Failure,
    job_file::guess,
    parent,
};

/// Runs built-in schedulers until they are asked to end.
pub(crate) fn scheduler(context: &Context, options: &cli::Scheduler) -> Result<(), Failure> {
    parent::follow(options.with_parent.with_parent)?;
    if let Some(name) = options.names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        let guess = guess(name, NAMES.iter().copied());
        let what = format!("there is no built-in scheduler `{name}`; there are {}{guess}", NAMES.join(" and "));
        return Err(Failure::new("NO_SUCH_SCHEDULER", what)
            .with_hint("a scheduler of one's own is a program of its own; it needs only the cell's address"));
    }
    named_once(&options.names)?;
    let address = address::url(&context.address)?;
    let _last_words = trace::begin()?;
    block_on(all(&address, &options.names))?
}

/// Two sessions of one name share its jobs: in one process, on one thread, they would only be in each other's way.
fn named_once(names: &[String]) -> Result<(), Failure> {
    let twice = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name));
    match twice {
        Some((_, name)) => Err(Failure::usage(format!("scheduler `{name}` is named twice; expected each one once"))
            .with_hint(format!("to have its jobs shared by two, start `plenum scheduler {name}` once more"))),
        None => Ok(()),
    }
}

/// Runs all of them; the first that fails ends the others.
async fn all(address: &str, names: &[String]) -> Result<(), Failure> {
    let (end, ending) = watch::channel(false);
    let local = LocalSet::new();
    let mut schedulers = JoinSet::new();
    for name in names {
        let (name, address, mut ending) = (name.clone(), address.to_owned(), ending.clone());
        let scheduler = async move {
            let shutdown = async move {
                let _ = ending.wait_for(|is_ending| *is_ending).await;
            };
            plenum_schedulers::run(&name, SchedulerOptions::new(address), shutdown).await
        };
        schedulers.spawn_local_on(scheduler, &local);
    }
    local
        .run_until(async {
            let mut finish = std::pin::pin!(finish(schedulers));
            tokio::select! {
                result = &mut finish => result,
                () = asked_to_end() => {
                    end.send_replace(true);
                    finish.await
                }
            }
        })
        .await
}

/// Waits until all have ended, or one has failed, whichever that is.
async fn finish(mut schedulers: JoinSet<Result<(), SchedulerError>>) -> Result<(), Failure> {
    while let Some(ended) = schedulers.join_next().await {
        match ended {
            Ok(result) => result.map_err(|error| failure(&error))?,
            Err(error) => return Err(Failure::new("INTERNAL", format!("a scheduler failed: {error}"))),
        }
    }
    Ok(())
}

fn failure(error: &SchedulerError) -> Failure {
    Failure::new("USAGE", causes(error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // They were waited for one after the other: what became of the second was not seen before the first had ended, which it never does.
    #[test]
    fn a_scheduler_that_fails_ends_the_others_whichever_it_is() {
        let failed = block_on(async {
            let mut schedulers = JoinSet::new();
            schedulers.spawn(std::future::pending());
            let unknown = SchedulerError::Unknown { name: "gang".to_owned() };
            schedulers.spawn(async { Err(unknown) });
            tokio::time::timeout(Duration::from_secs(10), finish(schedulers)).await
        });
        assert!(matches!(failed, Ok(Ok(Err(_)))), "{failed:?}");
    }
}
