//! Asking again for namespaces that something kept from this agent which may pass: too little memory, or too many of them, at its start.
//!
//! Tasks that run meanwhile go on with what they got.

use std::time::Duration;

use tokio::sync::mpsc;

use super::calls::Arrival;
use crate::{exec::ShimProgram, isolation::Isolation, threads::on_a_thread};

/// How soon it is asked again; each time, twice as long.
pub(super) const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// Asks until nothing that may pass is in the way, or nobody hears of it. Tells of what is more than `had`.
pub(super) async fn watch(shim: ShimProgram, mut had: Isolation, mut pause: Duration, arrivals: mpsc::Sender<Arrival>) {
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let shim = shim.clone();
        let probed = on_a_thread(move || shim.probe()).await;
        let (missing, missed) = (probed.isolation.missing(), had.missing());
        if missing.len() < missed.len() {
            had = probed.isolation;
            let missing = if missing.is_empty() { "nothing".to_owned() } else { missing.join(", ") };
            tracing::info!(missing, "tasks that start from now on have namespaces that could not be had before");
            if arrivals.send(Arrival::Isolation(had)).await.is_err() {
                return;
            }
        }
        if probed.hindrance.is_none() || arrivals.is_closed() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{isolation::Probed, threads::runtime_without_threads};

    // They were asked for once: after one moment without memory no task of that agent had any, until it was started again.
    #[tokio::test]
    async fn namespaces_are_asked_for_until_nothing_that_passes_is_in_the_way() {
        let place = tempfile::tempdir().unwrap();
        let full = Isolation::full(false);
        let part = Isolation { pid: true, ipc: true, ..Isolation::default() };
        let hindered = |isolation| Probed { isolation, hindrance: Some("no memory".to_owned()) };
        // The second one is a step back, which nobody hears of.
        let answers = [hindered(part), hindered(Isolation::default()), Probed { isolation: full, hindrance: None }];
        for (number, answer) in (1..).zip(&answers) {
            std::fs::write(place.path().join(number.to_string()), serde_json::to_string(answer).unwrap()).unwrap();
        }
        let script = "cd \"$0\" && echo >> asked && cat $(wc -l < asked)";
        let arguments = ["-c", script, place.path().to_str().unwrap()].map(Into::into).to_vec();
        let shim = ShimProgram { program: "/bin/sh".into(), arguments };
        let (sender, mut arrivals) = mpsc::channel(1);
        tokio::spawn(watch(shim, Isolation::default(), Duration::from_millis(1), sender));
        let mut told = Vec::new();
        while let Some(Arrival::Isolation(isolation)) = arrivals.recv().await {
            told.push(isolation);
        }
        assert_eq!(told, [part, full]);
        assert_eq!(std::fs::read_to_string(place.path().join("asked")).unwrap(), "\n\n\n");
    }

    // Where the system gave no thread either, they were not asked for again.
    #[test]
    fn where_the_system_gives_no_thread_they_are_asked_for_as_soon_as_there_is_one() {
        runtime_without_threads().block_on(async {
            let shim = ShimProgram { program: "/bin/false".into(), arguments: Vec::new() };
            let (sender, _arrivals) = mpsc::channel(1);
            let watching = tokio::spawn(watch(shim, Isolation::default(), Duration::from_millis(1), sender));
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!watching.is_finished());
        });
    }
}
