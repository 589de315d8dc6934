//! Who may call what: one table for all methods. What is not in it is not allowed.
//!
//! A method's row says which roles may call it at all. Which objects they may touch with it is checked where the object is known,
//! by the rules of [`Principal`].

use std::fmt;
use std::sync::Arc;

/// What a principal is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A process on this very machine, over loopback: may do everything.
    Local,
    /// Operates the cell.
    Operator,
    /// Owns jobs.
    User,
    /// Places tasks.
    Scheduler,
    /// Runs them.
    Agent,
}

impl Role {
    const ALL: [Self; 5] = [Self::Local, Self::Operator, Self::User, Self::Scheduler, Self::Agent];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Scheduler => "scheduler",
            Self::Agent => "agent",
        }
    }
}

/// Who a request comes from: `local`, or a role and a name, such as `agent/m1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    role: Role,
    /// Empty for `local`.
    name: Arc<str>,
    text: Arc<str>,
}

/// A principal that nobody can be, or may not do what it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has no known role, or no proper name.
    NoSuchPrincipal {
        /// What was there, cut and escaped.
        found: String,
    },
    /// There is no such method; newer servers may have it.
    NoMethod {
        /// What.
        method: String,
    },
    /// Its role may not call the method.
    Method {
        /// Who asked.
        principal: Arc<str>,
        /// What.
        method: String,
    },
    /// It may call the method, but not with this object.
    Object {
        /// Who asked.
        principal: Arc<str>,
        /// Such as `machine m2`.
        object: String,
        /// What it would have had to be.
        expected: String,
    },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPrincipal { found } => write!(
                f,
                "expected a principal such as local, operator/NAME, user/NAME, scheduler/NAME or agent/MACHINE, with names of up to 63 characters of \
                 a-z, 0-9, - and ., found {found}"
            ),
            Self::NoMethod { method } => {
                let (version, core) = (env!("CARGO_PKG_VERSION"), plenum_proto::log::CORE_VERSION);
                // Commands know this by ` has no method `.
                write!(f, "this server, of version {version} (core {core}), has no method {method}")
            }
            Self::Method { principal, method } => {
                let may: Vec<&str> =
                    row(method).map_or(&[][..], |row| row.roles).iter().map(|role| role.as_str()).collect();
                write!(f, "{principal} may not call {method}; expected one of: {}", may.join(", "))
            }
            Self::Object { principal, object, expected } => {
                write!(f, "{principal} may not touch {object}; expected {expected}")
            }
        }
    }
}

impl std::error::Error for Denied {}

impl Principal {
    /// The principal that is taken for granted on loopback.
    #[must_use]
    pub fn local() -> Self {
        Self { role: Role::Local, name: Arc::from(""), text: Arc::from("local") }
    }

    /// Reads a principal as it stands in the metadata `plenum-principal`.
    ///
    /// # Errors
    /// [`Denied::NoSuchPrincipal`]: names are matched whole, so nothing but names is let in.
    pub fn parse(text: &str) -> Result<Self, Denied> {
        if text == "local" {
            return Ok(Self::local());
        }
        let parts = text.split_once('/').filter(|(_, name)| plenum_model::is_name(name, true));
        let role = parts
            .and_then(|(role, _)| Role::ALL.into_iter().find(|known| known.as_str() == role && *known != Role::Local));
        match (role, parts) {
            (Some(role), Some((_, name))) => Ok(Self { role, name: Arc::from(name), text: Arc::from(text) }),
            _ => {
                let found: String = text.chars().take(80).collect();
                Err(Denied::NoSuchPrincipal { found: format!("{found:?}") })
            }
        }
    }

    /// How the requests of a scheduler with this name of its own are signed.
    #[must_use]
    pub(crate) fn of_scheduler(name: &str) -> Arc<str> {
        format!("{}/{name}", Role::Scheduler.as_str()).into()
    }

    /// As it is written, and logged.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// What it is there for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it may call a method, by its path: `/plenum.v1.Cell/Commit`.
    ///
    /// # Errors
    /// [`Denied::Method`]; [`Denied::NoMethod`] for those that have no row.
    pub fn may_call(&self, path: &str) -> Result<(), Denied> {
        let method = path.trim_start_matches('/');
        match row(method) {
            None => Err(Denied::NoMethod { method: method.chars().take(80).collect() }),
            Some(row) if row.roles.contains(&self.role) => Ok(()),
            Some(_) => Err(Denied::Method { principal: self.text.clone(), method: method.to_owned() }),
        }
    }

    /// An agent speaks for its own machine only.
    ///
    /// # Errors
    /// [`Denied::Object`].
    pub fn may_speak_for_machine(&self, machine: &str) -> Result<(), Denied> {
        self.must_be_named(Role::Agent, "machine", machine)
    }

    /// A scheduler opens sessions under its own name only.
    ///
    /// # Errors
    /// [`Denied::Object`].
    pub fn may_schedule_as(&self, scheduler: &str) -> Result<(), Denied> {
        self.must_be_named(Role::Scheduler, "scheduler", scheduler)
    }

