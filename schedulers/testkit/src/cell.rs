//! A whole cell in the process: the real server over real connections, in a directory that goes with it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use plenum_proto::bounds::ANSWER_BYTES_MAX;
use plenum_proto::v1;
use plenum_proto::v1::cell_client::CellClient;
use plenum_proto::v1::inspect_client::InspectClient;
use plenum_proto::v1::jobs_client::JobsClient;
use plenum_sdk::{Options, Scheduler};
use plenum_server::{RestoreOptions, Server, ServerOptions, Settings as ServerSettings};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::agent::{ExitCodes, FakeAgent};
use crate::job::JobBuilder;

/// How long anything may take. A loaded machine takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Bytes of a log segment: tests write little, and filling segments with zeros takes time.
const SEGMENT_BYTES: u64 = 1 << 20;

/// A server with fake agents and real schedulers. Ends with the value.
pub struct TestCell {
    server: Option<RunningServer>,
    options: ServerOptions,
    address: String,
    channel: Channel,
    agents: BTreeMap<String, FakeAgent>,
    exit_codes: ExitCodes,
    _dir: TempDir,
}

/// A scheduler that runs beside the cell, on a thread of its own, and its connection on another one: it may think as long as it likes. Killed when dropped.
pub struct RunningScheduler {
    stop: oneshot::Sender<End>,
    ended: oneshot::Receiver<()>,
}

/// A server on a thread and a runtime of its own: with them all its connections end, as those of a killed process do.
struct RunningServer {
    stop: oneshot::Sender<End>,
    thread: std::thread::JoinHandle<()>,
}

/// How something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As when it is asked to.
    Asked,
    /// Without a word.
    Killed,
}

