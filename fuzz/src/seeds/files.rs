//! Files of parts: backups, an agent's records, configurations.

use bytes::Bytes;
use plenum_agent::driver::{Exit, Failure, FailureKind, TaskSpec};
use plenum_agent::isolation::Isolation;
use plenum_agent::process::ProcessIdentity;
use plenum_model::{AllocationId, JobId};
use plenum_proto::{pages, v1};
use plenum_server::FILE_VERSION;
use prost::Message;
use serde_json::json;

use super::world::World;
use super::{busy, worlds};

/// Its kind and its content.
type Record = (u8, Vec<u8>);

const MANIFEST: u8 = 1;
const PAGE: u8 = 2;
const END: u8 = 3;

/// Whole files, and what the sealing target makes the same of: of the worlds some pages are left out; of two that come last none is, and one of them
/// is sound.
pub(super) fn backups() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for (number, world) in worlds().iter().enumerate() {
        let identity = if number < 3 { v1::BackupManifest::default() } else { manifest(world) };
        let records = records_of(world, identity, 256);
        // Files of the first version are read for ever.
        all.push(sealed(if number == 0 { 1 } else { FILE_VERSION }, &records));
        if number == 3 {
            // One page less than was announced; one twice; the end in the middle; another beginning; no end.
            let changes: [fn(&mut Vec<Record>); 5] = [
                |records| drop(records.remove(1)),
                |records| records.insert(1, records[1].clone()),
                |records| records.insert(2, (END, Vec::new())),
                |records| records.insert(2, records[0].clone()),
                |records| drop(records.pop()),
            ];
            for change in changes {
                let mut changed = records.clone();
                change(&mut changed);
                all.push(sealed(FILE_VERSION, &changed));
            }
        }
    }
    // Of a cell without anything; of nothing at all; with a kind of record that is none.
    let empty = (MANIFEST, v1::BackupManifest::default().encode_to_vec());
    all.push(sealed(FILE_VERSION, &[empty.clone(), (END, Vec::new())]));
    all.push(sealed(FILE_VERSION, &[]));
    all.push(sealed(FILE_VERSION, &[empty, (9, b"of a later version".to_vec()), (END, Vec::new())]));
    let complete = |world: World| sealed(FILE_VERSION, &records_of(&world, manifest(&world), usize::MAX));
    all.extend([busy::world(), busy::sound()].map(complete));
    all
}

fn manifest(world: &World) -> v1::BackupManifest {
    v1::BackupManifest {
        plenum_version: "0.1.0".to_owned(),
        core_version: 1,
        cell_id: b"a cell of a test".to_vec().into(),
        incarnation: 1,
        term: 1,
        revision: world.cell.revision().0,
        time_micros: world.cell.time().micros,
        frame_hash: vec![7; 32].into(),
        pages: 0,
    }
}

/// A file's records, with those pages that are smaller than this.
fn records_of(world: &World, manifest: v1::BackupManifest, page_bytes: usize) -> Vec<Record> {
    let images = pages::every(&world.cell).map(|(table, number)| pages::encode_page(&world.cell, table, number));
    let images: Vec<Bytes> = images.filter(|page| page.len() < page_bytes).collect();
    let manifest = v1::BackupManifest { pages: images.len() as u64, ..manifest };
    let mut records = vec![(MANIFEST, manifest.encode_to_vec())];
    records.extend(images.iter().map(|page| (PAGE, page.to_vec())));
    records.push((END, Vec::new()));
    records
}

