//! Transactions of one claim, with a real etcd beside the cell: on the same disk, with the same durability, in turns (cell, etcd, cell,
//! etcd, …), so that both see the same machine. While one is measured the other is idle. So is gRPC by itself: an echo of each message.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::Place;
use super::closed::{self, Shape, Times, Window};
use super::ground::Ground;
use super::machine_times::MachineTimes;
use super::resting::{self, Beside, Busy};
use crate::disk;
use crate::echo::{self, ECHO, SYNCED_ECHO};
use crate::etcd::{self, Burst, Clients, EtcdProcess};
use crate::figure::{Better, Case, Figure, Parameters, by_name, median};
use crate::latency;
use crate::progress::say;
use crate::rate::{self, Counted};
use crate::{Run, interrupt};

/// Streams with many transactions under way, connections with one each, and one idle client.
pub(super) const SHAPES: [Shape; 3] = [
    Shape { claims: 1, streams: 64, in_flight: 16, mirrors: false },
    Shape { claims: 1, streams: 64, in_flight: 1, mirrors: false },
    Shape { claims: 1, streams: 1, in_flight: 1, mirrors: false },
];
/// Clients of etcd. The quick form has the one that is compared with an idle client, those that have as much under way as the cell's, and those of up to
/// 256 with which etcd is at its best. The last have as much under way as the cell has at most, and no more connections than those before: each takes an
/// open file of etcd's and one of ours.
const CLIENTS: [Clients; 5] =
    [Clients::of_one(1), Clients::of_one(16), Clients::of_one(64), Clients::of_one(256), MOST];
const CLIENTS_QUICK: [Clients; 4] = [Clients::of_one(1), Clients::of_one(64), Clients::of_one(256), MOST];
const MOST: Clients = Clients { count: 256, in_flight: 4 };
/// Etcd's best is that of all which have no more under way than this: what the goal was set for.
const BEST_UNDER_WAY_MAX: u32 = 256;
/// How many times etcd's best the cell commits, and how many times what etcd does with as many transactions under way.
const RATIO_TO_BEST: &str = "transactions_ratio_to_etcd";
const RATIO_TO_AS_MANY: &str = "transactions_ratio_to_etcd_with_as_many_under_way";
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
    /// By turn, without and with a log.
    echo: Vec<[OfEcho; 2]>,
    alone: MachineTimes,
    /// What was seen beside them, by turn.
    seen: Vec<Parameters>,
}

/// What one burst of an echo gave.
struct OfEcho {
    messages: Counted,
    /// What the cell's server and others used meanwhile.
    busy: Busy,
}

