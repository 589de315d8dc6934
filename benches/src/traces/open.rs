//! Which format a file of jobs or machines has: told by how its first line looks, not by its name.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;

use super::work::{MachineClass, Trace};
use super::{batch, cells, mapreduce, ml, own, services, swf};

/// What jobs may be written in.
const FORMATS: &str = "the Standard Workload Format, tab-separated lines of SWIM, or CSV whose first line names the columns (docs/traces.md)";

/// Reads jobs of any known format.
///
/// # Errors
/// When it is of none, or not what its format says, with the place.
pub(crate) fn jobs(path: &Path) -> anyhow::Result<Trace> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let first = first_line(path)?;
    let has = |columns: &[&str]| columns.iter().all(|column| first.split(',').any(|one| one.trim() == *column));
    let trace = if first.starts_with(';') || first.split_ascii_whitespace().count() == 18 && !first.contains(',') {
        swf::trace(&name, &swf::read(path)?)
    } else if first.contains('\t') {
        mapreduce::trace(&name, &mapreduce::read(path)?)
    } else if has(&["instances", "mem_frac"]) {
        batch::trace(&name, &batch::read(path)?)
    } else if has(&["tenant", "submit_min"]) {
        ml::trace(&name, &ml::read_chronus(path)?)
    } else if has(&["job_id", "gpus", "duration_s"]) {
        ml::trace(&name, &ml::read_philly(path)?)
    } else if has(&["instance", "app", "role"]) {
        services::trace(&name, &services::read(path)?)
    } else if first.contains(',') {
        own::read_jobs(path, &name)?
    } else {
        let shown: String = first.chars().take(60).collect();
        bail!("{}, line 1: expected jobs in {FORMATS}, found {shown:?}", path.display());
    };
    anyhow::ensure!(!trace.jobs.is_empty(), "{}: expected jobs that can run, found none", path.display());
    Ok(trace)
}

/// Reads classes of machines, of one's own or of a known cell.
///
/// # Errors
/// As [`jobs`].
pub(crate) fn machines(path: &Path) -> anyhow::Result<Vec<MachineClass>> {
    let first = first_line(path)?;
    let classes = if first.contains("failure_domain_1") {
        cells::classes(&cells::read_alibaba(path)?, 1.0, 100.0)
    } else if first.contains("platform") {
        cells::classes(&cells::read_google(path)?, cells::GOOGLE_CORES, 1.0)
    } else {
        own::read_machines(path)?
    };
    anyhow::ensure!(!classes.is_empty(), "{}: expected machines, found none", path.display());
    Ok(classes)
}

fn first_line(path: &Path) -> anyhow::Result<String> {
    let file =
        std::fs::File::open(path).with_context(|| format!("{}: expected a file that can be read", path.display()))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    anyhow::ensure!(
        is_file,
        "{}: expected a file, found a folder or a pipe: it is read more than once",
        path.display()
    );
    let mut raw = BufReader::new(file);
    let compressed = raw.fill_buf().is_ok_and(|bytes| bytes.starts_with(&[0x1f, 0x8b]));
    let mut bytes = Vec::new();
    // As much as is needed to tell formats apart. Whatever is wrong with the file, the format's own reader will say where.
    let read = if compressed {
        BufReader::new(MultiGzDecoder::new(raw)).take(4096).read_until(b'\n', &mut bytes)
    } else {
        raw.take(4096).read_until(b'\n', &mut bytes)
    };
    read.with_context(|| format!("{}: expected a file that can be read", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(text: &str) -> Result<usize, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        jobs(file.path()).map(|trace| trace.jobs.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_format_is_known_by_its_first_line() {
        assert_eq!(name_of("; a log\n1 0 5 100 2 99.5 -1 2 200 -1 1 3 1 -1 1 -1 -1 -1\n"), Ok(1));
        assert_eq!(name_of("a\t7\t7\t1\t0\t0\n"), Ok(1));
        assert_eq!(name_of("job_id,submit_s,gpus,duration_s\n1,5,4,60\n"), Ok(1));
        assert_eq!(name_of("job_id,tenant,submit_min,gpus,duration_min\n1,a,2,1,3\n"), Ok(1));
        assert_eq!(name_of("job,submit_s,run_s,tasks,cpu_millis,memory_mib\na,1,2,3,4,5\n"), Ok(1));
    }

    /// A pipe was told to be an empty file: its beginning had been read to tell the format.
    #[test]
    fn what_can_be_read_only_once_is_no_file_of_jobs() {
        let folder = tempfile::tempdir().unwrap();
        let refused = jobs(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("expected a file, found a folder or a pipe"), "{refused}");
    }

    #[test]
    fn what_is_no_list_of_jobs_is_refused() {
        assert!(name_of("hello\n").unwrap_err().contains("line 1: expected jobs in the Standard Workload Format"));
        assert!(name_of("; nothing but remarks\n").unwrap_err().ends_with("expected jobs that can run, found none"));
    }
}