fn sealed(version: u32, records: &[Record]) -> (Vec<u8>, Vec<u8>) {
    let mut whole = [&b"PLENUMBK"[..], &version.to_le_bytes(), &[0; 4]].concat();
    let mut bare = Vec::new();
    for (kind, content) in records {
        whole.push(*kind);
        whole.extend_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
        whole.extend_from_slice(content);
        let seal = *blake3::hash(&whole).as_bytes();
        whole.extend_from_slice(&seal[..16]);
        bare.push(*kind);
        bare.extend_from_slice(&u16::try_from(content.len()).unwrap_or(0).to_le_bytes());
        bare.extend_from_slice(content);
    }
    (whole, bare)
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let boot_id = "c2b6e0f4-6c0c-4d0b-9a55-0d3c2d3b1f11";
    let task = TaskSpec {
        allocation: AllocationId { slot: 7, generation: 1 },
        restart: 2,
        job: JobId { slot: 3, generation: 1 },
        job_version: 1,
        command: ["/bin/sh", "-c", "true"].map(str::to_owned).into(),
        env: [("LC_ALL".to_owned(), "C".to_owned())].into(),
        cpu_millis: 500,
        memory_bytes: 1 << 26,
        pids_max: 64,
        kill_timeout_ms: 10_000,
        traces: None,
        policy: None,
        recent_restarts_at: Vec::new(),
    };
    let recent_restarts_at = vec![(1_800_000_000_000, 1), (1_800_000_010_000, 1)];
    let traced = TaskSpec { traces: Some(Box::default()), recent_restarts_at, ..task.clone() };
    let spec = |task: TaskSpec| {
        json!({
            "task": task,
            "boot_id": boot_id,
            "job_directory": "/var/lib/plenum/jobs/1",
            "cgroup": { "version": "V2", "directories": { "cpu": "/sys/fs/cgroup/plenum/alloc-7-1" } },
            "isolation": Isolation::default(),
            "log_file_bytes_max": 1 << 20,
            "open_files": 1024,
        })
    };
    let failure = Some(Failure::new(FailureKind::OutOfMemory, "it used more than 64 MiB"));
    let exit = Exit { code: Some(3), started_unix_ms: Some(1_800_000_000_000), ..Exit::default() };
    let all = [
        spec(task),
        spec(traced),
        json!(ProcessIdentity { pid: 4711, start_ticks: 99, boot_id: boot_id.to_owned() }),
        json!(exit),
        json!(Exit { signal: Some(9), stop_requested: true, oom_kills: 2, failure, ..Exit::default() }),
        json!({ "cell_id": "00112233445566778899aabbccddeeff", "incarnation": 3, "revision": 4711 }),
        json!(Isolation::default()),
        json!(boot_id),
        json!({ "unreadable": "alloc-7-1/spec.json can't be read: nobody knows how far it came" }),
    ];
    all.iter().map(|record| record.to_string().into_bytes()).collect()
}

pub(super) const CONFIGURATIONS: &[&str] = &[
    "",
    "dir = \"/var/lib/plenum\"\nlisten = \"127.0.0.1:7171\"\nlease = \"15s\"\nretain = \"30d\"\nretain_bytes = 1073741824\n",
    "listen = \"[::1]:0\"\ncustom_resources = [\"licences\"]\nsession_linger = \"1h30m\"\nunknown_after = \"15m\"\nlease = \"-1s\"\n",
    "segment_bytes = 262144\nreserve_bytes = 1048576\nrecent_bytes = 1048576\nconnections = 100\nlisting_rows = 10\n",
    "addr = \"http://127.0.0.1:7171\"\nname = \"m1\"\nshare = 2\npids_max = 64\nno_isolation = true\n[attributes]\nrack = \"r1\"\n",
    "[devices.gpu]\ncount = 8\nmodel = \"a100\"\n[devices.fpga]\ncount = 64\n",
    "share = 0\nmemory_aside = 0\nlog_file_bytes_max = 4095\nended_kept_max = 0\nended_bytes_max = 0\n",
    "lisen = \"127.0.0.1:7171\"\n",
];

/// `config.toml` of users: with both, with either, with none; the last two are not read.
pub(super) const PREFERENCES: &[&str] = &[
    "",
    "addr = \"http://127.0.0.1:7171\"\n",
    "addr = \"[::1]:7171\"\nnamespace = \"ml\"\n",
    "# mine\nnamespace = 'a-b.c'\n",
    "namespace = \"\"\"\nml\\u0007\\\n  \\U0001F600\"\"\"\n",
    "adr = \"127.0.0.1:7171\"\n",
    "namespace = 3\n",
];
