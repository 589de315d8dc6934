//! What the server counts itself, as it serves it to whoever collects metrics: what clients cannot see.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figure::Parameters;

/// What a request passes in a server, as far as that is timed: until it is taken out of the queue, and until it is answered, durable.
const STAGES: [&str; 2] = ["queue", "durable"];

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

    /// What was counted since: checkpoints that were begun, and how long the server had the requests of everybody, reports of relays among them, by stage. Of
    /// that the mean is exact; what 99 of 100 took at most is known up to a factor of four.
    pub(super) fn seen_since(&self, before: &Self) -> anyhow::Result<Parameters> {
        let stages = STAGES.map(|stage| anyhow::Ok((stage.to_owned(), self.stage_since(before, stage)?)));
        let stages: serde_json::Map<String, Value> = stages.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Parameters::from([
            ("checkpoints".to_owned(), json!(self.checkpoints()? - before.checkpoints()?)),
            ("seconds_in_server".to_owned(), Value::Object(stages)),
        ]))
    }

    /// Nothing is told where no request came.
    fn stage_since(&self, before: &Self, stage: &str) -> anyhow::Result<Value> {
        let since = |what: &str| {
            let series = format!("plenum_commit_duration_seconds_{what}{{stage=\"{stage}\"}}");
            anyhow::Ok(self.value::<f64>(&series)? - before.value::<f64>(&series)?)
        };
        let (seconds, count) = (since("sum")?, since("count")?);
        let mut buckets = self.buckets(stage).zip(before.buckets(stage));
        let p99 = buckets.find(|((_, now), (_, before))| count > 0.0 && now - before >= 0.99 * count);
        Ok(json!({ "mean": seconds / count, "p99_at_most": p99.map(|((seconds, _), _)| seconds) }))
    }

    /// Seconds, and how many requests took so long at most.
    fn buckets(&self, stage: &str) -> impl Iterator<Item = (f64, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix("plenum_commit_duration_seconds_bucket{le=\"")?;
            let (seconds, rest) = rest.split_once('"')?;
            let count = rest.strip_prefix(",stage=\"")?.strip_prefix(stage)?.strip_prefix("\"} ")?;
            Some((seconds.parse().ok()?, count.parse().ok()?))
        })
    }

    /// Checkpoints that were begun.
    fn checkpoints(&self) -> anyhow::Result<u64> {
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
    use crate::figure::number;

    #[test]
    fn a_count_is_found_by_its_whole_name() {
        let page = "# TYPE plenum_history_checkpoints counter\nplenum_history_checkpoints_total_more 3\n\
            plenum_history_checkpoints_total 17\n";
        assert_eq!(Counts(page.to_owned()).checkpoints().unwrap(), 17);
        assert_eq!(Counts("plenum_journal_written_bytes 33554432\n".to_owned()).log_bytes().unwrap(), 33_554_432);
        let error = Counts(String::new()).checkpoints().unwrap_err();
        assert!(error.to_string().contains("plenum_history_checkpoints_total"), "{error}");
    }

    /// As a server tells it that has had so many quick requests, and so many that took 3 ms.
    fn page(checkpoints: u64, quick: u64, slow: u64) -> Counts {
        let mut page = format!("plenum_history_checkpoints_total {checkpoints}\n");
        for stage in STAGES {
            let (seconds, all) = (number(quick) * 1e-4 + number(slow) * 3e-3, quick + slow);
            page += &format!(
                "plenum_commit_duration_seconds_sum{{stage=\"{stage}\"}} {seconds}\n\
                plenum_commit_duration_seconds_count{{stage=\"{stage}\"}} {all}\n\
                plenum_commit_duration_seconds_bucket{{le=\"0.000256\",stage=\"{stage}\"}} {quick}\n\
                plenum_commit_duration_seconds_bucket{{le=\"0.004096\",stage=\"{stage}\"}} {all}\n\
                plenum_commit_duration_seconds_bucket{{le=\"+Inf\",stage=\"{stage}\"}} {all}\n"
            );
        }
        Counts(page)
    }

    #[test]
    fn what_a_server_took_is_that_of_the_requests_between_two_looks() {
        let before = page(3, 1000, 500);
        let since = |after: Counts| after.seen_since(&before).unwrap();
        let seen = since(page(5, 1990, 510));
        assert_eq!(seen["checkpoints"], json!(2));
        for stage in STAGES {
            let told = &seen["seconds_in_server"][stage];
            assert_eq!(told["p99_at_most"], json!(0.000_256), "ten of a thousand took longer");
            let mean = told["mean"].as_f64().unwrap();
            assert!((mean - (0.099 + 0.03) / 1000.0).abs() < 1e-9, "{mean}");
        }
        assert_eq!(since(page(3, 1980, 520))["seconds_in_server"]["durable"]["p99_at_most"], json!(0.004_096));
        let nothing = since(page(3, 1000, 500));
        assert_eq!(nothing["seconds_in_server"]["queue"], json!({ "mean": null, "p99_at_most": null }));
    }
}