/// What all turns gave for so many clients of etcd.
struct OfClients {
    clients: Clients,
    bursts: Vec<Burst>,
    /// What the cell's server and others used meanwhile, by turn.
    busy: Vec<Busy>,
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
    let mut peer: Vec<OfClients> = clients.iter().map(|clients| OfClients::new(*clients)).collect();
    for turn in 1..=turns.count {
        say(&format!("transactions of one claim, turn {turn} of {}", turns.count));
        for of in &mut cell {
            of.alone.look(SYNCS)?;
            let seen = closed::run(ground, of.shape, turns.cell).await?;
            of.turns.push(seen.windows);
            of.alone.look(SYNCS)?;
            of.seen.push(seen.parameters);
            let idle = (ground.process(), etcd.as_ref().map(EtcdProcess::id));
            let without = echo_burst(of.shape, turns, place, idle, false).await?;
            of.echo.push([without, echo_burst(of.shape, turns, place, idle, true).await?]);
        }
        if let Some(etcd) = &etcd {
            for of in &mut peer {
                let beside = Beside::look(ground.process(), Some(etcd.id()))?;
                of.bursts.push(etcd::commit(etcd, of.clients, turns.etcd_warm_up, turns.etcd).await?);
                of.busy.push(beside.busy()?);
            }
        }
        // A turn is whole, or ratios would lack their peers.
        if interrupt::asked() {
            break;
        }
    }
    if let Some(most) = is_best_with_most(&peer) {
        say(&format!(
            "etcd is at its best with {most} transactions under way, the most that were tried: it may have more with more"
        ));
    }
    let mut figures = Vec::new();
    for of in cell {
        figures.extend(of.figures(place, ground, turns, &peer)?);
    }
    if let Some(etcd) = &etcd {
        figures.extend(etcd_figures(etcd, &peer, turns, &place.file_system)?);
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

/// By turn, what etcd did where it was best, over all numbers of clients that have no more than so much under way; none without etcd.
fn best(peer: &[OfClients], turns: u32) -> Vec<Counted> {
    let some = || peer.iter().filter(|of| of.clients.under_way() <= BEST_UNDER_WAY_MAX);
    let of_turn = |turn: u32| some().filter_map(move |of| of.bursts.get(turn as usize)).map(Burst::counted);
    let more = |one: &Counted, other: &Counted| one.per_second().total_cmp(&other.per_second());
    (0..turns).filter_map(|turn| of_turn(turn).max_by(more)).collect()
}

/// By turn, what etcd did with so many transactions under way; none where it was not asked for so many.
fn with_as_many(peer: &[OfClients], under_way: u32) -> Vec<Counted> {
    let of = peer.iter().find(|of| of.clients.under_way() == under_way);
    of.map(OfClients::counted).unwrap_or_default()
}

/// How many transactions etcd had under way at most, if it was at its best with these: nobody knows then what it would have with more.
fn is_best_with_most(peer: &[OfClients]) -> Option<u32> {
    let measured = || peer.iter().filter(|of| !of.bursts.is_empty());
    let best = measured().max_by(|one, other| one.per_second().total_cmp(&other.per_second()))?;
    let most = measured().map(|of| of.clients.under_way()).max()?;
    (best.clients.under_way() == most).then_some(most)
}

/// What gRPC by itself has over as many connections, with a log or without; and what is seen beside it, where the cell's server and etcd are idle.
async fn echo_burst(
    shape: Shape,
    turns: Turns,
    place: &Place,
    (server, etcd): (u32, Option<u32>),
    has_log: bool,
) -> anyhow::Result<OfEcho> {
    let echo = echo::start(&place.scratch.join("echo"), has_log).await?;
    let beside = Beside::look(server, etcd.into_iter().chain([echo.id()]))?;
    let (warm_up, counted) = (turns.etcd_warm_up, turns.etcd);
    let messages = echo::answered(echo.address(), shape.streams, shape.in_flight, warm_up, counted).await?;
    Ok(OfEcho { messages, busy: beside.busy()? })
}

impl OfClients {
    const fn new(clients: Clients) -> Self {
        Self { clients, bursts: Vec::new(), busy: Vec::new() }
    }

    /// The name of its case.
    fn name(&self) -> String {
        let Clients { count, in_flight } = self.clients;
        let in_flight = if in_flight > 1 { format!(" in_flight={in_flight}") } else { String::new() };
        format!("clients={count}{in_flight}")
    }

    /// Transactions, by turn.
    fn counted(&self) -> Vec<Counted> {
        self.bursts.iter().map(Burst::counted).collect()
    }

    /// Over the turns that there were.
    fn per_second(&self) -> f64 {
        rate::of_all(&self.counted())
    }
}

impl OfShape {
    fn figures(self, place: &Place, ground: &Ground, turns: Turns, peer: &[OfClients]) -> anyhow::Result<Vec<Figure>> {
        let effective: Vec<Vec<Counted>> =
            self.turns.iter().map(|windows| windows.iter().map(Window::effective).collect()).collect();
        let windows: Vec<Window> = self.turns.into_iter().flatten().collect();
        let mut parameters = closed::parameters(ground, turns.cell, &place.file_system);
        parameters.extend(self.alone.parameters());
        parameters.extend(closed::parameters_of_turns(&self.seen));
        let more = [
            ("turns", json!(effective.len())),
            ("seconds_of_warm_up", json!(turns.cell.warm_up.as_secs_f64())),
            (
                "ratio",
                json!(
                    "transactions of which the claim was granted, a second, over etcd's best of 1 to 256 clients with one transaction under way each, in the same turn; with_as_many_under_way: over etcd's with as many transactions under way as these streams have together; and over an echo's messages"
                ),
            ),
            (
                "echo",
                json!(
                    "a server of gRPC, a process of its own as the cell's is, that answers each message of a stream with the same one, over as many connections with as many under way"
                ),
            ),
            (
                "synced-echo",
                json!("the same, which answers when it has written and synced what came meanwhile: on the same disk"),
            ),
            ("echo_message_bytes", json!(echo::MESSAGE_BYTES)),
        ];
        parameters.extend(by_name(more));
        let name = self.shape.name();
        let case = Case { suite: super::NAME, case: &name, parameters };
        let mut figures = closed::figures(&case, &windows, &self.alone)?;
        if self.shape.is_idle() {
            figures.extend(above_the_disk(&case, &windows, &self.alone)?);
        } else {
            let peers = [
                (RATIO_TO_BEST, best(peer, turns.count)),
                (RATIO_TO_AS_MANY, with_as_many(peer, self.shape.streams * self.shape.in_flight)),
            ];
            for (ratio, of_peer) in peers.into_iter().filter(|(_, counted)| !counted.is_empty()) {
                figures.push(rate::ratio(&case, ratio, &effective, &of_peer)?);
            }
        }
        let of_echo = |log: usize| {
            let bursts = self.echo.iter().map(|bursts| &bursts[log]);
            let messages: Vec<Counted> = bursts.clone().map(|burst| burst.messages).collect();
            (messages, bursts.map(|burst| burst.busy).collect::<Vec<Busy>>())
        };
        let peers = [
            ("transactions_ratio_to_echo", ECHO, of_echo(0)),
            ("transactions_ratio_to_synced_echo", SYNCED_ECHO, of_echo(1)),
        ];
        for (ratio, system, (messages, busy)) in peers {
            figures.push(rate::ratio(&case, ratio, &effective, &messages)?);
            let messages = rate::figure(&case, "messages_per_second", &messages)?;
            figures.push(resting::beside(messages.of(system), &busy));
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
    peer: &[OfClients],
    turns: Turns,
    file_system: &str,
) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for of in peer {
        let all = [
            ("version", json!(etcd.version())),
            ("clients", json!(of.clients.count)),
            ("in_flight", json!(of.clients.in_flight)),
            ("file_system", json!(file_system)),
            ("value_bytes", json!(etcd::VALUE_BYTES)),
            ("seconds_per_sample", json!(turns.etcd.as_secs_f64())),
            (
                "transaction",
                json!(
                    "one compare of the revision of a key that nobody else writes, one put; each client has a connection, and so many transactions under way (in_flight)"
                ),
            ),
            ("durability", json!("etcd's default: a sync of its log for each batch")),
        ];
        let mut parameters = resting::parameters(&of.busy);
        parameters.extend(by_name(all));
        let name = of.name();
        let case = Case { suite: super::NAME, case: &name, parameters };
        let medians = of.bursts.iter().map(|burst| latency::seconds(&burst.latency_micros, 0.5)).collect();
        let times = of.bursts.iter().map(|burst| &burst.latency_micros);
        figures.push(rate::figure(&case, "transactions_per_second", &of.counted())?.of(ETCD));
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

    fn rates(counted: &[Counted]) -> Vec<f64> {
        counted.iter().map(|counted| counted.per_second()).collect()
    }

    /// What etcd did in turns of a second.
    fn of_clients(clients: Clients, transactions: &[u64]) -> OfClients {
        let bursts = transactions.iter().map(|transactions| burst(*transactions, 1.0)).collect();
        OfClients { bursts, ..OfClients::new(clients) }
    }

    #[test]
    fn the_best_of_all_numbers_of_clients_counts_turn_by_turn() {
        let bursts = vec![burst(100, 1.0), burst(400, 2.0)];
        let one = OfClients { bursts, ..OfClients::new(Clients::of_one(1)) };
        let peer = [one, of_clients(Clients::of_one(64), &[300, 100])];
        assert_eq!(rates(&best(&peer, 2)), [300.0, 200.0]);
        assert!(best(&[of_clients(Clients::of_one(1), &[])], 2).is_empty());
    }

    #[test]
    fn etcds_best_is_that_of_its_goal_and_as_many_are_told_apart() {
        let peer = [
            of_clients(Clients::of_one(64), &[100, 120]),
            of_clients(Clients::of_one(256), &[200, 210]),
            of_clients(MOST, &[300, 290]),
        ];
        assert_eq!(rates(&best(&peer, 2)), [200.0, 210.0]);
        assert_eq!(rates(&with_as_many(&peer, 64)), [100.0, 120.0]);
        assert_eq!(rates(&with_as_many(&peer, 1024)), [300.0, 290.0]);
        assert!(with_as_many(&peer, 16).is_empty());
        assert_eq!((peer[1].name().as_str(), peer[2].name().as_str()), ("clients=256", "clients=256 in_flight=4"));
    }

    #[test]
    fn each_shape_but_the_idle_one_has_etcd_with_as_much_under_way() {
        for shape in SHAPES.iter().filter(|shape| !shape.is_idle()) {
            let under_way = shape.streams * shape.in_flight;
            for clients in [&CLIENTS[..], &CLIENTS_QUICK] {
                assert!(clients.iter().any(|clients| clients.under_way() == under_way), "{}", shape.name());
            }
        }
    }

    #[test]
    fn where_etcd_has_most_with_the_most_that_is_said() {
        let peer = |most: &[u64]| [of_clients(Clients::of_one(256), &[200, 210, 220]), of_clients(MOST, most)];
        // Over all turns.
        assert_eq!(is_best_with_most(&peer(&[100, 300, 310])), Some(1024));
        assert_eq!(is_best_with_most(&peer(&[100, 190, 310])), None);
        assert_eq!(is_best_with_most(&[of_clients(Clients::of_one(1), &[])]), None, "without etcd");
    }
}