    /// A session is used by whoever opened it; and by `local`, who may do everything, and operators, who look after what others have left.
    ///
    /// # Errors
    /// [`Denied::Object`].
    pub fn may_use_session_of(&self, owner: &str) -> Result<(), Denied> {
        if matches!(self.role, Role::Local | Role::Operator) || *self.text == *owner {
            return Ok(());
        }
        Err(Denied::Object {
            principal: self.text.clone(),
            object: "a session of somebody else".to_owned(),
            expected: "a session that it opened itself".to_owned(),
        })
    }

    /// Whether it may read what jobs do: their commands and environments.
    #[must_use]
    pub fn may_read_bodies(&self) -> bool {
        matches!(self.role, Role::Local | Role::Operator | Role::User)
    }

    fn must_be_named(&self, role: Role, what: &str, name: &str) -> Result<(), Denied> {
        if self.role != role || *self.name == *name {
            return Ok(());
        }
        Err(Denied::Object {
            principal: self.text.clone(),
            object: format!("{what} {name:?}"),
            expected: format!("its own, {:?}", self.name),
        })
    }
}

/// A row of the table.
struct Row {
    method: &'static str,
    roles: &'static [Role],
}

fn row(method: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.method == method)
}

const ANYBODY: &[Role] = &[Role::Local, Role::Operator, Role::User, Role::Scheduler, Role::Agent];
const READERS: &[Role] = &[Role::Local, Role::Operator, Role::User, Role::Scheduler];
/// Whoever owns jobs, or launches them on a schedule.
const LAUNCHERS: &[Role] = READERS;
const SCHEDULERS: &[Role] = &[Role::Local, Role::Operator, Role::Scheduler];
const OWNERS: &[Role] = &[Role::Local, Role::Operator, Role::User];
const OPERATORS: &[Role] = &[Role::Local, Role::Operator];
const AGENTS: &[Role] = &[Role::Local, Role::Agent];

macro_rules! table {
    ($($service:literal { $($method:literal: $roles:ident,)* })*) => {
        &[$($(Row { method: concat!($service, "/", $method), roles: $roles },)*)*]
    };
}

