//! What is done beside the agent's loop: work that waits for a disk or for other programs, on threads of its own, and parts that go on for as long as the
//! agent does, or a task. It knows neither the cell nor what a task is.

use std::{
    any::Any,
    future::{pending, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

/// How soon it is asked again where the system gives no thread; each time later.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(100);
const ASKED_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// The log says that there is no thread, and there was none since.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// Has work done on another thread: the agent keeps its lease on this one. Where the system gives no thread, as at a limit of processes, the work waits
/// until there is one. A panic of the work is its caller's own.
pub(crate) async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, mut answer) = oneshot::channel::<thread::Result<T>>();
    // What tokio finds no thread for stays in its queue all the same. It is asked again, and the work is done by what begins first.
    let begin = {
        let waiting = Arc::new(Mutex::new(Some((work, sender))));
        move || {
            let taken = waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((work, sender)) = taken {
                // Whoever asked for it may be gone.
                drop(sender.send(catch_unwind(AssertUnwindSafe(work))));
            }
        }
    };
    let (mut is_asked, mut pause) = (is_asked_for(begin.clone()), ASKED_AGAIN_AFTER);
    let answered = loop {
        if is_asked {
            break answer.await;
        }
        // Who finds a thread for other work meanwhile finds one for this, too.
        if let Ok(answered) = timeout(pause, &mut answer).await {
            break answered;
        }
        pause = (pause * 2).min(ASKED_AGAIN_AFTER_MAX);
        is_asked = is_asked_for(begin.clone());
    };
    match answered {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => resume_unwind(panic),
        // Nobody begins it any more: the runtime is on its way down, and so is this task.
        Err(_) => pending().await,
    }
}

/// Asks for a thread. False: there is none, and none to wait for; of that tokio makes a panic.
fn is_asked_for(begin: impl FnOnce() + Send + 'static) -> bool {
    // Where there was none, first for one that does nothing: each question to tokio would stay in its queue for as long as there is none, and each panic
    // is written out on this thread.
    if IS_TOLD.load(Ordering::Relaxed) && !has_thread() {
        return false;
    }
    let is_asked = catch_unwind(AssertUnwindSafe(|| drop(spawn_blocking(begin)))).is_ok();
    if is_asked {
        IS_TOLD.store(false, Ordering::Relaxed);
    } else if !IS_TOLD.swap(true, Ordering::Relaxed) {
        tracing::error!(
            "the system gives the agent no thread (look at TasksMax= of its unit, at `ulimit -u` of its user, and at its memory): what waits for \
             a disk, as starts and ends of tasks do, waits until there is one"
        );
    }
    is_asked
}

/// Whether the system gives a thread. The one by which that is found out has ended: there may be no other.
fn has_thread() -> bool {
    thread::Builder::new().spawn(|| ()).is_ok_and(|probe| probe.join().is_ok())
}

/// Which part panicked, and what it said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    pub(crate) part: &'static str,
    pub(crate) what: String,
}

impl Panicked {
    fn of(part: &'static str, panic: &(dyn Any + Send)) -> Self {
        Self { part, what: said(panic).to_owned() }
    }
}

/// What a panic said; empty where that was no text.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Where the agent hears of a part that panicked.
pub(crate) type Alarm = mpsc::Sender<Panicked>;

/// Starts a part without which the agent must not go on: where it panics, the agent hears of it. Its end is none of the agent's business.
pub(crate) fn spawn(
    part: &'static str,
    alarm: &Alarm,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let alarm = alarm.clone();
    tokio::spawn(async move {
        let mut work = pin!(work);
        let panicked = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
            polled.map_or_else(|panic| Poll::Ready(Some(panic)), |polled| polled.map(|()| None))
        });
        if let Some(panic) = panicked.await {
            // Where there is no room, another one panicked before it, which is enough.
            drop(alarm.try_send(Panicked::of(part, &*panic)));
        }
    })
}

/// A runtime to which the system gives no thread: there is no address space for such a stack.
#[cfg(test)]
pub(crate) fn runtime_without_threads() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().thread_stack_size(1 << 50).build().expect("a runtime begins without such a thread")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{env, fs, process::Command};

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    /// Set where a test runs in a process of its own, as all threads of one share its room.
    const ALONE: &str = "PLENUM_TEST_ALONE";

    /// Leaves this process so much address space. A thread takes two MiB, and little else.
    fn leave_room(bytes: u64) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some((kib << 10) + bytes), maximum }).unwrap();
    }

    // Whether there is a thread was asked by one that was still there when the work was to have it. And for each work that waited, a panic was
    // written out.
    #[test]
    fn the_only_thread_does_all_that_waited_for_it_and_one_panic_tells_that_there_was_none() {
        if env::var_os(ALONE).is_none() {
            let name =
                "threads::tests::the_only_thread_does_all_that_waited_for_it_and_one_panic_tells_that_there_was_none";
            let mut alone = Command::new(env::current_exe().unwrap());
            alone.args(["--exact", name, "--nocapture"]).env(ALONE, "").env("RUST_BACKTRACE", "0");
            let ended = alone.env_remove("RUST_MIN_STACK").output().unwrap();
            let told = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{told}");
            assert_eq!(told.matches("panicked at").count(), 1, "{told}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            leave_room(1 << 20);
            let ask = || tokio::spawn(on_a_thread(|| 7));
            let works = [ask(), ask()];
            tokio::time::sleep(4 * ASKED_AGAIN_AFTER).await;
            assert!(works.iter().all(|work| !work.is_finished()), "there is none");
            leave_room(3 << 20);
            for work in works {
                assert_eq!(timeout(ASKED_AGAIN_AFTER_MAX, work).await.unwrap().unwrap(), 7);
            }
        });
    }

    // It was a panic of whoever asked. What it was to do was not done, and nobody heard of that.
    #[test]
    fn where_the_system_gives_no_thread_work_waits_and_is_done_once_when_there_is_one() {
        let without = runtime_without_threads();
        let with = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (done, told) = std::sync::mpsc::channel();
        let mut work = pin!(on_a_thread(move || done.send(7)));
        let waited = without.block_on(async { timeout(4 * ASKED_AGAIN_AFTER, &mut work).await });
        assert!(waited.is_err() && told.try_recv().is_err(), "there is none");
        let (end, ends) = oneshot::channel::<()>();
        // Its clock goes on, by which it is asked again.
        let clock = thread::spawn(move || drop(without.block_on(ends)));
        assert!(with.block_on(work).is_ok());
        assert_eq!((told.recv(), told.recv().is_err()), (Ok(7), true), "and not a second time");
        drop(end);
        clock.join().unwrap();
    }

    #[tokio::test]
    async fn a_panic_of_work_on_a_thread_is_its_callers_own() {
        assert_eq!(on_a_thread(|| 7).await, 7);
        let asked = tokio::spawn(on_a_thread::<()>(|| panic!("no such disk")));
        let panic = asked.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no such disk"));
    }

    // Nobody noticed: what a part did was not done any more, until the agent was started again.
    #[tokio::test]
    async fn of_a_part_that_panics_the_agent_hears_and_of_one_that_ends_it_does_not() {
        let (alarm, mut panics) = mpsc::channel(1);
        for _ in 0..2 {
            spawn("one", &alarm, async {}).await.unwrap();
            spawn("another", &alarm, on_a_thread::<()>(|| panic!("no such disk"))).await.unwrap();
        }
        drop(alarm);
        assert_eq!(panics.recv().await, Some(Panicked { part: "another", what: "no such disk".to_owned() }));
        assert_eq!(panics.recv().await, None, "the first one is enough");
    }
}