impl TestCell {
    /// An empty cell.
    ///
    /// # Panics
    /// When it cannot start: the test cannot either.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with other settings of its server, such as a shorter lease of its machines.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start_with(change: impl FnOnce(&mut ServerSettings)) -> Self {
        let dir = TempDir::new().expect("temporary directories can be made");
        let mut options = ServerOptions::new(dir.path().join("cell"));
        options.settings.segment_bytes = SEGMENT_BYTES;
        change(&mut options.settings);
        let (server, listens) = RunningServer::start(options.clone()).await;
        // The same port again after a restart, so that everybody finds it.
        options.listen = listens;
        let address = format!("http://{listens}");
        let endpoint = Channel::from_shared(address.clone()).expect("an address of a server is one");
        let channel = endpoint.connect_lazy();
        let (agents, exit_codes) = (BTreeMap::new(), ExitCodes::default());
        Self { server: Some(server), options, address, channel, agents, exit_codes, _dir: dir }
    }

    /// Where it is, for clients of the test's own.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Ends the server and starts it again, in the same directory and at the same address.
    ///
    /// # Panics
    /// When it does not end or start.
    pub async fn restart(&mut self) {
        self.begin_again(End::Asked).await;
    }

    /// As `restart`, but the server is given no time to end well.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn crash(&mut self) {
        self.begin_again(End::Killed).await;
    }

    /// As `restart`, but in another directory of the test. Where nothing is in it yet, the server makes another cell there, as it does where a path has a slip; the
    /// first one, of before a [`TestCell::restore`], has the cell as it was then. It is called `cell`.
    ///
    /// # Panics
    /// When it does not end or start.
    pub async fn restart_in(&mut self, dir: &str) {
        self.end(End::Asked).await;
        self.options.dir.set_file_name(dir);
        self.start_again().await;
    }

    /// As `restart`, but of the cell as it is restored from what the server leaves, in a directory of the test that is not there yet. Nothing is lost, and all of it is in
    /// the next incarnation: sessions of before are over, and machines have to register again.
    ///
    /// # Panics
    /// When it does not end, can't be restored, or does not start.
    pub async fn restore(&mut self, dir: &str) {
        self.end(End::Asked).await;
        let from = self.options.dir.clone();
        let to = from.with_file_name(dir);
        self.options.dir.clone_from(&to);
        let restoring = move || plenum_server::restore(&from, &to, &RestoreOptions::default());
        let restored = tokio::task::spawn_blocking(restoring).await.expect("restoring does not panic");
        restored.expect("what a server leaves can be restored");
        self.start_again().await;
    }

    async fn begin_again(&mut self, how: End) {
        self.end(how).await;
        self.start_again().await;
    }

    async fn end(&mut self, how: End) {
        let server = self.server.take().expect("it runs");
        tokio::task::spawn_blocking(move || server.end(how)).await.expect("ending does not panic");
    }

    async fn start_again(&mut self) {
        self.server = Some(RunningServer::start(self.options.clone()).await.0);
    }

    /// Adds a machine whose tasks end after `task_time`, with success unless [`TestCell::exits_with`] says otherwise. A task whose command has the word
    /// `infinity` never ends by itself, as those of `JobBuilder::forever`; what kind of job it is of is not asked.
    /// Whenever its agent registers anew, as after a restart of the server, what runs there begins anew, with all of `task_time`. Tasks of real machines go on.
    pub async fn machine(&mut self, name: &str, cpu_millis: i64, task_time: Duration) {
        self.machine_with(name, cpu_millis, task_time, &[], 0).await;
    }

    /// The same, with attributes as pairs of name and value, and with so many whole GPUs.
    pub async fn machine_with(
        &mut self,
        name: &str,
        cpu_millis: i64,
        task_time: Duration,
        attributes: &[(&str, &str)],
        gpus: u32,
    ) {
        let machine = FakeAgent::machine(name, cpu_millis, attributes, gpus);
        let agent = FakeAgent::start(self.channel.clone(), machine, task_time, self.exit_codes.clone()).await;
        self.agents.insert(name.to_owned(), agent);
    }

    /// From its next start on, a task of a job in the namespace `default` ends with this exit code, `task_time` of its machine after each start, also where it
    /// would never end by itself. Other than 0 it has failed, and is tried again as its group says. [`TestCell::ended`] shows what came of it.
    pub fn exits_with(&self, job: &str, group: &str, task: u32, code: i32) {
        self.exit_codes.set(job, group, task, code);
    }

    /// A machine falls silent: its agent ends without a word. The cell knows once its lease has run out, and what it ran is lost as long after that as its group says
    /// (`JobBuilder::lost_after`, a minute if nothing else was set): longer than [`TestCell::wait_for`] waits.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn silence(&mut self, machine: &str) {
        drop(self.agents.remove(machine).expect("a machine of the test"));
    }

    /// Runs a scheduler beside the cell.
    pub fn scheduler(&self, scheduler: impl Scheduler + Send + 'static) -> RunningScheduler {
        self.scheduler_with(scheduler, Options::new(self.address.clone()))
    }

    /// As `scheduler`, with options.
    pub fn scheduler_with(&self, scheduler: impl Scheduler + Send + 'static, options: Options) -> RunningScheduler {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = thinking_apart();
            let (ask, asked) = oneshot::channel::<()>();
            let running = plenum_sdk::run(options, scheduler, async { drop(asked.await) });
            runtime.block_on(async {
                let mut running = std::pin::pin!(running);
                let result = tokio::select! {
                    result = &mut running => result,
                    end = stopped => match end {
                        Ok(End::Asked) => {
                            drop(ask);
                            running.await
                        }
                        Ok(End::Killed) | Err(_) => return,
                    },
                };
                result.expect("options of a test are valid");
                // Nobody may be waiting any more.
                let _ = ending.send(());
            });
        });
        RunningScheduler { stop, ended }
    }

    /// Submits a job, and gives its id.
    ///
    /// # Panics
    /// When the cell refuses it.
    pub async fn submit(&self, job: &JobBuilder) -> u64 {
        let request = v1::SubmitRequest { spec: Some(job.spec()), ..Default::default() };
        self.jobs().submit(request).await.expect("a builder makes valid jobs").into_inner().job
    }

    /// A job as it is now.
    ///
    /// # Panics
    /// When there is none of that name.
    pub async fn job(&self, name: &str) -> v1::JobView {
        let request = v1::GetJobRequest { namespace: "default".into(), name: name.into(), at: None };
        self.jobs().get(request).await.expect("a job of the test").into_inner().job.expect("an answer has the job")
    }

    /// Waits until a job is as `wanted`.
    ///
    /// # Panics
    /// When it is not within half a minute; says how it is then.
    pub async fn wait_for(&self, name: &str, wanted: impl Fn(&v1::JobView) -> bool) -> v1::JobView {
        let begun = tokio::time::Instant::now();
        loop {
            let job = self.job(name).await;
            if wanted(&job) {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain; the job is now {job:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a job is complete.
    pub async fn wait_until_complete(&self, name: &str) -> v1::JobView {
        self.wait_for(name, |job| job.state() == v1::JobState::JobComplete).await
    }

    /// Transactions of a scheduler, oldest first.
    ///
    /// # Panics
    /// When the cell does not answer.
    pub async fn transactions(&self, scheduler: &str) -> Vec<v1::TransactionView> {
        let request = v1::ListTransactionsRequest {
            list: Some(v1::ListRequest::default()),
            scheduler: scheduler.into(),
            oldest_first: true,
            ..v1::ListTransactionsRequest::default()
        };
        self.inspect().list_transactions(request).await.expect("transactions can be listed").into_inner().transactions
    }

    /// Live allocations of a job.
    ///
    /// # Panics
    /// When the cell does not answer.
    pub async fn allocations(&self, job: &str) -> Vec<v1::AllocationView> {
        let list = Some(v1::ListRequest { namespace: "default".into(), ..v1::ListRequest::default() });
        let request = v1::ListAllocationsRequest { list, job: job.into(), ..v1::ListAllocationsRequest::default() };
        self.jobs().list_allocations(request).await.expect("allocations can be listed").into_inner().allocations
    }

    /// Allocations of a job that have ended by now, in the order of their ends, with their exit codes and reasons.
    ///
    /// # Panics
    /// When the cell does not answer, or can't tell of all of them within half a minute.
    pub async fn ended(&self, job: &str) -> Vec<v1::AllocationView> {
        let begun = tokio::time::Instant::now();
        let list = v1::ListRequest { namespace: "default".into(), ..v1::ListRequest::default() };
        let request = v1::ListAllocationsRequest {
            list: Some(list),
            job: job.into(),
            ended: true,
            ..v1::ListAllocationsRequest::default()
        };
        loop {
            let listed = self.jobs().list_allocations(request.clone()).await.expect("allocations can be listed");
            let v1::ListAllocationsResponse { mut allocations, truncated, .. } = listed.into_inner();
            if !truncated {
                allocations.retain(|allocation| allocation.ended_revision > 0);
                allocations.sort_by_key(|allocation| (allocation.ended_revision, allocation.id));
                return allocations;
            }
            assert!(begun.elapsed() < PATIENCE, "what ended last is not in the history yet");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A machine as it is now.
    ///
    /// # Panics
    /// When there is none of that name.
    pub async fn machine_view(&self, name: &str) -> v1::MachineView {
        let request = v1::GetMachineRequest { name: name.into(), at: None };
        let answer = self.inspect().get_machine(request).await.expect("a machine of the test").into_inner();
        answer.machine.expect("an answer has the machine")
    }

    /// For owners of jobs.
    #[must_use]
    pub fn jobs(&self) -> JobsClient<Channel> {
        JobsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// For operators.
    #[must_use]
    pub fn inspect(&self) -> InspectClient<Channel> {
        InspectClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// For schedulers.
    #[must_use]
    pub fn sessions(&self) -> CellClient<Channel> {
        CellClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

impl RunningServer {
    /// Starts it, and gives its address once it serves.
    async fn start(options: ServerOptions) -> (Self, SocketAddr) {
        let (stop, stopped) = oneshot::channel();
        let (serving, serves) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            one_thread().block_on(async move {
                let server = Server::start(options).await.expect("a server starts in the directory of a test");
                let _ = serving.send(server.address());
                if let Ok(End::Asked) = stopped.await {
                    server.shutdown().await.expect("it had not failed");
                }
            });
        });
        let address = serves.await.expect("it serves, or has said why not");
        (Self { stop, thread }, address)
    }

    fn end(self, how: End) {
        let _ = self.stop.send(how);
        self.thread.join().expect("the server's thread does not panic");
    }
}

/// For who is waited for on his own thread (`block_on`) and may hold that up: connections are served on another one meanwhile.
fn thinking_apart() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime with a thread beside its caller's can be built")
}

fn one_thread() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread can be built")
}

impl Drop for TestCell {
    fn drop(&mut self) {
        // The directory goes only once nobody writes into it any more.
        if let Some(server) = self.server.take() {
            server.end(End::Killed);
        }
    }
}

impl RunningScheduler {
    /// Ends it as it ends when asked to.
    ///
    /// # Panics
    /// When it does not end within half a minute.
    pub async fn stop(self) {
        let _ = self.stop.send(End::Asked);
        let ended = tokio::time::timeout(PATIENCE, self.ended).await;
        ended.expect("it ends when asked to").expect("it does not panic");
    }

    /// Ends it as if it were killed: the cell hears nothing.
    pub fn kill(self) {
        let _ = self.stop.send(End::Killed);
    }
}

/// Ends something when the value goes.
pub(crate) struct Ends(JoinHandle<()>);

impl Ends {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod listing_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watch_tests;
