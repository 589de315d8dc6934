//! Valid inputs, from which the corpus is made. The same each time: no seed comes from a clock.

mod busy;
mod files;
mod job_files;
mod large;
mod rest;
mod session;

use std::mem::discriminant;

use bytes::Bytes;
use plenum_model::Cell;
use plenum_proto::{command, delta, log, pages, v1};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use prost::Message;

// The strategies of the protocol's own tests, read where they stand.
#[allow(clippy::unwrap_used, dead_code, reason = "they are a test's")]
#[path = "../../proto/tests/protocol/strategies.rs"]
mod strategies;
#[allow(clippy::unwrap_used, dead_code, reason = "it is a test's")]
#[path = "../../proto/tests/protocol/world.rs"]
mod world;

/// Inputs of each kind.
const COUNT: usize = 12;
/// The largest that are kept, in bytes: small ones are changed at their sore points more often.
const BYTES_MAX: usize = 1500;

/// Moments of `--at`.
const MOMENTS: &[&str] = &[
    "1",
    "4711",
    "18446744073709551615",
    "2026-11-20T08:00:00Z",
    "1970-01-01T00:00:00.000001+01:00",
    "-009999-01-02T01:59:59Z",
    "10m",
    "1h30m",
    "9999999d",
    "1.5s",
];

/// Valid inputs for a target.
///
/// # Panics
/// When there is no such target.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "delta" => {
            let all = [some(strategies::delta(), |delta| encoded(&delta)), vec![large::delta()]].concat();
            let next = busy::next().iter().map(|delta| encoded(delta).to_vec()).collect();
            [rest::of_deltas(all), next].concat()
        }
        "command" => rest::of_commands(commands()),
        "decision" => {
            let encode = |decision| v1::Decision::from(&decision).encode_to_vec().into();
            rest::of_decisions(some(strategies::decision(), encode))
        }
        "transaction" => {
            let encode = |transaction| v1::Transaction::from(&transaction).encode_to_vec().into();
            [some(strategies::transaction(), encode), vec![large::transaction()]].concat()
        }
        "job" => jobs(),
        "agent" => agents(),
        "arriving" => session::bodies(),
        "session_request" => session::requests(),
        "session_responses" => session::responses(),
        "assignments" => session::assignments(),
        "registrations" => session::registrations(),
        "records" => files::records(),
        "filter" => texts(&[
            "name=web",
            "state!=ready",
            "name=web,state!=ready",
            "attr.rack=r1",
            " job = a , attr.disk != ssd ",
            "attr.a=b!=c",
            ",,name=,",
            r#"attr.a=" b,\"c\\ " ,state=ready"#,
        ]),
        "configuration" => texts(files::CONFIGURATIONS),
        "preferences" => texts(files::PREFERENCES),
        "pages" => cells_in_pages(),
        "batch" => batches(),
        "large" => large::messages(),
        "log" | "sealed_log" => logs(),
        "archive" => kept(),
        "frames" => frames(),
        "history" => [history(), rest::rows()].concat(),
        "backup" => files::backups().into_iter().map(|(whole, _)| whole).collect(),
        "sealed_backup" => files::backups().into_iter().map(|(_, records)| records).collect(),
        "job_file" => job_files::all(),
        "moment" => texts(MOMENTS),
        "ids" => texts(&[
            "alloc-4-1",
            "alloc-4294967295-4294967295",
            "txn-17-3",
            "txn-18446744073709551615-1",
            "a-name",
            "a..b",
            "9",
            "local",
            "scheduler/batch",
            "agent/m-1.rack",
            "operator/../x",
        ]),
        other => panic!("there is no target {other}"),
    }
}

fn some<S: Strategy>(strategy: S, encode: impl Fn(S::Value) -> Bytes) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut inputs = Vec::new();
    for _ in 0..COUNT * 20 {
        let tree = strategy.new_tree(&mut runner).expect("strategies of tests have values");
        let input = encode(tree.current());
        if input.len() <= BYTES_MAX && inputs.len() < COUNT {
            inputs.push(input.to_vec());
        }
    }
    inputs
}

