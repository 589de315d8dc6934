//! The fields of rows by which listings are narrowed down: what `filter` of their requests takes. A field that ends in `.` stands for all that begin so.

/// Jobs.
pub const JOBS: &[&str] =
    &["name", "namespace", "scheduler", "state", "priority", "runs", "waiting", "failing", "unreachable", "parent"];
/// Allocations.
pub const ALLOCATIONS: &[&str] =
    &["id", "namespace", "job", "group", "machine", "scheduler", "state", "ready", "task_index", "attempt"];
/// Tasks that the cell does not know.
pub const UNKNOWN_TASKS: &[&str] = &["machine", "job"];
/// Machines.
pub const MACHINES: &[&str] = &["name", "state", "epoch", "attr."];
/// Sessions of schedulers.
pub const SESSIONS: &[&str] = &["scheduler", "principal", "connected"];
/// Schedulers.
pub const SCHEDULERS: &[&str] = &["name", "paused"];
/// Quotas.
pub const QUOTAS: &[&str] = &["namespace"];
/// Partitions.
pub const PARTITIONS: &[&str] = &["name"];
/// Holds.
pub const HOLDS: &[&str] = &["job"];
/// Transactions.
pub const TRANSACTIONS: &[&str] = &["scheduler", "outcome", "divergent", "job", "machine"];
/// Conflicts, whatever they are grouped by.
pub const CONFLICTS: &[&str] = &["loser", "winner", "machine", "job", "namespace", "resource"];

/// Fields as people write them, in a list.
#[must_use]
pub fn words(fields: &[&str]) -> String {
    let written =
        fields.iter().map(|field| if field.ends_with('.') { format!("{field}NAME") } else { (*field).into() });
    written.collect::<Vec<String>>().join(", ")
}
