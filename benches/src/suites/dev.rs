//! Suite `dev`: how soon the first task of `plenum dev` runs, and what a cell costs that has nothing to do.
//!
//! Measured from outside, on the program that users start: the task itself prints what the clock said when it ran, and the kernel says what
//! the processes use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Others, beside_this_program, commit, cores_of_all};
use crate::figure::{Better, Case, Figure, Parameters, by_name, number};
use crate::kept::Kept;
use crate::processes;
use crate::progress::say;
use crate::{Run, interrupt};

pub(crate) const NAME: &str = "dev";

/// How long a cell may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a cell without work is left alone before it is looked at.
const SETTLING: Duration = Duration::from_secs(5);
/// One sample of what it uses.
const IDLE_WINDOW: Duration = Duration::from_secs(10);
/// Processes of a cell that was started without files: dev itself, server, two schedulers, an agent.
const IDLE_PROCESSES: usize = 5;

const JOB: &str = r#"name = "first"
scheduler = "batch"

[group.main]
command = ["/bin/date", "+%s%N"]
resources = { cpu = "100m", memory = "16MiB" }
"#;

pub(crate) fn run(options: &Run, kept: &mut Kept<'_>) -> anyhow::Result<()> {
    let plenum = match &options.plenum {
        Some(plenum) => plenum.clone(),
        None => beside_this_program()?.join("plenum"),
    };
    ensure!(
        plenum.is_file(),
        "{}: expected the program to be measured; build it with `cargo build --release`, or name it with --plenum",
        plenum.display()
    );
    let (scratch, file_system) = commit::scratch(options)?;
    let root = json!(nix::unistd::geteuid().is_root());
    let parameters = by_name([("file_system", json!(file_system)), ("root", root)]);
    if options.has_case("tasks=1") {
        kept.add(first_task(&plenum, scratch.path(), options, parameters.clone())?);
    }
    if options.has_case("idle") {
        kept.add(idle(&plenum, scratch.path(), options, parameters)?);
    }
    Ok(())
}

fn first_task(
    plenum: &Path,
    scratch: &Path,
    options: &Run,
    mut parameters: Parameters,
) -> anyhow::Result<Option<Figure>> {
    let job = scratch.join("first.toml");
    std::fs::write(&job, JOB)?;
    let (mut samples, mut others) = (Vec::new(), Vec::new());
    // The first one warms the page cache: a program that was just built or installed has been read before.
    for number in 0..if options.quick { 4 } else { 11 } {
        if interrupt::asked() {
            break;
        }
        let look = Look::begin()?;
        let seconds = first_task_seconds(plenum, &job, &scratch.join(format!("first-{number}")))?;
        others.extend((number > 0).then_some(look.cores()?));
        say(&format!("tasks=1: first task after {seconds:.3} s{}", if number == 0 { " (not counted)" } else { "" }));
        samples.extend((number > 0).then_some(seconds));
    }
    let counted =
        "from the start of `plenum dev FILE --until-done`, the cell being new, to what `date` printed as the task";
    parameters.insert("counted".to_owned(), json!(counted));
    parameters.insert("cores_of_others".to_owned(), json!(cores_of_all(&others)));
    let case = Case { suite: NAME, case: "tasks=1", parameters };
    if samples.is_empty() {
        return Ok(None);
    }
    case.figure("first_task_seconds", "s", Better::Lower, samples).map(Some)
}

/// Looks how busy this machine is with the work of others while a cell is started, and until all of it that is waited for has ended.
struct Look {
    others: Others,
    children_seconds: f64,
}

impl Look {
    fn begin() -> anyhow::Result<Self> {
        let own = std::process::id();
        Ok(Self { others: Others::look(vec![own])?, children_seconds: processes::children_cpu_seconds(own)? })
    }

    fn cores(&self) -> anyhow::Result<f64> {
        let children = processes::children_cpu_seconds(std::process::id())? - self.children_seconds;
        self.others.cores_beside(children)
    }
}

