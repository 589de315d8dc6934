//! Runs a program and watches it: passes its output on, says once a minute that it is still at work,
//! and ends it at a time limit together with everything that it started.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A silent step says at least this often that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(15);
/// How long is waited for output that stays open after the program itself has ended.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// Lines that wait to be printed; a reader that is further ahead waits.
const LINES_WAITING_MAX: usize = 1024;

/// Which of a program's two outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Standard output.
    Standard,
    /// Standard error.
    Error,
}

/// Runs `command` to its end, prints its output, and hands each line to `on_line`.
///
/// Fails when the program can't be started, when it takes longer than `limit`, and when something that it
/// started still holds its output open after its end: then it left a process behind. For that only time counts in
/// which no line waits to be printed: our own reader, such as a pager, may have the last ones long after the end, but
/// not longer than `limit`.
pub(crate) fn watch(
    mut command: Command,
    label: &str,
    limit: Duration,
    mut on_line: impl FnMut(Output, &str),
) -> Result<ExitStatus> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {program}"))?;
    let lines = read_both(&mut child);
    let started = Instant::now();
    let mut last_sign = started;
    let mut ended: Option<Instant> = None;
    let mut waited_behind_end = Duration::ZERO;
    loop {
        let asked = Instant::now();
        let next = lines.recv_timeout(Duration::from_millis(200));
        if ended.is_some() {
            waited_behind_end += asked.elapsed();
        }
        match next {
            Ok((output, line)) => {
                last_sign = Instant::now();
                match output {
                    Output::Standard => println!("{line}"),
                    Output::Error => eprintln!("{line}"),
                }
                on_line(output, &line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if ended.is_none() {
            ended = child.try_wait().context("could not ask for the program's end")?.map(|_| Instant::now());
        }
        if let Some(at) = ended
            && (waited_behind_end > STRAGGLERS || at.elapsed() > limit)
        {
            bail!("{program} has ended, but something that it started still runs and holds its output");
        }
        if ended.is_none() && started.elapsed() > limit {
            stop_with_all_below(&mut child);
            bail!("{program} was not done after {} and was stopped", duration(limit));
        }
        if last_sign.elapsed() > HEARTBEAT {
            last_sign = Instant::now();
            eprintln!("… {label} is still at work after {}", duration(started.elapsed()));
        }
    }
    child.wait().context("could not wait for the program's end")
}

/// One thread per output; the channel closes when both outputs have.
fn read_both(child: &mut Child) -> Receiver<(Output, String)> {
    let (sender, receiver) = sync_channel(LINES_WAITING_MAX);
    if let Some(stream) = child.stdout.take() {
        read_lines(stream, Output::Standard, sender.clone());
    }
    if let Some(stream) = child.stderr.take() {
        read_lines(stream, Output::Error, sender);
    }
    receiver
}

fn read_lines(stream: impl Read + Send + 'static, output: Output, sender: SyncSender<(Output, String)>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if sender.send((output, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Asks `child` and all that it started to end, and makes them after a while.
///
/// They are found by their parents and not by a process group: in a group of its own, the child would
/// not see the Ctrl-C of the terminal.
fn stop_with_all_below(child: &mut Child) {
    let family = descendants(child.id());
    signal("TERM", &family);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_))) && family.iter().skip(1).all(|pid| !is_alive(*pid)) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    signal("KILL", &family);
    // Its status says no more than that it was killed.
    let _ = child.wait();
}

/// `root` and everything below it, parents first.
fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&current) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == current).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// The fourth field of `/proc/PID/stat`; the second, the name, may hold spaces and parentheses.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

/// Sends a signal through the shell, whose `kill` is built in: a bare system may have no program of that name.
fn signal(name: &str, pids: &[u32]) {
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    // A process that is gone already is what we want.
    let _ = Command::new("sh").arg("-c").arg(format!("kill -{name} {} 2>/dev/null", list.join(" "))).status();
}

/// A duration as people say it: `7.3 s`, `2 min 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn every_line_of_both_outputs_is_seen_and_the_exit_code_kept() {
        let mut seen = Vec::new();
        let status = watch(
            shell("echo out; echo err >&2; printf last; exit 3"),
            "a test",
            Duration::from_secs(20),
            |output, line| seen.push((output, line.to_owned())),
        )
        .expect("the shell ends by itself");
        assert_eq!(status.code(), Some(3));
        seen.sort_by_key(|(_, line)| line.clone());
        let expected = [(Output::Error, "err"), (Output::Standard, "last"), (Output::Standard, "out")];
        assert_eq!(seen, expected.map(|(output, line)| (output, line.to_owned())));
    }

    #[test]
    fn at_the_time_limit_the_children_are_stopped_with_their_parent() {
        let mut child_pid = None;
        let error = watch(shell("sleep 600 & echo $!; wait"), "a test", Duration::from_secs(3), |_, line| {
            child_pid = line.parse::<u32>().ok();
        })
        .expect_err("it sleeps longer than its limit");
        assert!(error.to_string().contains("was not done after 3.0 s"), "{error}");
        assert!(!is_alive(child_pid.expect("the shell names its child")));
    }

    // A step whose output somebody read in a pager was said to have left a process behind: its lines were there, and not printed yet.
    #[test]
    fn a_program_whose_lines_are_read_long_after_its_end_has_ended_well() {
        let mut seen = 0;
        let status = watch(shell("seq 2000"), "a test", Duration::from_secs(60), |_, line| {
            seen += 1;
            match line {
                // Its end is noticed behind this line.
                "1" => thread::sleep(Duration::from_secs(1)),
                "900" => thread::sleep(STRAGGLERS + Duration::from_secs(1)),
                _ => {}
            }
        })
        .expect("nothing is left behind");
        assert!(status.success());
        assert_eq!(seen, 2000);
    }

    #[test]
    fn what_still_holds_the_output_after_the_end_is_told_whether_it_prints_or_not() {
        let mut left = None;
        let scripts = ["sleep 600 & echo $!", "(while :; do echo; sleep 0.1; done) & echo $!"];
        for script in scripts {
            let error = watch(shell(script), "a test", Duration::from_secs(60), |_, line| {
                left = line.parse::<u32>().ok().or(left);
            })
            .expect_err("something runs on");
            assert!(error.to_string().contains("something that it started still runs"), "{error}");
            signal("KILL", &[left.expect("the shell names its child")]);
        }
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = watch(Command::new("no-such-program-here"), "a test", Duration::from_secs(1), |_, _| {})
            .expect_err("there is no such program");
        assert_eq!(error.to_string(), "could not start no-such-program-here");
    }

    #[test]
    fn durations_read_like_speech() {
        assert_eq!(duration(Duration::from_millis(7_340)), "7.3 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
    }
}
