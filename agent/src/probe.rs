//! Reads a record of an agent's directory, or what a server answers, whatever it holds: the way in for the fuzzer, which has neither.

use plenum_proto::v1;
use serde::{Serialize, de::DeserializeOwned};

use crate::reconciler::Registration;
use crate::{
    driver::Exit, durable, exec::Note, isolation::Isolation, process::ProcessIdentity, service, service::Remembered,
    shim::ShimSpec,
};

/// Reads a file as each kind of record there is, and gives how many kinds it could be.
///
/// # Panics
/// When a record is another one after it was written and read again.
#[must_use]
pub fn record(text: &[u8]) -> usize {
    let kinds = [
        is::<ShimSpec>(text),
        is::<ProcessIdentity>(text),
        is::<Exit>(text),
        is::<Note>(text),
        is::<Remembered>(text),
        is::<Isolation>(text),
        is::<String>(text),
    ];
    kinds.into_iter().filter(|is| *is).count()
}

fn is<T: Serialize + DeserializeOwned>(text: &[u8]) -> bool {
    let Ok(record) = durable::parse::<T>(text) else { return false };
    let written = serde_json::to_vec(&record).expect("a record that was read can be written");
    let again: T = durable::parse(&written).expect("what was written is read");
    let again = serde_json::to_vec(&again).expect("a record that was read can be written");
    assert!(again == written, "a record is another one when it is read again: {}", String::from_utf8_lossy(&written));
    true
}

/// Reads the answer to a registration; `None` where it says something that can't be.
#[must_use]
pub fn registration(answer: &v1::RegisterResponse) -> Option<Registration> {
    service::answered(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What an agent wrote once, and the next one finds while tasks run. Never changed: a field that comes later is added here as a text of its own.
    const SPEC: &str = r#"{"task":{"allocation":4294967303,"restart":2,"job":4294967299,"job_version":1,"command":["/bin/sh","-c","true"],
        "env":{"LC_ALL":"C"},"cpu_millis":500,"memory_bytes":67108864,"pids_max":64,"kill_timeout_ms":10000,
        "traces":{"namespace":"default","job":"web","group":"main","task":3,"cpu_millis":500,"memory_bytes":67108864,"disk_bytes":0,
            "custom":[7],"devices":[["gpu",1,300,"a100"]],"ports":[["http",20001]]},
        "policy":{"attempts":3,"delay_ms":1000,"within_ms":600000},"recent_restarts_at":[[1800000000000,1],[1800000010000,1]]},
        "boot_id":"c2b6e0f4-6c0c-4d0b-9a55-0d3c2d3b1f11","job_directory":"/var/lib/plenum/jobs/1",
        "cgroup":{"version":"V2","directories":{"cpu":"/sys/fs/cgroup/plenum/alloc-7-1"}},
        "isolation":{"user":false,"pid":true,"mount":true,"hidden":true,"proc":true,"ipc":true},
        "log_file_bytes_max":1048576,"open_files":1024}"#;
    /// The same of an agent that knew less.
    const EARLY_SPEC: &str = r#"{"task":{"allocation":4294967303,"restart":0,"job":4294967299,"command":["true"],"env":{},"cpu_millis":0,
        "memory_bytes":0,"pids_max":0,"kill_timeout_ms":10000},"boot_id":"c2b6e0f4-6c0c-4d0b-9a55-0d3c2d3b1f11",
        "job_directory":"/var/lib/plenum/jobs/1","cgroup":{"version":"V1","directories":{"memory":"/sys/fs/cgroup/memory/alloc-7-1"}},
        "isolation":{"user":true,"pid":false,"mount":false,"proc":false,"ipc":false},"log_file_bytes_max":1048576}"#;
    const PROCESS: &str = r#"{"pid":4711,"start_ticks":99,"boot_id":"c2b6e0f4-6c0c-4d0b-9a55-0d3c2d3b1f11"}"#;
    const EXIT: &str = r#"{"code":3,"signal":null,"oom_kills":0,"started_unix_ms":1800000000000,"ended_unix_ms":1800000005000,
        "stop_requested":false,"failure":null}"#;
    const FAILED: &str = r#"{"code":null,"signal":9,"oom_kills":2,"started_unix_ms":null,"ended_unix_ms":1800000005000,
        "stop_requested":true,"failure":{"kind":"out_of_memory","message":"it used more than 64 MiB"}}"#;
    const OVERSTAYED: &str = r#"{"code":null,"signal":9,"oom_kills":0,"started_unix_ms":1800000000000,"ended_unix_ms":1800000005000,
        "stop_requested":true,"overstayed_ms":30000,"failure":null}"#;
    const NOTE: &str = r#"{"unreadable":"alloc-7-1/spec.json can't be read: nobody knows how far it came"}"#;
    const REMEMBERED: &str = r#"{"cell_id":"00112233445566778899aabbccddeeff","incarnation":3,"revision":4711}"#;
    const NAMED: &str =
        r#"{"cell_id":"00112233445566778899aabbccddeeff","machine":"m1","incarnation":3,"revision":4711}"#;

    /// Whether all of a record stands where it stood when it is written again.
    fn stays(was: &Value, is: &Value) -> bool {
        match (was, is) {
            (Value::Object(was), Value::Object(is)) => {
                was.iter().all(|(name, value)| is.get(name).is_some_and(|is| stays(value, is)))
            }
            _ => was == is,
        }
    }

    #[track_caller]
    fn check<T: Serialize + DeserializeOwned>(text: &str) {
        let record: T = durable::parse(text.as_bytes()).expect("what an earlier agent wrote is read");
        let (was, is) = (serde_json::from_str(text), serde_json::to_value(&record));
        let (was, is): (Value, Value) = (was.expect("it is JSON"), is.expect("it can be written"));
        assert!(stays(&was, &is), "{was} was read as {is}");
    }

    // A field that was renamed, or that had to be there, was noticed by nothing.
    #[test]
    fn what_an_earlier_agent_wrote_is_read_with_all_that_is_in_it() {
        check::<ShimSpec>(SPEC);
        check::<ShimSpec>(EARLY_SPEC);
        check::<ProcessIdentity>(PROCESS);
        check::<Exit>(EXIT);
        check::<Exit>(FAILED);
        check::<Exit>(OVERSTAYED);
        check::<Note>(NOTE);
        check::<Remembered>(REMEMBERED);
        check::<Remembered>(NAMED);
    }
}