fn first_task_seconds(plenum: &Path, job: &Path, dir: &Path) -> anyhow::Result<f64> {
    let printed = dir.with_extension("out");
    let began = SystemTime::now();
    // It ends by itself, and to follow the harness it would have to start twice.
    let mut dev = Dev::start(Command::new(plenum), &[job.as_os_str(), "--until-done".as_ref()], dir, &printed)?;
    let status = dev.wait(PATIENCE)?;
    ensure!(status.success(), "`plenum dev` ended with {status}: {}", dev.complaint());
    let text = std::fs::read_to_string(&printed)?;
    let line = text.lines().last().context("the task printed nothing")?;
    let nanos: u64 = line.trim().parse().with_context(|| format!("expected nanoseconds since 1970, found {line:?}"))?;
    let ran = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    Ok(ran.duration_since(began).context("the task ran before the cell was started: was the clock set?")?.as_secs_f64())
}

fn idle(plenum: &Path, scratch: &Path, options: &Run, mut parameters: Parameters) -> anyhow::Result<[Figure; 2]> {
    let dir = scratch.join("idle");
    let mut dev = Dev::start(interrupt::following(plenum)?, &[], &dir, &scratch.join("idle.out"))?;
    dev.processes()?;
    std::thread::sleep(SETTLING);
    let mut count = 0;
    let (mut memory, mut cpu, mut others) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = serde_json::Map::new();
    for _ in 0..if options.quick { 2 } else { 6 } {
        let (before, began) = (Used::by(&dev.processes()?)?, Instant::now());
        let look = Others::look(vec![std::process::id()])?;
        std::thread::sleep(IDLE_WINDOW);
        // Looked up each time: parts of a cell start a process for a moment, and that one has no memory afterwards.
        let processes = dev.processes()?;
        let seconds = Used::by(&processes)?.since(&before);
        let cores = seconds / began.elapsed().as_secs_f64();
        cpu.push(cores);
        others.push(look.cores_beside(seconds)?);
        let (mut total, mut looked_at) = (0, 0);
        for process in &processes {
            if let Some((name, bytes)) = of_running(*process, processes::proportional_bytes)? {
                total += bytes;
                looked_at += 1;
                parts.insert(format!("{name} {process}"), json!(bytes));
            }
        }
        ensure!(looked_at >= IDLE_PROCESSES, "expected {IDLE_PROCESSES} processes with memory, found {looked_at}");
        count = looked_at;
        memory.push(number(total));
        say(&format!("idle: {:.1} MB, {cores:.4} of a core", number(total) / 1e6));
        if interrupt::asked() {
            break;
        }
    }
    dev.interrupt()?;
    let more = [
        ("processes", json!(count)),
        ("bytes_by_process", json!(parts)),
        ("seconds_per_sample", json!(IDLE_WINDOW.as_secs())),
        ("cores_of_others", json!(cores_of_all(&others))),
        (
            "counted",
            json!(
                "all processes of `plenum dev` without files: dev, server, batch, service and one agent; memory as sum of PSS, CPU time as a part of one core"
            ),
        ),
    ];
    parameters.extend(by_name(more));
    let case = Case { suite: NAME, case: "idle", parameters };
    Ok([
        case.figure("idle_memory_bytes", "B", Better::Lower, memory)?,
        case.figure("idle_cpu_ratio", "1", Better::Lower, cpu)?,
    ])
}

/// CPU time of a cell's processes.
struct Used {
    /// By thread: exact, but gone with a thread that ends.
    nanos: BTreeMap<u32, u64>,
    /// By process, in hundredths of a second.
    seconds: BTreeMap<u32, f64>,
}

/// What is asked about a process; `None` when it has ended meanwhile.
fn of_running<T>(process: u32, ask: impl Fn(u32) -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match ask(process) {
        Err(_) if !processes::runs(process) => Ok(None),
        answer => answer.map(Some),
    }
}

impl Used {
    /// Those that end meanwhile are left out.
    fn by(processes: &[u32]) -> anyhow::Result<Self> {
        let mut used = Self { nanos: BTreeMap::new(), seconds: BTreeMap::new() };
        for process in processes {
            used.nanos.extend(of_running(*process, processes::cpu_nanos)?.unwrap_or_default());
            used.seconds.extend(of_running(*process, processes::cpu_seconds)?.map(|seconds| (*process, seconds)));
        }
        Ok(used)
    }

