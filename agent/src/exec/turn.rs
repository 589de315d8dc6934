//! What a start waits for before it is made: that it may be, and one of the few places in which starts are prepared.
//!
//! It is asked where a start is made and not only where one is ordered: in between a disk may hang for minutes, in which the lease ends and the task
//! is placed elsewhere.

use std::{future::pending, io, sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Asked;
use crate::clock::since_boot;

/// Until when starts may be made, as the agent says from moment to moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Permission {
    /// By [`since_boot`]; `None` in it: not now. `None` around it: always.
    until: Option<watch::Receiver<Option<Duration>>>,
}

impl Permission {
    pub(super) fn until(until: watch::Receiver<Option<Duration>>) -> Self {
        Self { until: Some(until) }
    }

    fn is_given(&self) -> bool {
        self.until.as_ref().is_none_or(|until| is_to_come(*until.borrow()))
    }

    /// For those who are about to make a start.
    ///
    /// # Errors
    /// When it may not be made now.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_given() {
            return Ok(());
        }
        let what = "the lease ended before it was made, or what must be gone first is there";
        Err(io::Error::new(io::ErrorKind::WouldBlock, what))
    }

    /// Comes back when it is given.
    async fn given(&mut self) {
        let Some(until) = &mut self.until else { return };
        let is_given = until.wait_for(|until| is_to_come(*until)).await.is_ok();
        if !is_given {
            // The agent ends.
            pending::<()>().await;
        }
    }
}

fn is_to_come(until: Option<Duration>) -> bool {
    until.is_some_and(|until| since_boot() < until)
}

/// What one start waits with.
pub(super) struct Turn {
    pub(super) slots: Arc<Semaphore>,
    pub(super) permission: Permission,
    pub(super) stop: watch::Receiver<Asked>,
}

impl Turn {
    /// Comes back with a slot when the start may be made, or is told to end: that needs nobody's permission, and others may wait for it before they
    /// are permitted anything.
    pub(super) async fn taken(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                () = self.permission.given() => {}
                () = told_to_end(&mut self.stop) => {}
            }
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
            // Others may have had it for long.
            let is_told_to_end = *self.stop.borrow() > Asked::Run;
            if is_told_to_end || self.permission.is_given() {
                return slot;
            }
        }
    }
}

