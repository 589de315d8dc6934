//! Transactions of one claim, with a real etcd beside the cell: on the same disk, with the same durability, in turns (cell, etcd, cell,
//! etcd, …), so that both see the same machine. While one is measured the other is idle. So is gRPC by itself: an echo of each message.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::Place;
use super::closed::{self, Shape, Times, Window};
use super::ground::Ground;
use super::machine_times::MachineTimes;
use crate::Run;
use crate::disk;
use crate::echo::{self, ECHO, SYNCED_ECHO};
use crate::etcd::{self, Burst, EtcdProcess};
use crate::figure::{Better, Case, Figure, Parameters, median, number};
use crate::latency;
use crate::progress::say;

/// Streams with many transactions under way, connections with one each, and one idle client.
pub(super) const SHAPES: [Shape; 3] = [
    Shape { claims: 1, streams: 64, in_flight: 16, mirrors: false },
    Shape { claims: 1, streams: 64, in_flight: 1, mirrors: false },
    Shape { claims: 1, streams: 1, in_flight: 1, mirrors: false },
];
/// Clients of etcd. The quick form has those with which it is at its best, and the one that is compared with an idle client.
const CLIENTS: [u32; 4] = [1, 16, 64, 256];
const CLIENTS_QUICK: [u32; 3] = [1, 64, 256];
/// The name of the peer in figures.
const ETCD: &str = "etcd";
/// Writes of the disk's own figures, in each turn. An idle client's batch is small.
const SYNCS: usize = 100;
const SYNC_BYTES: usize = 4 << 10;

/// How long each turn takes.
#[derive(Clone, Copy)]
struct Turns {
    count: u32,
    cell: Times,
    etcd_warm_up: Duration,
    etcd: Duration,
}

impl Turns {
    fn of(options: &Run) -> Self {
        let millis = Duration::from_millis;
        if options.quick {
            let cell = Times { warm_up: millis(1000), window: millis(1500), windows: 1 };
            Self { count: 2, cell, etcd_warm_up: millis(400), etcd: millis(1200) }
        } else {
            let cell = Times { warm_up: millis(4000), window: millis(2000), windows: 2 };
            Self { count: 5, cell, etcd_warm_up: millis(500), etcd: millis(2000) }
        }
    }
}

/// What all turns gave for one shape.
struct OfShape {
    shape: Shape,
    turns: Vec<Vec<Window>>,
    /// By turn, messages that an echo answers a second, without and with a log.
    echo: Vec<[f64; 2]>,
    alone: MachineTimes,
    /// What was seen beside them, by turn.
    seen: Vec<Parameters>,
}

/// Whether one of its cases was asked for.
pub(super) fn is_wanted(options: &Run) -> bool {
    SHAPES.iter().any(|shape| options.has_case(&shape.name()))
}

/// Measures both, and the ratios.
pub(super) async fn run(ground: &mut Ground, place: &Place, options: &Run) -> anyhow::Result<Vec<Figure>> {
    let turns = Turns::of(options);
    let etcd = start(options, &place.scratch.join("etcd")).await?;
    let shapes = SHAPES.iter().filter(|shape| options.has_case(&shape.name()));
    let mut cell = Vec::new();
    for shape in shapes {
        let alone = MachineTimes::new(&place.scratch, SYNC_BYTES)?;
        cell.push(OfShape { shape: *shape, turns: Vec::new(), echo: Vec::new(), alone, seen: Vec::new() });
    }
    let clients = if options.quick { &CLIENTS_QUICK[..] } else { &CLIENTS };
    let mut bursts: Vec<(u32, Vec<Burst>)> = clients.iter().map(|clients| (*clients, Vec::new())).collect();
    for turn in 1..=turns.count {
        say(&format!("transactions of one claim, turn {turn} of {}", turns.count));
        for of in &mut cell {
            of.alone.look(SYNCS)?;
            let seen = closed::run(ground, of.shape, turns.cell).await?;
            of.turns.push(seen.windows);
            of.alone.look(SYNCS)?;
            of.seen.push(seen.parameters);
            of.echo.push(of_echo(of.shape, turns, &place.scratch).await?);
        }
        if let Some(etcd) = &etcd {
            for (clients, bursts) in &mut bursts {
                bursts.push(etcd::commit(etcd, *clients, turns.etcd_warm_up, turns.etcd).await?);
            }
        }
    }
    let best = best(&bursts, turns.count);
    let mut figures = Vec::new();
    for of in cell {
        figures.extend(of.figures(place, ground, turns, &best)?);
    }
    if let Some(etcd) = &etcd {
        figures.extend(etcd_figures(etcd, &bursts, turns, &place.file_system)?);
    }
    Ok(figures)
}