/// The table. A method without a row fails a test, and every call.
const TABLE: &[Row] = table! {
    "plenum.v1.Cell" {
        "Session": SCHEDULERS,
        "Watch": READERS,
        "Open": SCHEDULERS,
        "Wanted": SCHEDULERS,
        "Commit": SCHEDULERS,
        "PassOver": SCHEDULERS,
        "Close": SCHEDULERS,
        "TakeHold": SCHEDULERS,
    }
    "plenum.v1.Jobs" {
        "Submit": OWNERS,
        "Get": READERS,
        "List": READERS,
        "Stop": OWNERS,
        "Scale": OWNERS,
        "Launch": LAUNCHERS,
        "StopAllocation": OWNERS,
        "ListAllocations": READERS,
        "GetAllocation": READERS,
        "JobHistory": READERS,
        "AllocationHistory": READERS,
        "Logs": OWNERS,
    }
    "plenum.v1.Inspect" {
        "Status": READERS,
        "GetStatusAt": READERS,
        "Moment": READERS,
        "ListMachines": READERS,
        "GetMachine": READERS,
        "MachineHistory": READERS,
        "CellHistory": READERS,
        "CordonMachine": OPERATORS,
        "RemoveMachine": OPERATORS,
        "ListTransactions": READERS,
        "GetTransaction": READERS,
        "ListConflicts": READERS,
        "ListSessions": READERS,
        "Backup": OPERATORS,
    }
    "plenum.v1.Govern" {
        "DrainMachine": OPERATORS,
        "SetQuota": OPERATORS,
        "ListQuotas": READERS,
        "SetPartition": OPERATORS,
        "ListPartitions": READERS,
        "PauseScheduler": OPERATORS,
        "SetRights": OPERATORS,
        "ListSchedulers": READERS,
        "ListHolds": READERS,
        "GovernHistory": READERS,
        "ListUnknownTasks": READERS,
        "AdoptTask": OPERATORS,
    }
    "plenum.v1.Agents" {
        "Register": AGENTS,
        "Follow": AGENTS,
        "Report": AGENTS,
        "ReportMany": AGENTS,
        "SendLogs": AGENTS,
    }
    "grpc.health.v1.Health" {
        "Check": ANYBODY,
        "Watch": ANYBODY,
        "List": ANYBODY,
    }
    "grpc.reflection.v1.ServerReflection" {
        "ServerReflectionInfo": ANYBODY,
    }
    "grpc.reflection.v1alpha.ServerReflection" {
        "ServerReflectionInfo": ANYBODY,
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn methods() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(plenum_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = Vec::new();
        for file in &set.file {
            for service in &file.service {
                let names = service
                    .method
                    .iter()
                    .map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name()));
                methods.extend(names);
            }
        }
        methods
    }

    #[test]
    fn every_method_of_the_protocol_has_a_row_and_every_row_a_method() {
        let methods = methods();
        assert!(methods.len() > 20);
        for method in &methods {
            assert!(row(method).is_some(), "{method} has no row");
        }
        for row in TABLE.iter().filter(|row| row.method.starts_with("plenum.")) {
            assert!(methods.iter().any(|method| method == row.method), "{} is no method", row.method);
        }
    }

    #[test]
    fn each_role_gets_what_it_is_there_for_and_nothing_else() {
        let may = |principal: &str, method: &str| Principal::parse(principal).unwrap().may_call(method).is_ok();
        for (principal, allowed, forbidden) in [
            ("agent/m1", "Agents/Report", "Cell/Commit"),
            ("scheduler/batch", "Cell/Session", "Agents/Register"),
            ("user/ann", "Jobs/Submit", "Cell/Commit"),
            ("operator/op", "Inspect/RemoveMachine", "Agents/Report"),
            ("user/ann", "Inspect/Status", "Inspect/CordonMachine"),
            ("user/ann", "Govern/ListQuotas", "Govern/SetQuota"),
            ("scheduler/ml", "Cell/TakeHold", "Govern/PauseScheduler"),
            ("scheduler/cron", "Jobs/Launch", "Jobs/Submit"),
            ("operator/op", "Govern/DrainMachine", "Agents/Register"),
        ] {
            assert!(may(principal, &format!("/plenum.v1.{allowed}")), "{principal} {allowed}");
            assert!(!may(principal, &format!("/plenum.v1.{forbidden}")), "{principal} {forbidden}");
        }
        assert!(methods().iter().all(|method| may("local", method)));
        // By the role alone: no principal has a namespace, and so a user reads what jobs of all of them do.
        let reads = |principal: &&str| Principal::parse(principal).unwrap().may_read_bodies();
        let all = ["local", "operator/op", "user/ann", "scheduler/ml", "agent/m1"];
        assert_eq!(all.into_iter().filter(reads).collect::<Vec<_>>(), ["local", "operator/op", "user/ann"]);
        // Of a newer server: it is not there, which nobody has forbidden.
        let unknown = Principal::local().may_call("/plenum.v1.Cell/Unknown").unwrap_err();
        assert_eq!(unknown, Denied::NoMethod { method: "plenum.v1.Cell/Unknown".to_owned() });
        assert!(unknown.to_string().ends_with("), has no method plenum.v1.Cell/Unknown"), "{unknown}");
    }

    #[test]
    fn what_not_every_reader_may_call_is_what_stands_here_and_nothing_is_for_all_but_health() {
        let of = |roles: &[Role]| -> Vec<&str> {
            let rows = TABLE.iter().filter(|row| row.roles == roles);
            rows.filter_map(|row| row.method.strip_prefix("plenum.v1.")).collect()
        };
        let of_schedulers = ["Session", "Open", "Wanted", "Commit", "PassOver", "Close", "TakeHold"];
        assert_eq!(of(SCHEDULERS), of_schedulers.map(|method| format!("Cell/{method}")));
        let of_owners = ["Submit", "Stop", "Scale", "StopAllocation", "Logs"];
        assert_eq!(of(OWNERS), of_owners.map(|method| format!("Jobs/{method}")));
        let of_operators = [
            "Inspect/CordonMachine",
            "Inspect/RemoveMachine",
            "Inspect/Backup",
            "Govern/DrainMachine",
            "Govern/SetQuota",
            "Govern/SetPartition",
            "Govern/PauseScheduler",
            "Govern/SetRights",
            "Govern/AdoptTask",
        ];
        assert_eq!(of(OPERATORS), of_operators);
        let of_agents = ["Register", "Follow", "Report", "ReportMany", "SendLogs"];
        assert_eq!(of(AGENTS), of_agents.map(|method| format!("Agents/{method}")));
        assert!(of(ANYBODY).is_empty(), "{:?}", of(ANYBODY));
    }

    #[test]
    fn principals_are_matched_whole() {
        for text in
            ["", "root", "agent", "agent/", "agent/../m1", "agent/m1/", "Agent/m1", "local/x", "agent/m1\0", "user/ä"]
        {
            assert!(Principal::parse(text).is_err(), "{text:?}");
        }
        let agent = Principal::parse("agent/m1").unwrap();
        assert!(agent.may_speak_for_machine("m1").is_ok());
        assert!(agent.may_speak_for_machine("m11").is_err() && agent.may_speak_for_machine("m").is_err());
        assert!(Principal::parse("scheduler/batch").unwrap().may_schedule_as("service").is_err());
        assert!(Principal::local().may_speak_for_machine("m1").is_ok());
        let may_use = |principal: &&str| Principal::parse(principal).unwrap().may_use_session_of("scheduler/b").is_ok();
        let all = ["local", "operator/op", "user/ann", "scheduler/a", "scheduler/b", "agent/m1"];
        assert_eq!(all.into_iter().filter(may_use).collect::<Vec<_>>(), ["local", "operator/op", "scheduler/b"]);
    }

    #[test]
    fn a_denial_says_who_may() {
        let denied = Principal::parse("agent/m1").unwrap().may_call("/plenum.v1.Jobs/Submit").unwrap_err();
        assert_eq!(
            denied.to_string(),
            "agent/m1 may not call plenum.v1.Jobs/Submit; expected one of: local, operator, user"
        );
    }
}
