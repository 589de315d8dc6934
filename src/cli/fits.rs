//! Says of a job that was submitted that no machine of its cell could ever run it: it would wait, and whoever wrote its file is still there.

use plenum_proto::v1::{JobKind, JobShape, ListMachinesResponse, ListRequest, MachineView};

use super::hints;
use crate::{connect::Connection, fit, output};

/// So many machines are looked at first: mostly one of them fits, and a cell may have thousands.
const FIRST: u32 = 64;

/// Warns where no machine has room for a task of each group, were it empty. What takes no claims just now counts: it may take some again. That this can't be
/// found out, as of more machines than a cell lists at once, is no reason to fail: the job is submitted.
pub(super) async fn warn_of_misfit(connection: &Connection, shape: &JobShape) {
    let until = hints::look_until(None);
    let list = async |limit| {
        let request = ListRequest { limit, ..ListRequest::default() };
        hints::besides(until, connection.inspect().list_machines(request)).await
    };
    if let Some(words) = warning(shape, list).await {
        output::tell(&words);
    }
}

/// What to warn of; nothing where some machine fits, or that can't be known: not all were listed. `list`: the first so many machines of the cell.
async fn warning(shape: &JobShape, list: impl AsyncFn(u32) -> Option<ListMachinesResponse>) -> Option<String> {
    // 0: as many as the server lists.
    for limit in [FIRST, 0] {
        let listed = list(limit).await?;
        let words = misfit_words(shape, &listed.machines)?;
        if !listed.truncated {
            return Some(words);
        }
        // Not all of them would be listed then, either.
        if listed.exceeds_listing_rows {
            return None;
        }
    }
    None
}

fn misfit_words(shape: &JobShape, machines: &[MachineView]) -> Option<String> {
    let waits = match shape.kind() {
        JobKind::Recurring => "what is launched from the job waits",
        _ => "the job waits",
    };
    let misfit = fit::misfit(shape, machines)?;
    if machines.is_empty() {
        return Some(format!("warning: the cell has no machines; {waits} until one comes"));
    }
    // Elsewhere they are megahertz, or shares of 1024.
    let units = if misfit.short_of_cpu { " (cpu is in cores: `500m` is half of one)" } else { "" };
    Some(format!("warning: {}; {waits} until one does{units}", misfit.what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::Resources;

    use super::*;
    use crate::job_file::JobFile;

    fn job(lines: &str) -> JobShape {
        let text = format!("name = \"j\"\nscheduler = \"batch\"\n[group.main]\ncommand = [\"x\"]\n{lines}\n");
        JobFile::parse("job.toml", &text).unwrap().spec.shape.unwrap()
    }

    fn machines() -> Vec<MachineView> {
        let capacity = Some(Resources { cpu_millis: 4000, memory_bytes: 8 << 30, ..Resources::default() });
        vec![MachineView { name: "m1".to_owned(), capacity, ..MachineView::default() }]
    }

    // 500 was meant as megahertz, and the job waited without a word.
    #[test]
    fn a_job_that_fits_no_machine_is_told_what_lacks_and_in_which_units() {
        let told = |lines: &str| misfit_words(&job(lines), &machines()).unwrap_or_default();
        assert_eq!(
            told("resources = { cpu = 500, memory = \"1GiB\" }"),
            "warning: no machine fits group `main`: m1 comes nearest, where cpu is short by 496 (asked for 500, the machine has 4); \
             the job waits until one does (cpu is in cores: `500m` is half of one)"
        );
        let large = told("resources = { cpu = 1, memory = \"9GiB\" }");
        assert!(large.ends_with("the machine has 8GiB); the job waits until one does"), "{large}");
        assert_eq!(told("resources = { cpu = 4, memory = \"8GiB\" }"), "");
        assert_eq!(told("count = 0\nresources = { cpu = 500, memory = \"1GiB\" }"), "", "it asks for nothing");
    }

    #[test]
    fn a_cell_without_machines_has_words_of_its_own() {
        let lines = "resources = { cpu = 1, memory = \"1GiB\" }";
        let mut shape = job(lines);
        let told = |shape: &JobShape| misfit_words(shape, &[]).unwrap_or_default();
        assert_eq!(told(&shape), "warning: the cell has no machines; the job waits until one comes");
        shape.kind = JobKind::Recurring.into();
        assert!(told(&shape).ends_with("; what is launched from the job waits until one comes"));
        assert_eq!(told(&job(&format!("count = 0\n{lines}"))), "");
    }

    // Of a cell with more machines than its server lists, those that are not listed may fit: it would have been warned of what is not so.
    #[test]
    fn where_not_all_machines_are_listed_nobody_is_warned_of_those_that_are() {
        let (large, small) =
            (job("resources = { cpu = 500, memory = \"1GiB\" }"), job("resources = { cpu = 1, memory = \"1GiB\" }"));
        // So many machines there are, of which a server lists so many at once, and says so, or not: the warning, and how often it was asked.
        let told_by = |says_so: bool, shape: &JobShape, count: usize, listing_rows: usize| {
            let asked = std::cell::Cell::new(0);
            let list = async |limit: u32| {
                asked.set(asked.get() + 1);
                let limit = if limit == 0 { listing_rows } else { listing_rows.min(limit as usize) };
                let machines = machines().into_iter().cycle().take(count.min(limit)).collect();
                let exceeds_listing_rows = says_so && count > listing_rows;
                let truncated = count > limit;
                Some(ListMachinesResponse { machines, truncated, exceeds_listing_rows, ..Default::default() })
            };
            let words = crate::cli::block_on(warning(shape, list)).unwrap();
            (words.is_some(), asked.get())
        };
        let told = |shape: &JobShape, count, listing_rows| told_by(true, shape, count, listing_rows);
        assert_eq!(told(&large, 64, 10_000), (true, 1));
        assert_eq!(told(&large, 65, 10_000), (true, 2), "the first ones say nothing of all");
        assert_eq!(told(&small, 65, 10_000), (false, 1), "one of the first ones fits");
        assert_eq!(told(&large, 10_001, 10_000), (false, 1), "all of them are too many to be listed");
        assert_eq!(told(&large, 3, 2), (false, 1), "a server may list fewer than are asked for");
        assert_eq!(told_by(false, &large, 10_001, 10_000), (false, 2), "an earlier server does not say so");
        assert_eq!(told_by(false, &large, 3, 2), (false, 2));
        assert_eq!(told(&large, 0, 2), (true, 1));
    }

    #[test]
    fn where_machines_are_not_listed_nobody_is_warned() {
        let large = job("resources = { cpu = 500, memory = \"1GiB\" }");
        assert_eq!(crate::cli::block_on(warning(&large, async |_| None)).unwrap(), None);
    }
}
