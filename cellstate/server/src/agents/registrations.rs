//! Registrations under way: which of them are decided at the same time, and in which order.
//!
//! A state machine without clock, and without threads. What was registered already is the business of [`super::Leases`].

use std::collections::BTreeMap;

/// Who asks to register a machine, and when that one asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// The agent's directory.
    pub instance: String,
    /// Changes when the machine boots, and the count of microseconds begins anew.
    pub boot_id: String,
    /// Since the machine booted, in microseconds; 0: it isn't said.
    pub micros: u64,
}

impl Asking {
    /// Whether both are by the same directory in the same boot, and say when, so that one can be told to be the earlier.
    fn are_in_order(&self, other: &Self) -> bool {
        (&self.instance, &self.boot_id) == (&other.instance, &other.boot_id) && self.micros > 0 && other.micros > 0
    }
}

/// Why a registration is not to be decided now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// An agent of another directory registers the machine.
    Another,
    /// The same agent, or its successor, has asked later than this.
    Late,
    /// One that was asked for earlier by the same agent, or its predecessor, is not decided yet: it could be decided behind this one.
    Earlier,
}

/// See the module. Bounded by the calls that a server serves at a time, and by the requests that wait for it: one that is queued outlives its call.
#[derive(Debug, Default)]
pub struct Registrations {
    /// By the machine's name.
    under_way: BTreeMap<String, Asking>,
}

impl Registrations {
    /// Somebody wants to register a machine of this name. True: to be told to [`Registrations::end`]; false: it is decided beside the one that
    /// is under way, which will.
    ///
    /// # Errors
    /// Says what is in its way.
    pub fn begin(&mut self, name: &str, asking: &Asking) -> Result<bool, Hindrance> {
        let Some(other) = self.under_way.get(name) else {
            self.under_way.insert(name.to_owned(), asking.clone());
            return Ok(true);
        };
        if other.instance != asking.instance {
            return Err(Hindrance::Another);
        }
        match asking.micros.cmp(&other.micros) {
            std::cmp::Ordering::Less if asking.are_in_order(other) => Err(Hindrance::Late),
            std::cmp::Ordering::Greater if asking.are_in_order(other) => Err(Hindrance::Earlier),
            _ => Ok(false),
        }
    }

    /// What began is over.
    pub fn end(&mut self, name: &str) {
        self.under_way.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(instance: &str, boot: &str, micros: u64) -> Asking {
        Asking { instance: instance.into(), boot_id: boot.into(), micros }
    }

    #[test]
    fn one_instance_registers_a_name_at_a_time() {
        let mut registrations = Registrations::default();
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 0)), Ok(true));
        assert_eq!(registrations.begin("m1", &asking("b", "boot", 0)), Err(Hindrance::Another));
        assert_eq!(registrations.begin("m2", &asking("b", "boot", 0)), Ok(true));
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 0)), Ok(false), "the same one may ask again");
        registrations.end("m1");
        assert_eq!(registrations.begin("m1", &asking("b", "boot", 0)), Ok(true));
    }

    #[test]
    fn what_one_agent_asks_for_is_decided_in_the_order_in_which_it_asked() {
        let mut registrations = Registrations::default();
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 20)), Ok(true));
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 10)), Err(Hindrance::Late));
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 30)), Err(Hindrance::Earlier));
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 20)), Ok(false), "the same call came twice");
        // Who doesn't say when it asked, or counts from another boot, is judged by what it has heard of.
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 0)), Ok(false));
        assert_eq!(registrations.begin("m1", &asking("a", "boot-2", 10)), Ok(false));
        registrations.end("m1");
        assert_eq!(registrations.begin("m1", &asking("a", "boot", 30)), Ok(true));
    }
}
