//! Telling of tasks of which the kernel killed processes for want of memory, and which go on without them. How those ended that did not, their ends tell.
//!
//! Nothing of a task is read while nothing is killed on the whole machine, which one file tells.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cgroup::{self, AgentCgroup},
    threads::on_a_thread,
};

/// How often it is looked, and so how often at most the log tells of one task.
const EVERY: Duration = Duration::from_secs(60);

/// Looks for as long as the agent runs. Without control groups nobody counts.
pub(super) async fn watch(cgroup: Option<AgentCgroup>) {
    let Some(cgroup) = cgroup else { return };
    let mut kills = Kills::default();
    loop {
        let cgroup = cgroup.clone();
        kills = on_a_thread(move || {
            for (allocation, killed) in kills.look(cgroup::oom_kills_of_machine(), || cgroup.oom_kills()) {
                tracing::warn!(allocation, killed, "processes of a task were killed for want of memory");
            }
            kills
        })
        .await;
        tokio::time::sleep(EVERY).await;
    }
}

/// What was counted at the last look.
#[derive(Debug, Default)]
struct Kills {
    machine: u64,
    /// By task, of those of which some were killed.
    tasks: BTreeMap<String, u64>,
}

impl Kills {
    /// Of which tasks more were killed than at the last look, and how many more. The first look tells of all that run: an agent before may not have lived
    /// to tell.
    fn look(&mut self, machine: u64, tasks: impl FnOnce() -> BTreeMap<String, u64>) -> Vec<(String, u64)> {
        if std::mem::replace(&mut self.machine, machine) == machine {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.tasks, tasks());
        let more = |(task, &kills): (&String, &u64)| {
            // A task that was started again has a new group, which has counted none before.
            let known = before.get(task).copied().filter(|known| *known <= kills).unwrap_or(0);
            (kills > known).then(|| (task.clone(), kills - known))
        };
        self.tasks.iter().filter_map(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|&(task, kills)| (task.to_owned(), kills)).collect()
    }

    // Workers of a server were killed again and again. Nobody heard of it before the server was stopped, for another reason.
    #[test]
    fn a_task_is_told_of_when_more_of_it_was_killed_and_looked_at_only_when_anything_was() {
        let mut kills = Kills::default();
        let told = |kills: &mut Kills, machine, now: &[(&str, u64)]| {
            let told = kills.look(machine, || counts(now));
            told.into_iter().map(|(task, killed)| format!("{task} {killed}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(told(&mut kills, 3, &[("a", 2)]), "a 2", "before this agent");
        assert!(kills.look(3, || panic!("nothing was killed")).is_empty());
        assert_eq!(told(&mut kills, 4, &[("a", 2)]), "", "another one's");
        assert_eq!(told(&mut kills, 9, &[("a", 5), ("b", 1)]), "a 3, b 1");
        assert_eq!(told(&mut kills, 10, &[("a", 1), ("b", 1)]), "a 1", "it was started again");
        assert_eq!(told(&mut kills, 11, &[("b", 1)]), "");
    }
}
