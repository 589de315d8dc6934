//! Parts of a cell, and commands, of which nobody takes what they say: a full disk has it, or its reader is gone.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Read, pipe},
    net::TcpListener,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::stage::{Process, Stage, eventually, read_address};

/// A part whose standard error goes there.
fn unheard(stage: &Stage, name: &str, arguments: &[&str], errors_to: impl Into<Stdio>) -> Process {
    let spawn = |command: &mut Command| (command.stderr(errors_to).spawn().unwrap(), ());
    stage.start_by(name, arguments, spawn).0
}

// A line for the log that could not be written was told on standard error, where it could not be written either: that ended whatever had
// something to say. A server did not start, and one ended. An agent that could not register was not heard of again until somebody started it anew.
#[test]
fn parts_that_can_not_write_their_logs_do_their_work() {
    let stage = Stage::new();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let unread = || OwnedFd::from(pipe().unwrap().1);
    // Nobody else comes to this address, and takes the port before the server does.
    let listens = TcpListener::bind("127.0.77.1:0").unwrap().local_addr().unwrap().to_string();
    let address = format!("http://{listens}");
    // They have much to say before there is a cell.
    let agent = |name: &str, errors_to: Stdio| {
        let arguments = ["--addr", &address, "agent", "--dir", &stage.word(name), "--name", name];
        unheard(&stage, name, &arguments, errors_to)
    };
    let mut parts = vec![agent("m1", full().into()), agent("m2", unread().into())];
    let scheduler = ["--addr", &address, "scheduler", "batch"];
    parts.push(unheard(&stage, "scheduler", &scheduler, unread()));
    std::thread::sleep(Duration::from_millis(500));
    let server = ["server", "--dir", &stage.word("cell"), "--listen", &listens];
    parts.push(unheard(&stage, "server", &server, full()));
    let machines = eventually("both machines have registered", || {
        let listed = stage.try_ask(&address, &["machine", "list"]).ok()?;
        Some(listed["items"].as_array()?.len()).filter(|count| *count == 2)
    });
    assert_eq!(machines, 2);
    let task = "name = \"one\"\nscheduler = \"batch\"\n[group.one]\ncommand = [\"/bin/true\"]\nresources = { cpu = \"10m\", memory = \"16MiB\" }\n";
    stage.submit(&address, "one.toml", task);
    eventually("its task has run", || {
        (stage.ask(&address, &["job", "show", "one"])["state"] == "complete").then_some(())
    });
    for mut part in parts {
        part.signal(Signal::SIGTERM);
        assert_eq!(part.ended().code(), Some(0));
    }
}

// Whatever had a line to say waited for who read it, be it the thread that decides: nobody was served any more.
#[test]
fn a_server_whose_log_nobody_reads_serves_and_ends_all_the_same() {
    let stage = Stage::new();
    let words = ["server", "--dir", &stage.word("held"), "--listen", "127.0.0.1:0"];
    let (mut server, mut held) = stage.start_by("held", &words, |command| {
        let (reader, writer) = pipe().unwrap();
        // Room for some lines, of which there are hundreds.
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        (command.env("RUST_LOG", "trace").stderr(writer).spawn().unwrap(), reader)
    });
    let address = eventually("the server can be reached", || read_address(&stage.path("held/address")));
    for cpu in ["1", "2", "3"] {
        assert_eq!(stage.ask(&address, &["quota", "set", "ml", "--cpu", cpu])["changed"], true);
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().code(), Some(0));
    let mut log = Vec::new();
    held.read_to_end(&mut log).unwrap();
    assert!((1..=4096).contains(&log.len()), "{} bytes of it were written", log.len());
}

