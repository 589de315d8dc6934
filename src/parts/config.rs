//! Configuration files of parts: TOML with the names of the flags, and with the bounds that have no flag.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error};

use crate::{failure::Failure, job_file};

/// A server's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServerFile {
    pub(super) dir: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) custom_resources: Vec<String>,
    #[serde(deserialize_with = "time")]
    pub(super) lease: Option<Duration>,
    #[serde(deserialize_with = "time")]
    pub(super) session_linger: Option<Duration>,
    #[serde(deserialize_with = "time")]
    pub(super) retain: Option<Duration>,
    pub(super) retain_bytes: Option<u64>,
    pub(super) segment_bytes: Option<u64>,
    pub(super) reserve_bytes: Option<u64>,
    pub(super) recent_bytes: Option<usize>,
    pub(super) connections: Option<usize>,
    pub(super) listing_rows: Option<u32>,
}

/// An agent's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AgentFile {
    pub(super) addr: Option<String>,
    pub(super) name: Option<String>,
    pub(super) dir: Option<PathBuf>,
    pub(super) share: Option<u32>,
    pub(super) no_isolation: bool,
    pub(super) stop_tasks_on_exit: bool,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) log_file_bytes_max: Option<u64>,
    pub(super) ended_kept_max: Option<usize>,
    pub(super) pids_max: Option<u32>,
}

/// Reads a file; the defaults where none is named.
pub(super) fn read<C: DeserializeOwned + Default>(path: Option<&Path>) -> Result<C, Failure> {
    let Some(path) = path else { return Ok(C::default()) };
    let text =
        fs::read_to_string(path).map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?;
    toml::from_str(&text).map_err(|error| Failure::new("CONFIG", format!("{}: {error}", path.display())))
}

/// A time with a unit, such as `"15s"`.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let micros = job_file::duration_micros(&text).map_err(D::Error::custom)?;
    Ok(Some(Duration::from_micros(micros.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse<C: DeserializeOwned + Default>(text: &str) -> Result<C, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part.toml");
        fs::write(&path, text).unwrap();
        read(Some(&path))
    }

    #[test]
    fn a_servers_file_has_times_with_units() {
        let file: ServerFile = parse("listen = \"127.0.0.1:7171\"\nlease = \"15s\"\nretain_bytes = 10\n").unwrap();
        assert_eq!((file.lease, file.retain_bytes), (Some(Duration::from_secs(15)), Some(10)));
    }

    #[test]
    fn a_slip_in_a_configuration_is_an_error_with_its_place() {
        let failure = parse::<ServerFile>("lisen = \"127.0.0.1:7171\"\n").unwrap_err();
        assert_eq!(failure.code, "CONFIG");
        assert!(failure.message.contains("line 1") && failure.message.contains("lisen"), "{failure}");
        assert!(parse::<ServerFile>("lease = \"15\"\n").unwrap_err().message.contains("with a unit"));
        assert_eq!(parse::<AgentFile>("name = 3\n").unwrap_err().code, "CONFIG");
    }
}
