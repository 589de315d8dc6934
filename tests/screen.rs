//! What commands show on a terminal.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::Signal,
};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::stage::{Process, Stage, eventually};

/// A terminal, and what it has shown. It is nobody's controlling terminal: no signal tells that it has gone.
pub(crate) struct Screen {
    keys: fs::File,
    shown: String,
}

impl Screen {
    /// Starts the binary, which tells on a new terminal how things go.
    pub(crate) fn start(stage: &Stage, arguments: &[&str]) -> (Process, Self) {
        Self::start_by(stage, "dev", arguments, |command, terminal| {
            command.stderr(terminal);
        })
    }

    /// The same, where all that it prints goes to the terminal.
    pub(crate) fn start_whole(stage: &Stage, arguments: &[&str]) -> (Process, Self) {
        Self::start_by(stage, "whole", arguments, |command, terminal| {
            command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
        })
    }

    fn start_by(
        stage: &Stage,
        name: &str,
        arguments: &[&str],
        tie: impl FnOnce(&mut Command, fs::File),
    ) -> (Process, Self) {
        // Who reads it does not wait for more than there is: what is never shown would be waited for without an end.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let keys = posix_openpt(flags).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let path = ptsname_r(&keys).unwrap();
        let terminal = fs::OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path);
        let keys = fs::File::from(OwnedFd::from(keys));
        stage.start_by(name, arguments, |command| {
            tie(command.env("TERM", "xterm"), terminal.unwrap());
            (command.spawn().unwrap(), Self { keys, shown: String::new() })
        })
    }

    /// Gives the terminal a window of this size: it has none until then.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).unwrap();
    }

    /// Waits until it shows this, and gives all that it has shown by then. A binary that ended without is told with its last words.
    #[track_caller]
    pub(crate) fn shows(&mut self, words: &str) -> &str {
        let mut read = [0; 4096];
        eventually(&format!("the terminal shows {words:?}"), || {
            match self.keys.read(&mut read) {
                Ok(count) => self.shown.push_str(&String::from_utf8_lossy(&read[..count])),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}: {}", self.shown),
            }
            self.shown.contains(words).then_some(())
        });
        &self.shown
    }
}

/// Two tasks of which a machine may have one: on one machine the second one waits for the first.
const PAIR: &str = r#"
name = "pair"
scheduler = "service"
[group.main]
count = 2
per_machine = 1
command = ["/bin/sleep", "1009"]
env = { STAGE = "$STAGE" }
resources = { cpu = "10m", memory = "16MiB" }
"#;

// On a terminal it was never said, as one of its tasks ran; and what passes in milliseconds was shown at once, over several lines.
#[test]
fn why_a_job_waits_is_told_above_its_bar_once_it_has_lasted() {
    let stage = Stage::new();
    let file = stage.file("pair.toml", PAIR);
    let dir = stage.word("cell");
    let began = Instant::now();
    let (mut dev, mut screen) = Screen::start(&stage, &["dev", "--dir", &dir, "--no-isolation", &file]);
    screen.shows("main 1 of 2 running, 1 waiting");
    let shown = screen.shows("pair waits: main: 1 waiting: ");
    assert!(began.elapsed() >= Duration::from_secs(2), "most reasons pass in milliseconds: {shown}");
    let (before, _) = shown.split_once("pair waits: ").unwrap();
    assert!(!before.contains("waiting: "), "no reason was told before: {before}");
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended().code(), Some(0));
}

// Its bar stood there once more, below the `^C` that the terminal shows.
#[test]
fn ctrl_c_leaves_each_bar_on_the_screen_once() {
    let stage = Stage::new();
    let file = stage.file("one.toml", &PAIR.replace("count = 2", "count = 1"));
    let dir = stage.word("cell");
    let (mut dev, mut screen) = Screen::start(&stage, &["dev", "--dir", &dir, "--no-isolation", &file]);
    screen.shows("main 1 of 1 running");
    // Below the key it is drawn where something changes before the signal is there: it must not do so by chance.
    std::thread::sleep(Duration::from_millis(500));
    dev.signal(Signal::SIGSTOP);
    screen.keys.write_all(b"\x03").unwrap();
    screen.shows("^C");
    dev.signal(Signal::SIGINT);
    dev.signal(Signal::SIGCONT);
    let (_, after) = screen.shows("stopping tasks").rsplit_once("^C").unwrap();
    assert!(after.starts_with("\r\nstopping tasks"), "{after:?}");
    assert_eq!(dev.ended().code(), Some(0));
}

