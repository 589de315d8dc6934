//! What comes over streams, message by message: what the server, a scheduler and an agent take from the other end.

use std::collections::VecDeque;

use bytes::Bytes;
use plenum_agent::assignments::{self, Defaults};
use plenum_agent::driver::{DriverEvent, Exit, TaskSpec};
use plenum_agent::reconciler::{self, AgentReconciler, Registration};
use plenum_model::MachineId;
use plenum_proto::v1;
use plenum_sdk::{Decision, Input, Output, Scheduler, SchedulerRuntime, Settings, View};
use prost::Message;

/// An input is a row of messages, each behind its length.
pub(super) fn messages(input: &[u8]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(input);
    let mut all = Vec::new();
    while let Ok(length) = prost::decode_length_delimiter(&mut rest) {
        if length > rest.len() {
            break;
        }
        all.push(rest.split_to(length));
    }
    all
}

/// One message, as the stream of a session brings it to the server.
pub(super) fn session_request(input: &[u8]) -> bool {
    plenum_server::probe::session_request(&Bytes::copy_from_slice(input))
}

/// The body of a request, of which as many bytes come at a time as its first byte says: its messages end where they end, however it is cut.
pub(super) fn arriving(input: &[u8]) -> bool {
    let Some((piece, body)) = input.split_first() else { return false };
    // A byte about compression, four with a length, and so many bytes.
    let (mut rest, mut last) = (body, 0);
    while let [_, a, b, c, d, behind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some(next) = behind.get(length..) else { break };
        (rest, last) = (next, 5 + length);
    }
    let pieces = body.chunks(usize::from(*piece).max(1));
    assert_eq!(plenum_server::probe::messages(pieces), (last, rest.len()));
    last > 0
}

/// Looks on.
struct Idle;

impl Scheduler for Idle {
    fn name(&self) -> &str {
        "batch"
    }

    fn decide(&mut self, _: &View<'_>) -> Decision {
        Decision::default()
    }
}

/// What a server tells a scheduler, to the scheduler's own runtime: it follows, or begins anew and says why.
pub(super) fn session_responses(input: &[u8]) -> bool {
    let mut runtime = SchedulerRuntime::new(Settings::default(), Idle).expect("the settings are the usual ones");
    let _ = runtime.handle(0, Input::Start);
    let _ = runtime.handle(0, Input::Connected);
    let mut read = false;
    for (now_micros, bytes) in (1..).step_by(1_000_000).zip(messages(input)) {
        let Ok(message) = v1::SessionResponse::decode(bytes) else { continue };
        read |= message.tell.is_some();
        let mut outputs = runtime.handle(now_micros, Input::Received(message));
        outputs.extend(runtime.handle(now_micros, Input::Tick));
        for output in outputs {
            match output {
                Output::ConnectAfter { .. } => drop(runtime.handle(now_micros, Input::Connected)),
                Output::Send(request) => {
                    let bytes = request.encode_to_vec().into();
                    assert!(plenum_server::probe::session_request(&bytes), "no server would take {request:?}");
                }
                Output::Notice(notice) => assert!(!notice.to_string().is_empty(), "people are told nothing"),
                Output::Disconnect | Output::Close(_) | Output::Hold { .. } | Output::WakeAt { .. } => {}
            }
        }
    }
    read
}

/// What one message may lead to.
const STEPS_MAX: usize = 64;

/// What a server wants of an agent, to the agent's own state machine, whose tasks begin as they are told.
pub(super) fn assignments(input: &[u8]) -> bool {
    let machine = MachineId { slot: 1, generation: 1 };
    let registration = Registration {
        machine,
        epoch: 1,
        lease_ms: 60_000,
        renew_ms: 20_000,
        revision: 1,
        incarnation: 1,
        unfit: None,
    };
    let defaults = Defaults { machine: "m1".to_owned(), pids_max: 64 };
    let mut agent = AgentReconciler::new(reconciler::Settings::default(), 0, 0);
    let _ = agent.handle(0, reconciler::Input::Recovered(Vec::new()));
    let _ = agent.handle(0, reconciler::Input::Registered(registration));
    let mut read = false;
    for (now_ms, bytes) in (1..).step_by(700).zip(messages(input)) {
        let Ok(message) = v1::Assignments::decode(bytes) else { continue };
        read = true;
        let wanted = message.wanted.len();
        let taken = assignments::read(machine, 1, message, &defaults);
        let reconciler::Input::Assignments { wanted: taken_over, .. } = &taken else { panic!("read as {taken:?}") };
        assert!(taken_over.len() <= wanted, "more is wanted than was sent");
        let mut inputs = VecDeque::from([taken, reconciler::Input::Tick]);
        // Tasks begin and end as they are told; what follows from that, too, for a while.
        for _ in 0..STEPS_MAX {
            let Some(next) = inputs.pop_front() else { break };
            for output in agent.handle(now_ms, next) {
                inputs.extend(obeyed(output).into_iter().map(reconciler::Input::Driver));
            }
        }
    }
    read
}

/// What a server answers to registrations, to the agent's own state machine, whose time goes on meanwhile.
pub(super) fn registrations(input: &[u8]) -> bool {
    let mut agent = AgentReconciler::new(reconciler::Settings::default(), 0, 0);
    let _ = agent.handle(0, reconciler::Input::Recovered(Vec::new()));
    let mut read = false;
    for (now_ms, bytes) in (1..).step_by(5000).zip(messages(input)) {
        let Ok(answer) = v1::RegisterResponse::decode(bytes) else { continue };
        let taken = match plenum_agent::probe::registration(&answer) {
            Some(registration) => reconciler::Input::Registered(registration),
            None => reconciler::Input::RegisterFailed,
        };
        read |= matches!(taken, reconciler::Input::Registered(_));
        for input in [taken, reconciler::Input::Tick] {
            let _ = agent.handle(now_ms, input);
        }
        let _ = agent.handle(now_ms + 4000, reconciler::Input::Tick);
    }
    read
}

/// What a driver says that does what it is told at once.
fn obeyed(output: reconciler::Output) -> Vec<DriverEvent> {
    match output {
        reconciler::Output::Start(TaskSpec { allocation, restart, .. }) => {
            vec![DriverEvent::Recorded { allocation, restart }, DriverEvent::Started { allocation, restart }]
        }
        reconciler::Output::Stop(allocation) => {
            let (restart, exit) = (0, Exit { signal: Some(15), ..Exit::default() });
            vec![DriverEvent::Exited { allocation, restart, exit }, DriverEvent::Gone { allocation, restart }]
        }
        _ => Vec::new(),
    }
}