// What the page for operators says of the variable was held by nothing but a look at the help.
#[test]
fn a_server_logs_from_info_upwards_or_what_the_variable_says() {
    let stage = Stage::new();
    let logged = |filter: Option<&str>| {
        let cell = stage.path("logs");
        let arguments = ["server", "--dir", &stage.word("logs"), "--listen", "127.0.0.1:0"];
        let (mut server, ()) = stage.start_by("logs", &arguments, |command| {
            if let Some(filter) = filter {
                command.env("RUST_LOG", filter);
            }
            (command.spawn().unwrap(), ())
        });
        eventually("the server can be reached", || read_address(&cell.join("address")));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.ended().code(), Some(0), "{}", stage.text("logs.err"));
        std::fs::remove_dir_all(cell).unwrap();
        let log = stage.text("logs.err");
        // What is told of a new cell, when it can be reached, at its end, and of another part.
        let has = |words: &str| log.contains(words);
        let lines = ["WARN plenum_server::", "INFO plenum_server::", "DEBUG plenum_server::", "plenum_journal::"];
        lines.map(has)
    };
    assert_eq!(logged(None), [true, true, false, true]);
    assert_eq!(logged(Some("")), [true, true, false, true], "an empty one counts as none");
    assert_eq!(logged(Some("warn")), [true, false, false, false], "less");
    assert_eq!(logged(Some("plenum_server=debug")), [true, true, true, false], "more of one part, and no others");
    assert_eq!(logged(Some("plenum_server=error")), [false; 4], "nothing went wrong");
}

/// A task that prints one line, and nothing more for as long as it runs.
const HUSHED: &str = r#"
name = "hushed"
scheduler = "service"
[group.main]
command = ["/bin/sh", "-c", "echo up; exec sleep 1012"]
env = { STAGE = "$STAGE" }
resources = { cpu = "10m", memory = "16MiB" }
"#;

// Half a line was there of what was being printed when Ctrl-C came, or the SIGTERM of `timeout`.
#[test]
fn who_leaves_a_watched_list_leaves_whole_lines_and_waits_for_no_reader_that_takes_none() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    for number in 0..20 {
        let name = format!("hushed-{number}");
        stage.submit(&server.address, "hushed.toml", &HUSHED.replace("\"hushed\"", &format!("{name:?}")));
    }
    let words = ["--addr", &server.address, "job", "list", "--watch", "-o", "json"];
    let cases = [(Signal::SIGINT, true, 130), (Signal::SIGTERM, true, 143), (Signal::SIGINT, false, 130)];
    for (signal, is_read, exit) in cases {
        let (mut process, mut reader) = stage.start_by("watch", &words, |command| {
            let (reader, writer) = pipe().unwrap();
            // Less than the list takes.
            fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
            (command.stdout(writer).spawn().unwrap(), reader)
        });
        let mut read = vec![0];
        reader.read_exact(&mut read).unwrap();
        process.signal(signal);
        // It has heard that, and would end if it did so at once.
        std::thread::sleep(Duration::from_millis(300));
        if is_read {
            reader.read_to_end(&mut read).unwrap();
            let text = String::from_utf8(read).unwrap();
            assert!(text.len() > 4096 && text.ends_with('\n'), "{signal}: {text}");
            let lists: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lists[0]["items"].as_array().map(Vec::len), Some(20), "{signal}");
        }
        assert_eq!(process.ended().code(), Some(exit), "{signal}, read: {is_read}");
    }
    assert_eq!(stage.text("watch.err"), "");
}

// `| head -1` had its line, and whoever had typed it no prompt until another line came.
#[test]
fn who_follows_or_watches_for_a_reader_that_has_gone_ends_at_once() {
    let stage = Stage::new();
    let file = stage.file("hushed.toml", HUSHED);
    let dev = stage.dev(&["--no-isolation", &file]);
    let id = stage.running(&dev.address, "hushed");
    for (words, expected) in [(&["alloc", "logs", &id, "-f"][..], "up"), (&["quota", "list", "-w"], "NAMESPACE")] {
        let words = [&["--addr", dev.address.as_str()], words].concat();
        let (mut process, reader) = stage.start_by("read", &words, |command| {
            let (reader, writer) = pipe().unwrap();
            (command.stdout(writer).spawn().unwrap(), reader)
        });
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with(expected), "{line}");
        drop(reader);
        assert_eq!(process.ended().code(), Some(0));
        assert_eq!(stage.text("read.err"), "");
    }
    assert_eq!(dev.stop().code(), Some(0));
}

// Nothing was printed, and it ended as if all were well.
#[test]
fn help_that_finds_no_room_is_told_as_what_did_not_work() {
    let stage = Stage::new();
    for words in [&["--help"][..], &["job", "run", "--help"], &["--version"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let spawn = |command: &mut Command| (command.stdout(full).spawn().unwrap(), ());
        let (mut process, ()) = stage.start_by("help", words, spawn);
        assert_eq!(process.ended().code(), Some(1), "{words:?}");
        assert!(stage.text("help.err").starts_with("error[NO_SPACE]: cannot write to standard output"), "{words:?}");
    }
}