// Its end was on the screen, without the title, and a copy of all of it above that with each change.
#[test]
fn of_a_watched_list_that_is_longer_than_the_window_what_fits_is_shown_and_how_much_does_not() {
    let stage = Stage::new();
    let server = stage.server("cell", None, &[]);
    for number in 10..22 {
        stage.ask(&server.address, &["quota", "set", &format!("team-{number}"), "--cpu", "1"]);
    }
    let words = ["--addr", &server.address, "quota", "list", "--watch"];
    let (_watching, mut screen) = Screen::start_whole(&stage, &words);
    // All of it where it is not known how much fits.
    screen.shows("team-21");
    screen.resize(8, 200);
    let shown = screen.shows("7 more rows than this window shows: narrow the list with --filter or --limit");
    let (before, last) = shown.rsplit_once("\x1b[H").unwrap();
    assert!(before.contains("team-21") && !before.contains("more rows"), "{shown:?}");
    assert_eq!(last.lines().count(), 7, "one row is the cursor's: {last:?}");
    assert!(last.starts_with("NAMESPACE") && last.contains("team-14") && !last.contains("team-15"), "{last:?}");
    // What clears the whole screen at once is kept by terminals that can be scrolled back: once, for what stood there before.
    assert_eq!(before.matches("\x1b[2J").count(), 1, "{shown:?}");
    screen.shown.clear();
    screen.resize(40, 200);
    let shown = screen.shows("team-21");
    assert!(shown.rsplit_once("\x1b[H").is_some_and(|(_, last)| !last.contains("more rows")), "{shown:?}");
}

// Words were cut where the window ends, and marks of its format stood between them.
#[test]
fn a_page_of_a_code_is_told_in_lines_that_fit_and_elsewhere_as_it_was_written() {
    let stage = Stage::new();
    let page = include_str!("../docs/errors/NO_ROOM.md");
    assert!(page.lines().any(|line| line.len() > 150) && page.ends_with("counts what others hold as taken.\n"));
    let (_explaining, mut screen) = Screen::start_whole(&stage, &["explain", "NO_ROOM"]);
    let shown = screen.shows("as taken.");
    assert!(shown.starts_with("NO_ROOM: not enough of a resource on that machine\r\n\r\nMeaning\r\n"), "{shown:?}");
    assert!(shown.lines().all(|line| line.len() <= 80), "the size of the window is not known: {shown}");
    assert_eq!(stage.run(&["explain", "NO_ROOM"]).out, page);
}

/// A task that leaves its terminal red.
const RED: &str = r#"
name = "red"
scheduler = "service"
[group.main]
command = ["/bin/sh", "-c", "printf '\\033[31mred\\n'; exec sleep 1013"]
env = { STAGE = "$STAGE" }
resources = { cpu = "10m", memory = "16MiB" }
"#;

// All that was printed behind it was red, the shell's prompt too.
#[test]
fn a_terminal_has_its_colours_again_when_the_log_of_a_task_that_changed_them_ends() {
    let stage = Stage::new();
    let file = stage.file("red.toml", RED);
    let dev = stage.dev(&["--no-isolation", &file]);
    let id = stage.running(&dev.address, "red");
    let words = ["--addr", &dev.address, "alloc", "logs", &id, "--follow"];
    let (mut follows, mut screen) = Screen::start_whole(&stage, &words);
    assert_eq!(screen.shows("red\r\n"), "\x1b[31mred\r\n", "it may go on");
    follows.signal(Signal::SIGINT);
    screen.shows("red\r\n\x1b[0m");
    assert_eq!(follows.ended().code(), Some(130));
    let (mut prints, mut screen) = Screen::start_whole(&stage, &words[..5]);
    screen.shows("red\r\n\x1b[0m");
    assert_eq!(prints.ended().code(), Some(0));
    assert_eq!(stage.run(&words[..5]).out, "\x1b[31mred\n", "elsewhere it is as the task printed it");
    assert_eq!(dev.stop().code(), Some(0));
}

// The summary was red, and all that was printed after the run.
#[test]
fn a_terminal_has_its_colours_again_behind_the_last_lines_of_a_development_cell() {
    let stage = Stage::new();
    let file = stage.file("red.toml", &RED.replace("service", "batch").replace("; exec sleep 1013", ""));
    let (mut dev, mut screen) = Screen::start_whole(&stage, &["dev", "--until-done", "--no-isolation", &file]);
    screen.shows("\x1b[31mred\r\n\x1b[0m");
    assert_eq!(dev.ended().code(), Some(0));
}