/// Starts etcd. Without one the suite runs on, and its ratios are missing; one that was named must be there.
async fn start(options: &Run, dir: &Path) -> anyhow::Result<Option<EtcdProcess>> {
    if options.etcd.as_deref() == Some(Path::new("none")) {
        say("transactions_ratio_to_etcd will be missing, as asked");
        return Ok(None);
    }
    let program: PathBuf = match etcd::find(options.etcd.as_deref()) {
        Ok(program) => program,
        Err(error) if options.etcd.is_none() => {
            say(&format!("transactions_ratio_to_etcd will be missing: {error:#}"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // As with the cell, a sync must be one.
    let parent = dir.parent().unwrap_or(dir);
    disk::file_system(parent)?;
    let etcd = EtcdProcess::start(&program, dir).await?;
    say(&format!("beside the cell: etcd {} ({})", etcd.version(), program.display()));
    Ok(Some(etcd))
}

/// By turn, etcd's best rate over all numbers of clients; none without etcd.
fn best(bursts: &[(u32, Vec<Burst>)], turns: u32) -> Vec<f64> {
    let rates = |turn: u32| {
        let of_turn = bursts.iter().filter_map(move |(_, bursts)| bursts.get(turn as usize));
        of_turn.map(|burst| number(burst.transactions) / burst.seconds)
    };
    (0..turns).filter_map(|turn| rates(turn).max_by(f64::total_cmp)).collect()
}

/// What gRPC by itself has over as many connections, without and with a log.
async fn of_echo(shape: Shape, turns: Turns, folder: &Path) -> anyhow::Result<[f64; 2]> {
    let (warm_up, counted) = (turns.etcd_warm_up, turns.etcd);
    let rate = |log| echo::messages_per_second(shape.streams, shape.in_flight, warm_up, counted, log);
    Ok([rate(None).await?, rate(Some(folder)).await?])
}

/// By turn, how many times a peer's rate the cell commits: the median of each turn's windows counts.
fn ratios(cell: &[Vec<f64>], best: &[f64]) -> Vec<f64> {
    let medians = cell.iter().map(|rates| {
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        median(&sorted)
    });
    medians.zip(best).map(|(rate, best)| rate / best).collect()
}

impl OfShape {
    fn figures(self, place: &Place, ground: &Ground, turns: Turns, best: &[f64]) -> anyhow::Result<Vec<Figure>> {
        let rates: Vec<Vec<f64>> =
            self.turns.iter().map(|windows| windows.iter().map(Window::effective_per_second).collect()).collect();
        let windows: Vec<Window> = self.turns.into_iter().flatten().collect();
        let mut parameters = closed::parameters(ground.size(), turns.cell, &place.file_system);
        parameters.extend(self.alone.parameters());
        parameters.extend(closed::parameters_of_turns(self.seen));
        let more = [
            ("turns", json!(turns.count)),
            ("seconds_of_warm_up", json!(turns.cell.warm_up.as_secs_f64())),
            (
                "ratio",
                json!(
                    "transactions of which the claim was granted, a second, over etcd's best of all numbers of clients in the same turn, and over an echo's messages"
                ),
            ),
            (
                "echo",
                json!(
                    "a server of gRPC that answers each message of a stream with the same one, over as many connections with as many under way: threads of one process"
                ),
            ),
            (
                "synced-echo",
                json!("the same, which answers when it has written and synced what came meanwhile: on the same disk"),
            ),
            ("echo_message_bytes", json!(echo::MESSAGE_BYTES)),
        ];
        parameters.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let name = self.shape.name();
        let case = Case { suite: super::NAME, case: &name, parameters };
        let mut figures = closed::figures(&case, &windows, &self.alone)?;
        if self.shape.is_idle() {
            figures.extend(above_the_disk(&case, &windows, &self.alone)?);
        } else if !best.is_empty() {
            figures.push(case.figure("transactions_ratio_to_etcd", "1", Better::Higher, ratios(&rates, best))?);
        }
        let of_echo = |log: usize| self.echo.iter().map(|rates| rates[log]).collect::<Vec<f64>>();
        let peers = [
            ("transactions_ratio_to_echo", ECHO, of_echo(0)),
            ("transactions_ratio_to_synced_echo", SYNCED_ECHO, of_echo(1)),
        ];
        for (ratio, system, messages) in peers {
            figures.push(case.figure(ratio, "1", Better::Higher, ratios(&rates, &messages))?);
            figures.push(case.figure("messages_per_second", "1/s", Better::Higher, messages)?.of(system));
        }
        Ok(figures)
    }
}

/// What a commit costs beyond the disk's sync, with nobody else at work: medians, in seconds. None where the disk by itself took as long, as on a
/// busy machine.
fn above_the_disk(case: &Case<'_>, windows: &[Window], alone: &MachineTimes) -> anyhow::Result<Option<Figure>> {
    let mut syncs = alone.syncs(50);
    syncs.sort_by(f64::total_cmp);
    let sync = median(&syncs);
    let some = windows.iter().filter(|window| !window.latency_micros.is_empty());
    let above = some.map(|window| latency::seconds(&window.latency_micros, 0.5) - sync).collect();
    Ok(case.figure("commit_less_sync_seconds_p50", "s", Better::Lower, above)?.if_told())
}

fn etcd_figures(
    etcd: &EtcdProcess,
    bursts: &[(u32, Vec<Burst>)],
    turns: Turns,
    file_system: &str,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (clients, bursts) in bursts {
        let all = [
            ("version", json!(etcd.version())),
            ("clients", json!(clients)),
            ("file_system", json!(file_system)),
            ("value_bytes", json!(etcd::VALUE_BYTES)),
            ("seconds_per_sample", json!(turns.etcd.as_secs_f64())),
            (
                "transaction",
                json!(
                    "one compare of the revision of a client's own key, one put; each client has a connection and one transaction under way"
                ),
            ),
            ("durability", json!("etcd's default: a sync of its log for each batch")),
        ];
        let parameters = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let name = format!("clients={clients}");
        let case = Case { suite: super::NAME, case: &name, parameters };
        let rates = bursts.iter().map(|burst| number(burst.transactions) / burst.seconds).collect();
        let medians = bursts.iter().map(|burst| latency::seconds(&burst.latency_micros, 0.5)).collect();
        let times = bursts.iter().map(|burst| &burst.latency_micros);
        figures.push(case.figure("transactions_per_second", "1/s", Better::Higher, rates)?.of(ETCD));
        figures.push(case.figure("commit_seconds_p50", "s", Better::Lower, medians)?.of(ETCD));
        figures.push(latency::tail(&case, "commit_seconds_p99", 0.99, times)?.of(ETCD));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(transactions: u64, seconds: f64) -> Burst {
        Burst { seconds, transactions, latency_micros: latency::histogram() }
    }

    #[test]
    fn the_best_of_all_numbers_of_clients_counts_turn_by_turn() {
        let bursts = [(1, vec![burst(100, 1.0), burst(400, 2.0)]), (64, vec![burst(900, 3.0), burst(100, 1.0)])];
        assert_eq!(best(&bursts, 2), [300.0, 200.0]);
        let none: [(u32, Vec<Burst>); 1] = [(1, Vec::new())];
        assert!(best(&none, 2).is_empty());
    }

    #[test]
    fn a_ratio_is_of_one_turn() {
        let cell = [vec![1000.0, 3000.0, 2000.0], vec![5000.0]];
        assert_eq!(ratios(&cell, &[500.0, 1000.0]), [4.0, 5.0]);
    }
}
