//! Decisions about GPUs: the mean over all tasks that arrive until they ask for 130% of a generated cell's GPUs, from an empty cell to a full one.
//!
//! What a task changes is in it: after each, the row of its machine is another one, and is scored again by whoever asks about it next. So is the first
//! task of each shape, for which all machines are scored.

use anyhow::ensure;
use serde_json::json;

use super::{NAME, Others};
use crate::Run;
use crate::figure::{Better, Case, by_name};
use crate::inflation::{generated, inflate, orders};
use crate::kept::Kept;

/// As many as the published cell has.
const MACHINES: u32 = 1213;

/// The ones that expect work, and so do the most for a decision.
const POLICIES: [&str; 2] = ["fgd", "worth"];

pub(super) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    for policy in POLICIES {
        let name = format!("machines={MACHINES} policy={policy}");
        if !options.has_case(&name) {
            continue;
        }
        let workload = generated::workload(MACHINES, options.seed, 0);
        let others = Others::look(vec![std::process::id()])?;
        let conditions = orders::own(&workload, options.seed);
        let mut samples = Vec::new();
        for _ in 0..if options.quick { 5 } else { 15 } {
            let inflated = inflate(&workload, policy, &conditions)?;
            ensure!(inflated.placed > 0 && inflated.failed > 0, "{name}: expected a cell that is full in the end");
            samples.push(inflated.decision_seconds);
        }
        let parameters = [
            ("tasks", json!(conditions.arrivals.len())),
            ("clock", json!("wall")),
            ("cores_of_others", json!(others.cores()?)),
        ];
        let parameters = by_name(parameters);
        let case = Case { suite: NAME, case: &name, parameters };
        kept.add([case.figure("decision_seconds", "s", Better::Lower, samples)?]);
    }
    Ok(())
}
