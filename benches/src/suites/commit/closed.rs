//! Closed loops: each scheduler sends the next transaction when one of its own was answered. What was seen in windows of time, and the
//! figures that come of it.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::ground::{Ground, Over, ROOM, Running, Size};
use super::load::{Counters, Manner, Pace};
use super::machine_times::MachineTimes;
use super::server_counts::Counts;
use crate::figure::{Better, Case, Figure, Parameters, by_name, number};
use crate::latency;
use crate::processes;
use crate::progress::say;
use crate::rate::{self, Counted};
use crate::suites::{Others, in_hundredths};

/// Where more claims are refused than this, in a hundred, the cell becomes another one than the case says: its machines are full of what
/// waits for receipts, most likely.
const REFUSED_PERCENT_USUAL: u64 = 10;
/// Where more are refused than this, what is measured is not what the case says: that is no figure.
const REFUSED_PERCENT_MAX: u64 = 25;

/// Where fewer lose a race than this, in a hundred, though a rival is there: it gets hardly any of its machines, and a claim that would lose costs nothing.
const LOST_PERCENT_USUAL: f64 = 3.0;
/// How many of a hundred claims lost a race.
const LOST: &str = "lost_a_race_percent";
/// How long the history took to have a load, too, after its end.
const HISTORY_CAUGHT_UP: &str = "history_caught_up_after_seconds";
/// And how long the server went on working then, with a checkpoint or merges of the history's store.
const RESTED: &str = "rested_after_seconds";

/// One load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) claims: u32,
    pub(crate) streams: u32,
    pub(crate) in_flight: u32,
    /// Whether each scheduler follows the cell state and folds it into a mirror of its own.
    pub(crate) mirrors: bool,
}

impl Shape {
    pub(crate) fn name(&self) -> String {
        let mirrors = if self.mirrors { format!(" mirrors={}", self.streams) } else { String::new() };
        format!("claims={} streams={} in_flight={}{mirrors}", self.claims, self.streams, self.in_flight)
    }

    pub(crate) fn manner(&self) -> Manner {
        let Self { claims, in_flight, mirrors, .. } = *self;
        Manner { claims, in_flight, mirrors, pace: Pace::Closed }
    }

    /// Nobody else is at work.
    pub(crate) fn is_idle(&self) -> bool {
        self.manner().is_idle(self.streams)
    }
}

/// How long a load runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// What is not counted.
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) windows: u32,
}

/// What was seen in one window.
pub(crate) struct Window {
    pub(crate) seconds: f64,
    pub(crate) counted: Counters,
    pub(crate) latency_micros: Histogram<u64>,
    /// Of an open loop: how late transactions were sent, which is in the former, too.
    pub(crate) late_micros: Histogram<u64>,
}

impl Window {
    /// Claims that were granted.
    pub(crate) fn claims(&self) -> Counted {
        Counted { count: self.counted.granted, seconds: self.seconds }
    }

    /// Transactions that were answered.
    fn answered(&self) -> Counted {
        Counted { count: self.counted.answered, seconds: self.seconds }
    }

    /// Transactions that had an effect.
    pub(crate) fn effective(&self) -> Counted {
        Counted { count: self.counted.effective, seconds: self.seconds }
    }
}

/// What one load gave.
pub(crate) struct Seen {
    pub(crate) windows: Vec<Window>,
    pub(crate) parameters: Parameters,
}

/// Runs one load on this ground.
pub(crate) async fn run(ground: &mut Ground, shape: Shape, times: Times) -> anyhow::Result<Seen> {
    let running = ground.begin(shape.manner(), shape.streams, Vec::new()).await?;
    let seen = watch(ground, &running, times).await?;
    finish(ground, running, seen).await
}

/// Ends a load that was watched, and notes what is known then.
pub(crate) async fn finish(ground: &mut Ground, running: Running, mut seen: Seen) -> anyhow::Result<Seen> {
    let other = running.load.other_refusal();
    let load = running.load.clone();
    let over = ground.end(running).await?;
    // What was due and never sent is found at the end only.
    if let Some(last) = seen.windows.last_mut() {
        last.latency_micros.add(load.take_latencies())?;
        last.late_micros.add(load.take_lateness())?;
    }
    seen.parameters.extend(at_the_end(&over));
    if let Some(other) = other {
        seen.parameters.insert("refused_also_for".to_owned(), json!(other));
    }
    Ok(seen)
}

