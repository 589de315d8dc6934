//! `plenum scheduler`: built-in schedulers, all on one thread.

use plenum_schedulers::{NAMES, SchedulerError, SchedulerOptions};
use tokio::{sync::watch, task::LocalSet};

use super::{asked_to_end, causes, trace};
use crate::{
    cli::{self, Context, block_on},
    connect,
    failure::Failure,
    parent,
};

/// Runs built-in schedulers until they are asked to end.
pub(crate) fn scheduler(context: &Context, options: &cli::Scheduler) -> Result<(), Failure> {
    parent::follow(options.with_parent.with_parent)?;
    if let Some(name) = options.names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        let what = format!("there is no built-in scheduler `{name}`; there are {}", NAMES.join(" and "));
        return Err(Failure::new("NO_SUCH_SCHEDULER", what)
            .with_hint("a scheduler of one's own is a program of its own; it needs only the cell's address"));
    }
    let address = connect::url(&context.address)?;
    trace::begin();
    block_on(all(&address, &options.names))?
}

/// Runs all of them; the first that fails ends the others.
async fn all(address: &str, names: &[String]) -> Result<(), Failure> {
    let (end, ending) = watch::channel(false);
    let local = LocalSet::new();
    let schedulers: Vec<_> = names
        .iter()
        .map(|name| {
            let (name, address, mut ending) = (name.clone(), address.to_owned(), ending.clone());
            local.spawn_local(async move {
                let shutdown = async move {
                    let _ = ending.wait_for(|is_ending| *is_ending).await;
                };
                plenum_schedulers::run(&name, SchedulerOptions::new(address), shutdown).await
            })
        })
        .collect();
    local
        .run_until(async {
            let finish = async {
                for scheduler in schedulers {
                    match scheduler.await {
                        Ok(result) => result.map_err(|error| failure(&error))?,
                        Err(error) => return Err(Failure::new("INTERNAL", format!("a scheduler failed: {error}"))),
                    }
                }
                Ok(())
            };
            tokio::pin!(finish);
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

fn failure(error: &SchedulerError) -> Failure {
    Failure::new("USAGE", causes(error))
}