/// Comes back then; where nobody can say so any more, never.
async fn told_to_end(stop: &mut watch::Receiver<Asked>) {
    let is_told = stop.wait_for(|asked| *asked > Asked::Run).await.is_ok();
    if !is_told {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        fs,
        pin::{Pin, pin},
        sync::PoisonError,
        task::Poll,
        thread,
    };

    use plenum_model::AllocationId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        directories::AllocationDirectory,
        driver::{DriverEvent, Exit},
        exec::{
            self, STARTS_AT_ONCE_MAX,
            start::{Shared, Start, live},
        },
    };

    const ALLOCATION: AllocationId = AllocationId { slot: 1, generation: 1 };

    /// A start whose shim can't be started: that it is made shows in that it fails.
    struct Stage {
        place: tempfile::TempDir,
        shared: Shared,
        lease: watch::Sender<Option<Duration>>,
        slots: Arc<Semaphore>,
        directory: AllocationDirectory,
    }

    impl Stage {
        fn set() -> Self {
            let place = tempfile::tempdir().unwrap();
            let options = exec::options_at(place.path().to_owned());
            let directory = options.directory.allocation(ALLOCATION);
            let (lease, until) = watch::channel(None);
            let slots = Arc::new(Semaphore::new(STARTS_AT_ONCE_MAX));
            let shared = Shared {
                options: Arc::new(options),
                slots: Arc::clone(&slots),
                recording: Arc::default(),
                forgotten: Arc::default(),
                setups_failed: Arc::default(),
                gate: None,
                permission: Permission::until(until),
            };
            Self { place, shared, lease, slots, directory }
        }

        fn start(&self) -> Start {
            let task = Box::new(exec::shim_spec(ALLOCATION, self.place.path().join("job")).task);
            Start::New { task, is_known: false }
        }
    }

    /// Lets a life go as far as it comes by itself. True: it is over.
    async fn is_over(mut life: Pin<&mut impl Future<Output = ()>>) -> bool {
        std::future::poll_fn(|context| Poll::Ready(life.as_mut().poll(context).is_ready())).await
    }

    async fn exit(told: &mut mpsc::Receiver<DriverEvent>) -> Exit {
        match told.recv().await {
            Some(DriverEvent::Exited { exit, .. }) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn until_soon(mut what: impl FnMut() -> bool) {
        while !what() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    // A disk hung, and the network was cut. What had been ordered before began minutes later, when the cell had long placed it elsewhere.
    #[tokio::test]
    async fn a_start_that_waits_is_not_made_after_the_lease_has_ended() {
        let stage = Stage::set();
        let (events, mut told) = mpsc::channel(8);
        let (_stop, stopped) = watch::channel(Asked::Run);
        let mut life = pin!(live(stage.start(), stage.shared.clone(), events, stopped));
        assert!(!is_over(life.as_mut()).await);
        assert_eq!(stage.slots.available_permits(), STARTS_AT_ONCE_MAX, "it keeps nobody from his turn");
        let all = u32::try_from(STARTS_AT_ONCE_MAX).unwrap();
        let others = Arc::clone(&stage.slots).acquire_many_owned(all).await.unwrap();
        stage.lease.send_replace(Some(Duration::MAX));
        assert!(!is_over(life.as_mut()).await, "others have all slots");
        stage.lease.send_replace(Some(Duration::ZERO));
        drop(others);
        assert!(!is_over(life.as_mut()).await);
        assert_eq!(stage.slots.available_permits(), STARTS_AT_ONCE_MAX, "it gave its slot back");
        assert!(!stage.directory.spec().exists() && told.try_recv().is_err());
        stage.lease.send_replace(Some(Duration::MAX));
        life.await;
        assert!(stage.directory.spec().exists());
        let exit = exit(&mut told).await;
        assert!(exit.to_string().starts_with("starting a shim"), "{exit}");
    }

    // What is not wanted any more must be gone before anything is permitted again: it must not wait for that itself.
    #[tokio::test]
    async fn a_start_that_may_not_be_made_heeds_a_stop() {
        let stage = Stage::set();
        let (events, mut told) = mpsc::channel(8);
        let (stop, stopped) = watch::channel(Asked::Run);
        let mut life = pin!(live(stage.start(), stage.shared.clone(), events, stopped));
        assert!(!is_over(life.as_mut()).await);
        stop.send_replace(Asked::Stop);
        life.await;
        let exit = exit(&mut told).await;
        assert!(exit.stop_requested && exit.failure.is_none(), "{exit:?}");
        assert!(!stage.directory.spec().exists());
    }

    // A mark that could not be taken away hid the start from the next agent, and made its own end look like one of before.
    #[tokio::test]
    async fn no_start_is_made_beside_the_mark_of_an_earlier_end() {
        let stage = Stage::set();
        stage.lease.send_replace(Some(Duration::MAX));
        // A folder in its place is not removed as a file is.
        fs::create_dir_all(stage.directory.ended()).unwrap();
        let (events, mut told) = mpsc::channel(8);
        let (_stop, stopped) = watch::channel(Asked::Run);
        live(stage.start(), stage.shared.clone(), events, stopped).await;
        let exit = exit(&mut told).await;
        assert!(exit.failure.is_some() && !stage.directory.spec().exists(), "{exit}");
    }

    // It was written down for as long as the disk hung, and made then.
    #[test]
    fn a_start_that_is_being_written_down_when_the_lease_ends_is_made_with_the_next_one() {
        let stage = Stage::set();
        stage.lease.send_replace(Some(Duration::MAX));
        fs::create_dir_all(stage.directory.root()).unwrap();
        fs::write(stage.directory.ended(), "").unwrap();
        let (events, mut told) = mpsc::channel(8);
        let (_stop, stopped) = watch::channel(Asked::Run);
        let mut life = pin!(live(stage.start(), stage.shared.clone(), events, stopped));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // As if a disk did not answer.
        let disk = stage.shared.recording.write().unwrap_or_else(PoisonError::into_inner);
        assert!(!runtime.block_on(is_over(life.as_mut())));
        until_soon(|| !stage.directory.ended().exists());
        stage.lease.send_replace(None);
        drop(disk);
        until_soon(|| stage.directory.spec().exists());
        until_soon(|| {
            assert!(!runtime.block_on(is_over(life.as_mut())), "it was made");
            stage.slots.available_permits() == STARTS_AT_ONCE_MAX
        });
        assert!(told.try_recv().is_err());
        stage.lease.send_replace(Some(Duration::MAX));
        runtime.block_on(life);
        let exit = runtime.block_on(exit(&mut told));
        assert!(exit.to_string().starts_with("starting a shim"), "{exit}");
    }
}