/// Of a cell without a history nobody says how long that took to catch up. One that did not come to rest has `null` for how long that took.
fn at_the_end(over: &Over) -> Parameters {
    let mut parameters = Parameters::from([
        ("transactions_due_and_never_sent".to_owned(), json!(over.unsent)),
        (RESTED.to_owned(), json!(over.rested_after.map(in_hundredths))),
    ]);
    if let Some(seconds) = over.history_caught_up_after {
        parameters.insert(HISTORY_CAUGHT_UP.to_owned(), json!(in_hundredths(seconds)));
    }
    parameters
}

/// What was seen beside a load that is measured in turns: lists of what was seen in each, with `null` where that was not seen.
pub(crate) fn parameters_of_turns(turns: &[Parameters]) -> Parameters {
    let names = turns.iter().flat_map(Parameters::keys);
    let in_turns = |name: &String| turns.iter().map(|turn| turn.get(name).cloned().unwrap_or_default()).collect();
    names.map(|name| (name.clone(), Value::Array(in_turns(name)))).collect()
}

/// Lets a load run, and looks at it.
///
/// # Errors
/// When so much of it is refused, or nothing granted, that it is another load than its case says.
pub(crate) async fn watch(ground: &Ground, running: &Running, times: Times) -> anyhow::Result<Seen> {
    let (seen, another) = look(ground, running, times).await?;
    another.map_or(Ok(seen), |why| Err(anyhow!(why)))
}

/// The same, with why it is another load, where it is. It has not ended yet.
pub(crate) async fn look(ground: &Ground, running: &Running, times: Times) -> anyhow::Result<(Seen, Option<String>)> {
    let load = &running.load;
    ground.wait(running, times.warm_up).await?;
    let (own, server) = (std::process::id(), ground.process());
    let counts = Counts::of(ground.address()).await?;
    let others = Others::look(vec![own, server])?;
    let (began, all_before, reports) = (Instant::now(), load.counters(), ground.agents().reports());
    let cpu = || Ok::<_, anyhow::Error>([processes::cpu_seconds(own)?, processes::cpu_seconds(server)?]);
    let (cpu_before, threads_before) = (cpu()?, processes::cpu_seconds_by_thread(server)?);
    let (mut windows, mut leaving) = (Vec::new(), 0);
    load.take_latencies();
    load.take_lateness();
    for _ in 0..times.windows {
        let (before, window) = (load.counters(), Instant::now());
        ground.wait(running, times.window).await?;
        windows.push(Window {
            seconds: window.elapsed().as_secs_f64(),
            counted: load.counters().since(before),
            latency_micros: load.take_latencies(),
            late_micros: load.take_lateness(),
        });
        leaving = leaving.max(ground.agents().stopped().leaving());
    }
    let seconds = began.elapsed().as_secs_f64();
    let cores = |used: f64| json!(in_hundredths(used / seconds));
    let [client, served] = cpu()?;
    let threads = processes::cpu_seconds_by_thread(server)?;
    let threads = threads.iter().map(|(name, after)| (name, after - threads_before.get(name).unwrap_or(&0.0)));
    let threads: serde_json::Map<_, _> =
        threads.filter(|(_, used)| *used > 0.0).map(|(name, used)| (name.clone(), cores(used))).collect();
    let all = load.counters().since(all_before);
    let refusal = load.other_refusal().unwrap_or_default();
    let another = another_load(all, &refusal);
    if another.is_none() {
        say_what_is_unusual(all, &refusal, load.race.is_wanted());
    }
    let parameters = [
        ("cores_of_clients", cores(client - cpu_before[0])),
        ("cores_of_server", cores(served - cpu_before[1])),
        ("cores_of_server_by_thread", json!(threads)),
        ("cores_of_others", json!(others.cores()?)),
        ("cores_stolen", json!(others.cores_stolen()?)),
        ("nice_of_resolver", json!(processes::nice_of_thread(server, "plenum-resolver")?)),
        ("stopped", json!(all.stopped)),
        ("reports_of_agents", json!(ground.agents().reports() - reports)),
        ("leaving_allocations_at_most", json!(leaving)),
    ];
    let mut seen = Counts::of(ground.address()).await?.seen_since(&counts)?;
    seen.extend(by_name(parameters));
    seen.extend(of_claims(all));
    Ok((Seen { windows, parameters: seen }, another))
}

