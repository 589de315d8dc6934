//! Resources that a cell named itself, where they are asked for by their positions. Judged at the door and not by the core: logs have jobs, quotas and
//! holds of others, and what was decided of these stays so.

use std::fmt::Display;
use std::sync::Arc;

use plenum_model::{CUSTOM_RESOURCES, Command};
use tonic::Code;

use crate::api::failure::Failure;

/// Fails where a job, a quota or a hold is about some of a resource that the cell has not named: who asks for it by name hears so, and mostly no machine
/// has any, so that the job would wait for ever. What machines have is not judged: one whose agent says it has more would be lost, and harms nobody.
pub(in crate::api) fn check(command: &Command, named: &[Arc<str>]) -> Result<(), Failure> {
    match command {
        Command::SubmitJob { shape, .. } => shape.groups.iter().enumerate().try_for_each(|(at, group)| {
            check_amounts(format_args!("spec.shape.groups[{at}].resources"), &group.resources.custom, named)
        }),
        Command::SetQuota { limit: Some(limit), .. } => {
            let [_, _, _, custom @ ..] = limit.limits;
            check_amounts("limit", &custom.map(Option::unwrap_or_default), named)
        }
        // Without machines it is given back.
        Command::TakeHold { machines, resources, .. } if !machines.is_empty() => {
            check_amounts("resources", &resources.custom, named)
        }
        _ => Ok(()),
    }
}

fn check_amounts(field: impl Display, custom: &[u64; CUSTOM_RESOURCES], named: &[Arc<str>]) -> Result<(), Failure> {
    let unnamed = custom.iter().enumerate().skip(named.len()).find(|(_, amount)| **amount > 0);
    let Some((position, amount)) = unnamed else { return Ok(()) };
    let message = format!(
        "{field}.custom[{position}]: expected amounts of the resources that this cell has named ({}), in that order, and 0 behind them, found {amount}",
        words(named)
    );
    Err(Failure::new(Code::NotFound, "NO_SUCH_RESOURCE", message))
}

/// The cell's own resources, for people.
pub(in crate::api) fn words(named: &[Arc<str>]) -> String {
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}
