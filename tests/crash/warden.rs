//! Stands between one process and the kernel: sees each sync and each positioned write before it happens, and lets it happen,
//! fails it, tears it or kills the process there.
//!
//! The kernel asks us (seccomp's user notification), so this needs no root, no tool, and nothing in the program under test; and the
//! calls are counted over all of its threads. It knows nothing of cells or logs: it sees files by their paths.
#![allow(unsafe_code, reason = "the kernel's interface leaves no other way; each block says why it is sound")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    mem::{self, size_of},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::FileExt, net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command},
    thread::JoinHandle,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a process is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Which kind.
    pub(crate) kind: Kind,
    /// The file or folder.
    pub(crate) path: PathBuf,
    /// Where the kernel shows the very file.
    place: PathBuf,
}

impl Call {
    /// Syncs the file in the stead of the process.
    pub(crate) fn sync_now(&self) {
        // What can't be synced is no matter of a judge.
        let _ = File::open(&self.place).and_then(|file| file.sync_all());
    }

    /// It concerns this file of the log.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|file| file.to_string_lossy().ends_with(name))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `fdatasync` or `fsync`.
    Sync,
    /// `pwrite64`, of so many bytes: how the log is written.
    Write {
        /// How many.
        bytes: usize,
    },
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It happens.
    Pass,
    /// It fails with this `errno`, and nothing happens.
    Fail(i32),
    /// The process is killed before it happens.
    Kill,
    /// It happens, the process does not hear of it, and is killed.
    KillAfter,
    /// Only this many bytes are written, from the beginning, and the process is killed.
    TearHead(usize),
    /// Only what follows so many bytes is written, and the process is killed.
    TearTail(usize),
}

/// Is asked before each call.
pub(crate) type Judge = Box<dyn FnMut(&Call) -> Verdict + Send>;

/// Watches over one process until that ends.
pub(crate) struct Warden(Option<JoinHandle<()>>);

impl Warden {
    /// Starts a command under a warden. `judge` is asked before each call.
    pub(crate) fn start(
        command: &mut Command,
        judge: impl FnMut(&Call) -> Verdict + Send + 'static,
    ) -> io::Result<(Child, Self)> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs_raw = theirs.as_raw_fd();
        // SAFETY: between fork and exec the closure makes system calls only: it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || pass(filter()?, theirs_raw).map(drop)) };
        let child = command.spawn()?;
        drop(theirs);
        let listener = receive(&ours)?;
        let process = child.id().cast_signed();
        let watch = Watch { listener, process, judge: Box::new(judge) };
        Ok((child, Self(Some(std::thread::spawn(move || watch.run())))))
    }
}

impl Drop for Warden {
    /// The process must have ended, or be about to.
    fn drop(&mut self) {
        let Some(thread) = self.0.take() else { return };
        if thread.join().is_err() && !std::thread::panicking() {
            panic!("the warden panicked");
        }
    }
}