/// Why what was counted is of another load than its case says, where it is.
fn another_load(counted: Counters, refusal: &str) -> Option<String> {
    if counted.granted == 0 {
        return Some(format!("not one of {} claims was granted: {refusal}", counted.refused));
    }
    refuses_too_many(counted).then(|| refused_words(counted, refusal))
}

fn refused_words(counted: Counters, refusal: &str) -> String {
    let refused = refused_percent(counted);
    format!("{refused} of 100 claims were refused, where 5 lose a race, also for {refusal}: this is another load")
}

/// Of a load that is the one that its case says.
fn say_what_is_unusual(counted: Counters, refusal: &str, has_rival: bool) {
    if refused_percent(counted) > REFUSED_PERCENT_USUAL {
        say(&refused_words(counted, refusal));
    }
    if loses_too_few(counted, has_rival) {
        let lost = lost_percent(counted);
        say(&format!("{lost} of 100 claims lost a race, where 5 should: this load is easier than its name says"));
    }
}

/// Of a hundred claims, so many were refused, lost races included.
pub(super) fn refused_percent(counted: Counters) -> u64 {
    counted.refused * 100 / (counted.granted + counted.refused).max(1)
}

/// Whether so many claims were refused that what is measured is not what the case says.
pub(super) fn refuses_too_many(counted: Counters) -> bool {
    refused_percent(counted) > REFUSED_PERCENT_MAX
}

/// Of a hundred claims, so many lost a race.
fn lost_percent(counted: Counters) -> f64 {
    let lost = number(counted.refused.saturating_sub(counted.no_race));
    in_hundredths(lost * 100.0 / number((counted.granted + counted.refused).max(1)))
}

/// Whether a rival that is there makes hardly any claim lose.
fn loses_too_few(counted: Counters, has_rival: bool) -> bool {
    has_rival && lost_percent(counted) < LOST_PERCENT_USUAL
}

/// What became of claims.
pub(super) fn of_claims(counted: Counters) -> Parameters {
    by_name([
        ("granted", json!(counted.granted)),
        ("refused", json!(counted.refused)),
        ("refused_without_a_race", json!(counted.no_race)),
        (LOST, json!(lost_percent(counted))),
    ])
}

/// How a load is described, beside what was seen.
pub(crate) fn parameters(ground: &Ground, times: Times, file_system: &str) -> Parameters {
    let Size { machines, live } = ground.size();
    let all = [
        ("machines", json!(machines)),
        ("live_allocations", json!(live)),
        ("used_percent", json!(100 / ROOM)),
        ("segments_used_again", json!(ground.segments_used_again)),
        ("file_system", json!(file_system)),
        ("seconds_per_sample", json!(times.window.as_secs_f64())),
        (
            "claim",
            json!(
                "one grant, one stop of an older allocation picked at random, and its receipt by a report (beside an idle client it comes later); those that lose a race (lost_a_race_percent: five, beside an idle client none) do not count"
            ),
        ),
        (
            "clients",
            json!(
                "in one process beside the server's; each stream a connection; without mirrors they receive outcomes only; machines are reported about by relays, one for 50 of them"
            ),
        ),
        (
            "commit_seconds",
            json!("from when a transaction was due to its durable outcome, time in the window included"),
        ),
        (
            "checked",
            json!(
                "server killed and started again on its directory: live allocations are exactly the acknowledged ones"
            ),
        ),
    ];
    by_name(all)
}

/// The figures of a closed loop.
pub(crate) fn figures(case: &Case<'_>, windows: &[Window], alone: &MachineTimes) -> anyhow::Result<Vec<Figure>> {
    let counted = |of: fn(&Window) -> Counted| windows.iter().map(of).collect::<Vec<_>>();
    let some = windows.iter().filter(|window| !window.latency_micros.is_empty());
    let medians = some.map(|window| latency::seconds(&window.latency_micros, 0.5)).collect();
    let mut figures = vec![
        rate::figure(case, "claims_per_second", &counted(Window::claims))?,
        rate::figure(case, "transactions_per_second", &counted(Window::answered))?,
        case.figure("commit_seconds_p50", "s", Better::Lower, medians)?,
        tail(case, "commit_seconds_p99", 0.99, windows)?,
    ];
    figures.extend(alone.figures(case)?);
    Ok(figures)
}

