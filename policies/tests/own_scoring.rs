//! What a team can do without touching this crate: a scoring of its own, with columns of its own, by the public names only.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_model::{Cell, Delta, LogTime, Machine, MachineId, MachineState, Resources, Revision};
use plenum_policies::{
    Amounts, BestFit, Candidate, Columns, FirstFit, Following, Index, Request, Scoring, Settings, Suits, choose_by,
    choose_following, rank,
};

/// As best fit, and each degree above 40 °C counts as much as a core.
struct CoolestFit<'a> {
    celsius: &'a [f32],
}

impl Scoring for CoolestFit<'_> {
    fn name(&self) -> &str {
        "coolest-fit"
    }

    fn cost(&self, candidate: &Candidate, task: &Amounts) -> f32 {
        let Some(celsius) = self.celsius.get(candidate.machine as usize) else { return f32::INFINITY };
        BestFit.cost(candidate, task) + (celsius - 40.0).max(0.0) * 1000.0
    }

    fn whole(&self, largest: &Amounts) -> f32 {
        BestFit.whole(largest)
    }
}

fn cell(cpu_millis: &[u64]) -> Cell {
    let mut delta = Delta::new(Revision(1), LogTime::from_micros(1));
    let machine = |(slot, &cpu_millis): (u32, &u64)| Machine {
        id: MachineId { slot, generation: 1 },
        name: format!("m{slot}").into(),
        state: MachineState::Ready,
        cordoned: false,
        unfit: None,
        epoch: 1,
        capacity: Arc::new(Resources::new(cpu_millis, 1 << 30)),
        attributes: Arc::default(),
        devices: Arc::default(),
        boot_id: "boot".into(),
        since: LogTime::default(),
        drain_deadline: None,
        registered: LogTime::default(),
        epoch_began: Revision(1),
    };
    delta.machines = (0..).zip(cpu_millis).map(machine).map(Arc::new).collect();
    let mut cell = Cell::default();
    cell.apply(&delta).expect("new machines fit an empty cell");
    cell
}

#[test]
fn heat_is_weighed_against_fit_task_by_task() {
    let mut columns = Columns::default();
    columns.follow(&cell(&[2000, 4000, 16_000]), None, &BTreeMap::new());
    let resources = Resources::new(1000, 1 << 20);
    let request = Request::new(&resources, Settings::default());
    let scoring = CoolestFit { celsius: &[45.0, 41.0, 20.0] };
    let machines: Vec<u32> = rank(&columns, &request, &scoring, 9).into_iter().map(|ranked| ranked.machine).collect();
    assert_eq!(machines, [1, 0, 2]);
    assert_eq!(choose_by(&columns, &request, &scoring, 6), [1, 1, 1, 1, 0, 0]);
}

#[test]
fn an_index_hears_which_rows_of_such_columns_changed() {
    let mut columns = Columns::default();
    columns.follow(&cell(&[4000; 200]), None, &BTreeMap::new());
    let resources = Resources::new(1000, 1 << 20);
    let request = Request::new(&resources, Settings::default());
    let mut celsius = vec![50.0; 200];
    let mut index = Index::default();
    let mut coolest =
        |columns: &Columns, celsius: &[f32]| index.choose_by(columns, &request, None, (&CoolestFit { celsius }, 0), 1);
    assert_eq!(coolest(&columns, &celsius), [0]);
    celsius[130] = 30.0;
    columns.touch(130);
    assert_eq!(coolest(&columns, &celsius), [130]);
}

// Both machines were ranked that the request rules out, and the best of them was named to fall back on.
#[test]
fn only_machines_that_the_request_allows_are_ranked() {
    let mut columns = Columns::default();
    columns.follow(&cell(&[4000; 70]), None, &BTreeMap::new());
    let resources = Resources::new(1000, 1 << 20);
    let suits = |slot: u32| slot > 60;
    let shared = |home| Request { home: Some(home), ..Request::new(&resources, Settings::default()) };
    let suiting = Request { suits: Some(Suits(&suits)), ..Request::new(&resources, Settings::default()) };
    let ranked = |request: &Request<'_>, most| -> Vec<u32> {
        rank(&columns, request, &FirstFit, most).into_iter().map(|ranked| ranked.machine).collect()
    };
    for home in [1, 66] {
        assert_eq!(ranked(&shared(home), 9), [home]);
        assert_eq!(ranked(&shared(home), 9), choose_by(&columns, &shared(home), &FirstFit, 1));
    }
    assert_eq!(ranked(&suiting, 3), [61, 62, 63], "the first look found none of these");
    assert_eq!(ranked(&suiting, 99), [61, 62, 63, 64, 65, 66, 67, 68, 69]);
    assert_eq!(ranked(&suiting, 0), []);
}

/// The machine in the first slot, and a placement changes nothing.
struct First;

impl Scoring for First {
    fn name(&self) -> &str {
        "first"
    }

    fn cost(&self, candidate: &Candidate, _: &Amounts) -> f32 {
        if candidate.machine == 0 { 0.0 } else { 1.0 }
    }
}

impl Following for First {
    fn placed(&mut self, _: u32, _: &mut Vec<u32>) {}
}

#[test]
fn a_scoring_that_follows_keeps_to_the_machine_that_the_tasks_of_a_job_share() {
    let mut columns = Columns::default();
    columns.follow(&cell(&[4000; 3]), None, &BTreeMap::new());
    let resources = Resources::new(1000, 1 << 20);
    let shared = Request { home: Some(1), ..Request::new(&resources, Settings::default()) };
    assert_eq!(choose_by(&columns, &shared, &First, 2), [1, 1]);
    assert_eq!(choose_following(&columns, &shared, &mut First, 2), [1, 1]);
}
