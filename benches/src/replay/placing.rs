//! How machines are chosen: a policy of the cell's by its name, with a seed for ties.

use plenum_model::Resources;
use plenum_policies::{Columns, Eligible, Policy, Request, Settings, Suits, Ties, choose};

/// What tasks ask for besides room; by default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asks<'a> {
    /// The machines that meet constraints, and how much each is wished for.
    pub(crate) eligible: Option<&'a Eligible>,
    /// What else a machine must be.
    pub(crate) suits: Option<Suits<'a>>,
    /// Another one for each decision of a replay.
    pub(crate) turn: u64,
}

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

    /// Machines for up to `count` equal tasks, best first.
    pub(crate) fn choose(&self, columns: &Columns, each: &Resources, count: u32, asks: Asks<'_>) -> Vec<u32> {
        let Asks { eligible, suits, turn } = asks;
        let request = Request { eligible, suits, ..Request::new(each, Settings { turn, ..self.settings }) };
        choose(columns, &request, self.policy, count)
    }
}