/// What such a part of the commits took at most, in all windows together.
pub(crate) fn tail(case: &Case<'_>, metric: &str, part: f64, windows: &[Window]) -> anyhow::Result<Figure> {
    latency::tail(case, metric, part, windows.iter().map(|window| &window.latency_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lost_a_race_is_told_apart_from_what_found_no_room() {
        let counted = Counters { granted: 900, refused: 100, no_race: 52, ..Counters::default() };
        let parameters = of_claims(counted);
        assert_eq!((&parameters[LOST], &parameters["refused_without_a_race"]), (&json!(4.8), &json!(52)));
        assert_eq!(of_claims(Counters::default())[LOST], json!(0.0), "of no claim none loses");
    }

    #[test]
    fn that_hardly_any_claim_loses_is_said_where_a_rival_is_there() {
        let counted = |no_race| Counters { granted: 950, refused: 50, no_race, ..Counters::default() };
        assert!(!loses_too_few(counted(0), true) && !loses_too_few(counted(20), true));
        assert!(loses_too_few(counted(21), true), "what finds no room loses no race");
        assert!(!loses_too_few(counted(50), false), "beside an idle client the rival rests");
    }

    #[test]
    fn a_load_of_which_more_than_a_quarter_is_refused_is_another_one() {
        let refused = |refused| Counters { granted: 100 - refused, refused, ..Counters::default() };
        assert!(!refuses_too_many(refused(25)) && refuses_too_many(refused(26)));
        assert!(!refuses_too_many(Counters::default()));
    }

    // Of an open loop that was an error at a rate that was only tried: it cost all figures of the suite.
    #[test]
    fn a_load_of_which_nothing_is_granted_is_another_one() {
        let told = |granted, refused| {
            another_load(Counters { granted, refused, ..Counters::default() }, "MISFIT NO_ROOM").unwrap_or_default()
        };
        assert_eq!(told(0, 7), "not one of 7 claims was granted: MISFIT NO_ROOM");
        assert!(told(0, 0).starts_with("not one of 0 claims"), "no answer came");
        assert!(told(74, 26).starts_with("26 of 100 claims were refused"));
        assert_eq!(told(75, 25), "");
    }

    #[test]
    fn only_where_a_history_is_kept_it_is_said_how_long_it_took() {
        let of = |history_caught_up_after| at_the_end(&Over { unsent: 3, history_caught_up_after, rested_after: None });
        assert_eq!(of(Some(0.126)).get(HISTORY_CAUGHT_UP), Some(&json!(0.13)));
        assert_eq!(of(None).get(HISTORY_CAUGHT_UP), None);
        assert_eq!(of(None).get("transactions_due_and_never_sent"), Some(&json!(3)));
    }

    #[test]
    fn of_each_turn_it_is_said_what_was_seen_in_it() {
        let turn = |unsent, seconds| {
            at_the_end(&Over { unsent, history_caught_up_after: Some(seconds), rested_after: Some(2.0 * seconds) })
        };
        let mut turns = [turn(1, 0.5), turn(2, 7.25), turn(3, 0.0)];
        // Others were at work in the first one, and a refusal came in the second one.
        turns[0].insert("cores_of_others".into(), json!(1.5));
        turns[1].insert("refused_also_for".into(), json!("MISFIT"));
        let parameters = parameters_of_turns(&turns);
        assert_eq!(parameters[HISTORY_CAUGHT_UP], json!([0.5, 7.25, 0.0]));
        assert_eq!(parameters[RESTED], json!([1.0, 14.5, 0.0]));
        assert_eq!(parameters["transactions_due_and_never_sent"], json!([1, 2, 3]));
        assert_eq!(parameters["cores_of_others"], json!([1.5, null, null]));
        assert_eq!(parameters["refused_also_for"], json!([null, "MISFIT", null]));
    }
}