/// Makes the calls of interest ask, in this process and in what it will become; the other end of the questions.
fn filter() -> io::Result<RawFd> {
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const CALLS: [libc::c_long; 3] = [libc::SYS_fdatasync, libc::SYS_fsync, libc::SYS_pwrite64];
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let mut program = [
        step(load, 0, 0, 0),
        step(equal, 3, 0, number(CALLS[0])),
        step(equal, 2, 0, number(CALLS[1])),
        step(equal, 1, 0, number(CALLS[2])),
        step(give, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(give, 0, 0, ASK),
    ];
    let program = libc::sock_fprog { len: 6, filter: program.as_mut_ptr() };
    // SAFETY: both calls read only what they are given, which outlives them.
    let listener = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    RawFd::try_from(listener).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// A control message with one descriptor in it.
#[repr(C)]
struct Passed {
    head: libc::cmsghdr,
    descriptor: RawFd,
    rest: [u8; 4],
}

/// Sends or takes one descriptor through a socket, without allocating. For sending it is given, for taking it is -1.
fn pass(descriptor: RawFd, socket: RawFd) -> io::Result<RawFd> {
    // SAFETY: zeros are a valid value of both structures; all pointers are to locals that outlive the call, with their sizes.
    unsafe {
        let mut passed: Passed = mem::zeroed();
        passed.head.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<RawFd>();
        passed.head.cmsg_level = libc::SOL_SOCKET;
        passed.head.cmsg_type = libc::SCM_RIGHTS;
        passed.descriptor = descriptor;
        let mut byte = 0_u8;
        let mut piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut passed).cast();
        message.msg_controllen = size_of::<Passed>();
        let bytes = match descriptor {
            -1 => libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC),
            _ => libc::sendmsg(socket, &raw const message, 0),
        };
        if bytes == 1 { Ok(passed.descriptor) } else { Err(io::Error::last_os_error()) }
    }
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let descriptor = pass(-1, socket.as_raw_fd())?;
    if descriptor < 0 {
        return Err(io::Error::other("the child sent no descriptor"));
    }
    // SAFETY: it was just received, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

struct Watch {
    listener: OwnedFd,
    process: i32,
    judge: Judge,
}

impl Watch {
    fn run(mut self) {
        loop {
            let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&self.listener), PollFlags::POLLIN)];
            let asked = match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => polled[0].revents().unwrap_or(PollFlags::empty()),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => panic!("the warden cannot wait: {error}"),
            };
            if asked.contains(PollFlags::POLLIN) {
                self.answer_one();
            } else if asked.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                // Nobody is left who could ask.
                return;
            }
        }
    }

    fn answer_one(&mut self) {
        // SAFETY: the kernel wants it zeroed, and fills it.
        let mut asked: libc::seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is a listener, and the structure is of the kernel's size.
        if unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) } != 0 {
            // Who asked was killed meanwhile.
            return;
        }
        let (error, flags) = self.carry_out(&asked);
        let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error, flags };
        // A process that was killed waits for no answer.
        // SAFETY: as above.
        let _ = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
    }

    /// The error to answer with, and the flags.
    fn carry_out(&mut self, asked: &libc::seccomp_notif) -> (i32, u32) {
        // The kernel's own constant is wider than the field.
        const GO_ON: (i32, u32) = (0, 1);
        let descriptor = asked.data.args[0];
        let number = libc::c_long::from(asked.data.nr);
        let place = PathBuf::from(format!("/proc/{}/fd/{descriptor}", self.process));
        let Ok(path) = fs::read_link(&place) else { return GO_ON };
        let kind = match number {
            libc::SYS_pwrite64 => Kind::Write { bytes: usize::try_from(asked.data.args[2]).unwrap_or(0) },
            _ => Kind::Sync,
        };
        let call = Call { kind, path, place };
        match (self.judge)(&call) {
            Verdict::Pass => return GO_ON,
            Verdict::Fail(error) => return (-error, 0),
            Verdict::Kill => {}
            Verdict::KillAfter if call.kind == Kind::Sync => call.sync_now(),
            Verdict::KillAfter => self.write_part(asked, &call, 0, usize::MAX),
            Verdict::TearHead(bytes) => self.write_part(asked, &call, 0, bytes),
            Verdict::TearTail(bytes) => self.write_part(asked, &call, bytes, usize::MAX),
        }
        let _ = kill(Pid::from_raw(self.process), Signal::SIGKILL);
        (-libc::EIO, 0)
    }

    /// Writes a part of what the process is about to write, in its stead.
    fn write_part(&self, asked: &libc::seccomp_notif, call: &Call, from: usize, to: usize) {
        let [_, address, count, offset, ..] = asked.data.args;
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
        let (from, to) = (from.min(bytes.len()), to.min(bytes.len()));
        let memory = File::open(format!("/proc/{}/mem", self.process));
        let read = memory.and_then(|memory| memory.read_exact_at(&mut bytes, address));
        let file = read.and_then(|()| OpenOptions::new().write(true).open(&call.place));
        let written = file.and_then(|file| file.write_all_at(&bytes[from..to.max(from)], offset + from as u64));
        written.expect("what the process may write, its warden may write");
    }
}
