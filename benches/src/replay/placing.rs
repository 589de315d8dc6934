//! How machines are chosen: a policy of the cell's by its name, with a seed for ties.

use plenum_model::Resources;
use plenum_policies::{Columns, Eligible, Policy, Request, Settings, Ties, choose};

/// A policy, and whether its ties are broken at random.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placing {
    policy: Policy,
    settings: Settings,
}

impl Placing {
    /// The policy of that name. Without a seed the lowest slot wins a tie.
    ///
    /// # Errors
    /// When there is none; the known ones are named.
    pub(crate) fn named(name: &str, seed: Option<u64>) -> anyhow::Result<Self> {
        let names = Policy::ALL.map(Policy::name).join(", ");
        let policy =
            Policy::named(name).ok_or_else(|| anyhow::anyhow!("--policy: expected some of {names}, found {name:?}"))?;
        let ties = if seed.is_some() { Ties::Seeded } else { Settings::default().ties };
        let settings = Settings { seed: seed.unwrap_or(0), ties, ..Settings::default() };
        Ok(Self { policy, settings })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.policy.name()
    }

    /// Machines for up to `count` equal tasks, best first; only on those that are eligible, where that is told. `turn` is another one for each
    /// decision of a replay.
    pub(crate) fn choose(
        &self,
        columns: &Columns,
        eligible: Option<&Eligible>,
        each: &Resources,
        count: u32,
        turn: u64,
    ) -> Vec<u32> {
        let request = Request { eligible, ..Request::new(each, Settings { turn, ..self.settings }) };
        choose(columns, &request, self.policy, count)
    }
}