/// Some at random, and the first of each kind that is not among these.
fn commands() -> Vec<Vec<u8>> {
    let kind = |input: &[u8]| {
        let ask = v1::Command::decode(input).ok().and_then(|command| command.ask);
        ask.map(|ask| discriminant(&ask))
    };
    let mut inputs = some(strategies::request(), |request| command::encode(&request));
    let mut kinds: Vec<_> = inputs.iter().map(|input| kind(input)).collect();
    let (strategy, mut runner) = (strategies::request(), TestRunner::deterministic());
    // The rarest is one of some sixty.
    for _ in 0..COUNT * 200 {
        let tree = strategy.new_tree(&mut runner).expect("strategies of tests have values");
        let input = command::encode(&tree.current());
        let found = kind(&input);
        if input.len() <= BYTES_MAX && !kinds.contains(&found) {
            kinds.push(found);
            inputs.push(input.to_vec());
        }
    }
    inputs
}

fn encoded(delta: &plenum_model::Delta) -> Bytes {
    let mut out = Vec::new();
    delta::encode(delta, &mut out);
    out.into()
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Cells of different histories.
fn worlds() -> Vec<world::World> {
    let steps = |seed: u32, count: u32| {
        (0..count).map(move |step| step.wrapping_mul(2_654_435_761).wrapping_add(seed) % world::STEPS)
    };
    (0..8).map(|seed| world::World::after(&steps(seed * 977, 4 + seed * 5).collect::<Vec<_>>())).collect()
}

/// The cell into which the target `delta` folds.
pub(crate) fn busy_cell() -> Cell {
    busy::world().cell
}

/// Pages of cells of different histories, and of one with some of everything, also as the first version wrote them, and as checkpoints keep them.
fn cells_in_pages() -> Vec<Vec<u8>> {
    let (worlds, busy) = (worlds(), busy::world());
    let mut inputs: Vec<Vec<u8>> = worlds.iter().map(snapshot).collect();
    inputs.extend([snapshot(&busy), as_at_first(&busy)]);
    let kept = worlds.iter().chain([&busy]).map(|world| in_pages(world, pages::encode_image));
    // Of cells that have neither tasks nor allocations they are the same.
    let kept: Vec<_> = kept.filter(|input| !inputs.contains(input)).collect();
    [inputs, kept].concat()
}

fn snapshot(world: &world::World) -> Vec<u8> {
    in_pages(world, pages::encode_page)
}

fn in_pages(world: &world::World, encode: fn(&Cell, pages::Table, u32) -> Bytes) -> Vec<u8> {
    let mut input = Vec::new();
    for (table, number) in pages::every(&world.cell) {
        let page = encode(&world.cell, table, number);
        prost::encode_length_delimiter(page.len(), &mut input).expect("a vector takes what is written");
        input.extend_from_slice(&page);
    }
    input
}

/// With all small tables in the first page.
fn as_at_first(world: &world::World) -> Vec<u8> {
    let images = pages::every(&world.cell).map(|(table, number)| pages::encode_page(&world.cell, table, number));
    let mut images: Vec<v1::Page> = images.map(|image| v1::Page::decode(image).expect("a page is a message")).collect();
    let mut meta = images[0].meta.take().expect("the first page has it");
    for page in &mut images {
        meta.quotas.extend(page.quotas.take().unwrap_or_default().quotas);
        meta.holds.extend(page.holds.take().unwrap_or_default().holds);
        meta.partitions.extend(page.partitions.take().unwrap_or_default().partitions);
        meta.unknown_tasks.extend(page.unknown_tasks.take().unwrap_or_default().unknown_tasks);
    }
    (meta.quota_rows, meta.hold_rows, meta.partition_rows, meta.unknown_task_rows) = (0, 0, 0, 0);
    images[0].meta = Some(meta);
    session::row(&images)
}

/// Of different histories; and as a server writes them, which says with which bounds it decided.
fn batches() -> Vec<Vec<u8>> {
    let worlds = worlds();
    let bounds = v1::CoreOptions {
        ring_changes: 1 << 20,
        machines_max: 1 << 17,
        retire_after_micros: 86_400_000_000,
        lost_millis_a_minute: 100,
        shapes_spare: Some(64),
        finished_jobs_max: Some(0),
        ..v1::CoreOptions::default()
    };
    let bare = worlds.iter().map(|world| batch(world, None));
    bare.chain(worlds.iter().take(2).map(|world| batch(world, Some(bounds)))).collect()
}

fn batch(world: &world::World, bounds: Option<v1::CoreOptions>) -> Vec<u8> {
    let mut out = Vec::new();
    log::begin_batch(&mut out, world.cell.time(), bounds);
    let culprit = v1::Culprit { revision: 1, session: 1, number: 3, amount: 5, ..v1::Culprit::default() };
    let refusal = v1::Refusal { kind: 1, culprits: vec![culprit], ..v1::Refusal::default() };
    let outcome = v1::Outcome { session: 2, number: 9, revision: 2, refusals: vec![refusal], ..v1::Outcome::default() };
    let decided = v1::Decision { answer: Some(v1::decision::Answer::Outcome(outcome)) }.encode_to_vec();
    let commit = v1::Transaction { session: 2, number: 9, base_revision: 1, ..v1::Transaction::default() };
    let asked = v1::Command { ask: Some(v1::command::Ask::Commit(commit)), ..v1::Command::default() }.encode_to_vec();
    for delta in world.deltas.iter().take(6) {
        log::append_entry(&mut out, delta.revision, &asked, &decided, &encoded(delta));
    }
    out.to_vec()
}

/// What the job files give, which a cell takes; and shapes at random, whose bodies do not match them.
fn jobs() -> Vec<Vec<u8>> {
    let read = |text: &str| crate::job_file::JobFile::parse("job", text).expect("it is a job file").spec;
    let mut inputs: Vec<Vec<u8>> =
        [job_files::JOB, job_files::JSON].map(read).iter().map(Message::encode_to_vec).collect();
    inputs.extend(some(strategies::job_shape(), |shape| {
        v1::JobSpec { shape: Some((&shape).into()), body: Some(v1::JobBody::default()) }.encode_to_vec().into()
    }));
    inputs.push(rest::job(read(job_files::WHOLE)));
    inputs
}

fn agents() -> Vec<Vec<u8>> {
    let mut inputs = some(strategies::request(), |request| {
        match v1::Command::decode(command::encode(&request)).ok().and_then(|command| command.ask) {
            Some(v1::command::Ask::RegisterMachine(machine)) => machine.encode_to_vec().into(),
            _ => Bytes::from(vec![0; BYTES_MAX + 1]),
        }
    });
    let transition = |state: v1::AllocationState| v1::Transition {
        allocation: 1 << 32 | 7,
        state: state.into(),
        ready: true,
        exit_code: -1,
        reason: "why".into(),
        restarts: 3,
    };
    let transitions = [v1::AllocationState::Running, v1::AllocationState::Failed].map(transition).to_vec();
    inputs.push(v1::ReportRequest { machine: 1 << 32, epoch: 4, transitions, ..Default::default() }.encode_to_vec());
    let many = v1::ReportManyRequest {
        machines: vec![1 << 32, 1 << 32 | 1],
        epochs: vec![4, 5],
        instances: vec!["a".into(), "b".into()],
        of: vec![1, 0],
        allocations: vec![1 << 32 | 7, 1 << 32 | 8],
        states: vec![v1::AllocationState::Running.into(), v1::AllocationState::Failed.into()],
        ready: vec![true, false],
        exit_codes: vec![0, -1],
        restarts: vec![0, 3],
        reasons: vec![String::new(), "why".into()],
        unfit: vec![v1::Unfit::Unspecified.into(), v1::Unfit::AgentLeaves.into()],
        revisions: vec![70, 80],
        incarnations: vec![1, 1],
    };
    inputs.push(many.encode_to_vec());
    inputs
}

fn logs() -> Vec<Vec<u8>> {
    let files = crate::targets::log_files();
    let of = |number: usize, image: &[u8]| [&[u8::try_from(number).unwrap_or(0)], image].concat();
    let whole = files.iter().enumerate().map(|(number, (_, image))| of(number, image));
    let mut segments = files.iter().enumerate().filter(|(_, (name, _))| name.ends_with(".segment"));
    let (last, (_, image)) = segments.next_back().expect("a log has segments");
    // A batch takes two sectors, from the second sector on. The mark is behind the first of this segment: those after it may be lost, and it may not.
    let cut = [3, 1].map(|sectors| {
        let mut image = image.clone();
        image[sectors * 512..].fill(0);
        of(last, &image)
    });
    whole.chain(cut).collect()
}

/// The first segment of the log, of which all or a part is asked for.
fn kept() -> Vec<Vec<u8>> {
    let segments = crate::targets::log_files().iter().filter(|(name, _)| name.ends_with(".segment"));
    let (_, image) = segments.min().expect("a log has segments");
    // A batch of two revisions takes two sectors, from the second sector on.
    let asked: [[u8; 5]; 6] =
        [[0, 1, 2, 1, 2], [0, 3, 2, 3, 4], [0, 1, 6, 1, 6], [0, 1, 2, 1, 3], [0, 2, 2, 1, 2], [1, 1, 2, 7, 8]];
    asked.iter().map(|asked| [&asked[..], image].concat()).collect()
}

/// Payloads, each behind its length in eights.
fn frames() -> Vec<Vec<u8>> {
    let of = |lengths: &[u8]| {
        let payload = |length: &u8| [vec![*length], vec![*length; usize::from(*length) * 8]].concat();
        lengths.iter().flat_map(payload).collect::<Vec<u8>>()
    };
    vec![
        b"\x02payload of sixteen".to_vec(),
        vec![1; 60],
        vec![200; 1700],
        // Of nothing; around a sector, whose end a frame may share; around a segment's end, which it must not cross.
        of(&[0, 0, 0]),
        of(&[50, 51, 52, 53, 54]),
        of(&[63, 64, 65, 64]),
        of(&[127, 126, 120, 110, 1]),
        of(&[150, 150, 150, 150]),
        // Larger than any frame, between two that are not.
        of(&[1, 255, 1]),
        // Cut in the middle, as what is behind the last length.
        b"\x01whole one\x09not whole".to_vec(),
    ]
}

fn history() -> Vec<Vec<u8>> {
    let row = |key: &[u8], value: &[u8]| [&[u8::try_from(key.len()).unwrap_or(0)], key, value].concat();
    let mut inputs = vec![row(&[1; 14], &[8, 1]), row(&[2, 0, 0, 0, 0, 0, 0, 0, 9], &[8, 7, 16, 9])];
    for world in worlds().iter().take(4) {
        // A block of one batch, as `records.rs` of the history has it.
        let (batch, last) = (batch(world, None), world.deltas.len().min(6));
        let mut record = vec![8, 1, 16, u8::try_from(last).unwrap_or(1), 24, 5, 34];
        prost::encode_length_delimiter(batch.len(), &mut record).expect("a vector takes what is written");
        record.extend_from_slice(&batch);
        let mut block = vec![10];
        prost::encode_length_delimiter(record.len(), &mut block).expect("a vector takes what is written");
        block.extend_from_slice(&record);
        inputs.push(row(&1_u64.to_be_bytes(), &block));
        // The same as a compressor might write it: its length, and all of it as literals.
        let length = u32::try_from(block.len()).unwrap_or(0);
        let (whole, rest) = ((block.len() - 15) / 255, u8::try_from((block.len() - 15) % 255).unwrap_or(0));
        let literals = [&[0xf0][..], &vec![255; whole], &[rest], &block].concat();
        inputs.push(row(&1_u64.to_be_bytes(), &[&length.to_le_bytes()[..], &literals].concat()));
    }
    inputs
}