    /// Seconds since: the larger of the two counts, so that nothing is left out.
    fn since(&self, before: &Self) -> f64 {
        let of = |(thread, nanos): (&u32, &u64)| nanos.saturating_sub(before.nanos.get(thread).copied().unwrap_or(0));
        let nanos: u64 = self.nanos.iter().map(of).sum();
        let of = |(process, seconds): (&u32, &f64)| seconds - before.seconds.get(process).unwrap_or(&0.0);
        let seconds: f64 = self.seconds.iter().map(of).sum();
        (number(nanos) / 1e9).max(seconds)
    }
}

/// Takes away what a user has set for a cell of their own, such as its address and a token for it: none of that is this one's.
fn forget_settings(command: &mut Command, names: impl Iterator<Item = OsString>) {
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"PLENUM_")) {
        command.env_remove(name);
    }
}

/// `plenum dev`, running.
struct Dev {
    child: Child,
    errors: PathBuf,
}

impl Dev {
    /// With what runs the program.
    fn start(mut command: Command, arguments: &[&std::ffi::OsStr], dir: &Path, printed: &Path) -> anyhow::Result<Self> {
        let errors = printed.with_extension("err");
        command.arg("dev").args(arguments).arg("--dir").arg(dir).stdin(Stdio::null());
        forget_settings(&mut command, std::env::vars_os().map(|(name, _)| name));
        command.stdout(File::create(printed)?).stderr(File::create(&errors)?);
        let child = interrupt::spared(&mut command);
        let child = child.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, errors })
    }

    fn wait(&mut self, patience: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(began.elapsed() < patience, "`plenum dev` did not end within {patience:?}: {}", self.complaint());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it said last.
    fn complaint(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        text.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// All processes of the cell, once they are there and the cell says where it is.
    fn processes(&mut self) -> anyhow::Result<Vec<u32>> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("`plenum dev` ended with {status}: {}", self.complaint());
            }
            let processes = processes::tree(self.child.id())?;
            let told = std::fs::read_to_string(&self.errors).unwrap_or_default().contains("cell at ");
            if told && processes.len() >= IDLE_PROCESSES {
                return Ok(processes);
            }
            ensure!(began.elapsed() < PATIENCE, "expected {IDLE_PROCESSES} processes, found {}", processes.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As Ctrl-C does.
    fn interrupt(&mut self) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let status = self.wait(PATIENCE)?;
        ensure!(status.success(), "`plenum dev` ended with {status} after Ctrl-C: {}", self.complaint());
        Ok(())
    }
}

impl Drop for Dev {
    /// After a failure: its parts end with it.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        interrupt::ended(&self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cell_used_itself_until_it_ended_is_not_the_work_of_others() {
        let look = Look::begin().unwrap();
        let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let used = processes::children_cpu_seconds(std::process::id()).unwrap() - look.children_seconds;
        assert!(used >= 0.05, "the shell used {used} s");
        let (all, others) = (look.others.cores().unwrap(), look.cores().unwrap());
        assert!(others < all, "{others} cores of others, of {all} beside this process");
    }

    // Where a token was set for a cell, `plenum dev` refused to begin.
    #[test]
    fn what_a_user_has_set_for_a_cell_of_their_own_does_not_reach_the_one_that_is_measured() {
        let names = ["PLENUM_ADDR", "PLENUM_TOKEN", "PLENUM_NAMESPACE", "PLENUM", "PATH"];
        let mut command = Command::new("plenum");
        forget_settings(&mut command, names.iter().map(OsString::from));
        let is_removed = |name: &str| command.get_envs().any(|(of, value)| of == name && value.is_none());
        let removed: Vec<&str> = names.into_iter().filter(|name| is_removed(name)).collect();
        assert_eq!(removed, ["PLENUM_ADDR", "PLENUM_TOKEN", "PLENUM_NAMESPACE"]);
    }

    #[test]
    fn a_process_that_has_ended_used_nothing_and_is_no_error() {
        let own = std::process::id();
        let mut ended = Command::new("true").spawn().unwrap();
        let id = ended.id();
        // It has ended when nobody runs under its number but what is left to be waited for.
        let began = Instant::now();
        while processes::runs(id) {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!processes::tree(own).unwrap().contains(&id));
        for _ in 0..2 {
            let used = Used::by(&[own, id]).unwrap();
            assert!(used.seconds.contains_key(&own) && used.since(&used) == 0.0);
            assert!(of_running(id, processes::proportional_bytes).unwrap().is_none());
            // Once as what is left, and once as nothing.
            ended.wait().unwrap();
        }
    }
}
