//! What the server counts itself, as it serves it to whoever collects metrics: what clients cannot see.

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All counts at one moment.
pub(crate) struct Counts(String);

impl Counts {
    /// Asks a server.
    pub(crate) async fn of(address: &str) -> anyhow::Result<Self> {
        let host = address.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).await.with_context(|| format!("cannot connect to {host}"))?;
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.context("the server's metrics")?;
        ensure!(page.starts_with("HTTP/1.1 200"), "expected the server's metrics, found {page:?}");
        Ok(Self(page))
    }

    /// Bytes of batches that were written into the log, counted from somewhere. Its files are larger: segments are made whole before they are needed.
    pub(crate) fn log_bytes(&self) -> anyhow::Result<u64> {
        self.value("plenum_journal_written_bytes")
    }

    /// Checkpoints that were begun.
    pub(super) fn checkpoints(&self) -> anyhow::Result<u64> {
        self.value("plenum_history_checkpoints_total")
    }

    /// The value of a series, by its name with its labels.
    fn value<T: std::str::FromStr>(&self, series: &str) -> anyhow::Result<T> {
        let of_line = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(of_line).with_context(|| format!("the server's metrics have no {series}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_found_by_its_whole_name() {
        let page = "# TYPE plenum_history_checkpoints counter\nplenum_history_checkpoints_total_more 3\n\
            plenum_history_checkpoints_total 17\n";
        assert_eq!(Counts(page.to_owned()).checkpoints().unwrap(), 17);
        assert_eq!(Counts("plenum_journal_written_bytes 33554432\n".to_owned()).log_bytes().unwrap(), 33_554_432);
        let error = Counts(String::new()).checkpoints().unwrap_err();
        assert!(error.to_string().contains("plenum_history_checkpoints_total"), "{error}");
    }
}
