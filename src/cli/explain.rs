//! `plenum explain`: the pages of `docs/errors`, compiled in.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use serde_json::json;

use super::Context;
use crate::{
    failure::Failure,
    job_file::nearest,
    output::{self, Format, Window},
};

/// How wide a page gets in a window that is wider, as help does.
const COLUMNS_MAX: usize = 100;
/// How wide it gets where the window's size is not known.
const COLUMNS_USUAL: usize = 80;

/// The pages, in the order of their codes.
macro_rules! pages {
    ($($code:ident),* $(,)?) => {
        const PAGES: &[(&str, &str)] = &[$((
            stringify!($code),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors/", stringify!($code), ".md")),
        )),*];
    };
}

pages! {
    ADDRESS_IN_USE,
    AGENT_GONE,
    ALLOCATION_RETIRED,
    ALREADY_THERE,
    BACKUP_RUNNING,
    BAD_DIRECTORY,
    BAD_SETTING,
    CANCELLED,
    COMMAND_NOT_FOUND,
    CONFIG,
    CONSTRAINT,
    DAMAGED_BACKUP,
    DAMAGED_HISTORY,
    DAMAGED_LOG,
    DEVICE_TAKEN,
    DIRECTORY_LOCKED,
    FUTURE_BASE,
    GUARD_FAILED,
    HISTORY_BEHIND,
    HISTORY_WRITE_FAILED,
    INSTANT_PASSED,
    INTERNAL,
    INVALID_REQUEST,
    IO,
    JOB_CHANGED,
    JOB_FILE_CYCLE,
    JOB_FILE_SYNTAX,
    JOB_FILE_UNKNOWN_FIELD,
    JOB_FILE_UNREADABLE,
    JOB_FILE_VALUE,
    JOB_LEAVING,
    JOB_OVER,
    JOB_VERSION,
    LIMIT_REACHED,
    LISTEN_FAILED,
    LOG_WRITE_FAILED,
    MACHINE_ALIVE,
    MACHINE_CHANGED,
    MACHINE_NOT_READY,
    MACHINE_RENAMED,
    MACHINE_TAKEN,
    MESSAGE_TOO_LARGE,
    MINIMUM_MISSED,
    NOT_DRAINING,
    NOT_LOOPBACK,
    MAY_NOT_EVICT,
    NOT_PERMITTED,
    NOT_WANTED,
    NO_CELL,
    NO_HELLO,
    NO_LOGS,
    NO_MACHINE_FITS,
    NO_ROOM,
    NO_ROOM_TO_HOLD,
    NO_SPACE,
    NO_SUCH_ALLOCATION,
    NO_SUCH_GROUP,
    NO_SUCH_JOB,
    NO_SUCH_MACHINE,
    NO_SUCH_PARTITION,
    NO_SUCH_PRINCIPAL,
    NO_SUCH_QUOTA,
    NO_SUCH_RESOURCE,
    NO_SUCH_REVISION,
    NO_SUCH_SCHEDULER,
    NO_SUCH_SESSION,
    NO_SUCH_TASK,
    NO_SUCH_TRANSACTION,
    NUMBER_RETIRED,
    NUMBER_REUSED,
    OTHER_CELL,
    OTHER_FORMAT,
    OTHER_INCARNATION,
    OTHER_MACHINE,
    OTHER_SCHEDULER,
    OTHER_SESSION,
    OUTCOME_UNKNOWN,
    PART_FAILED,
    PER_MACHINE_LIMIT,
    PORT_TAKEN,
    PREDECESSOR,
    QUEUE_FULL,
    QUOTA_EXCEEDED,
    READER_GONE,
    READ_ONLY,
    RESOURCES_DIFFER,
    RESOURCE_EXHAUSTED,
    REVISION_RETIRED,
    SCHEDULER_PAUSED,
    SERVER_ENDING,
    SPREAD_LIMIT,
    STALE_EPOCH,
    TASK_TAKEN,
    TIME_LIMIT,
    TOO_MANY_READERS,
    TOO_MUCH_TO_READ,
    TRANSACTION_RETIRED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    USAGE,
}

/// The page of a code.
fn page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == code).map(|(_, page)| *page)
}

/// All that `plenum explain` knows.
pub(super) fn codes() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(code, _)| *code)
}

/// True when `plenum explain` knows the code.
pub(crate) fn has_page(code: &str) -> bool {
    page(code).is_some()
}

/// A page's title without the mark and the code: what the code means in a few words.
fn title(page: &str) -> &str {
    page.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, title)| title)
}

pub(super) fn run(context: &Context, code: Option<&str>) -> Result<ExitCode, Failure> {
    let Some(code) = code else { return all(context.format) };
    let code = code.to_ascii_uppercase().replace('-', "_");
    let Some(page) = page(&code) else {
        let failure = Failure::usage(format!("there is no page for the code {code}"));
        let near = nearest(&code.to_lowercase(), PAGES.iter().map(|(known, _)| *known));
        let hint = near.map_or_else(|| "`plenum explain` lists all".to_owned(), |near| format!("did you mean {near}?"));
        return Err(failure.with_hint(hint));
    };
    output::print(&output::object(context.format, &json!({"code": code, "page": page}), &code, || shown(page)))?;
    Ok(ExitCode::SUCCESS)
}

/// The page for people at a terminal, and elsewhere as it was written.
fn shown(page: &str) -> String {
    let out = io::stdout();
    if !out.is_terminal() {
        return page.to_owned();
    }
    let columns = Window::of(&out).map_or(COLUMNS_USUAL, Window::columns);
    output::prose(page, columns.min(COLUMNS_MAX), output::is_styled(&out))
}

fn all(format: Format) -> Result<ExitCode, Failure> {
    let object: Vec<_> = PAGES.iter().map(|(code, page)| json!({"code": code, "title": title(page)})).collect();
    let text = match format {
        Format::Name => PAGES.iter().map(|(code, _)| format!("{code}\n")).collect(),
        _ => output::object(format, &json!({ "items": object }), "", || {
            let rows = PAGES.iter().map(|(code, page)| vec![(*code).to_owned(), title(page).to_owned()]).collect();
            output::table(&["CODE", "MEANING"], rows)
        }),
    };
    output::print(&text).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeSet, path::Path};

    use plenum_proto::v1::RefusalReason;

    use super::*;

    #[test]
    fn every_reason_of_a_refusal_has_a_page() {
        let reasons = (1..).map_while(|number| RefusalReason::try_from(number).ok());
        let missing: Vec<_> = reasons.map(|reason| reason.as_str_name()).filter(|code| !has_page(code)).collect();
        assert!(missing.is_empty(), "no page for {missing:?}");
    }

    #[test]
    fn every_code_of_a_rejection_has_a_page() {
        let codes = plenum_model::RejectionCode::ALL.iter().map(|code| code.as_str());
        let missing: Vec<_> = codes.filter(|code| !has_page(code)).collect();
        assert!(missing.is_empty(), "no page for {missing:?}");
    }

    #[test]
    fn every_code_in_the_sources_of_server_and_commands_has_a_page() {
        let roots = ["cellstate/server/src", "src"].map(|root| Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
        let (mut folders, mut codes) = (roots.to_vec(), BTreeSet::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let is_letter = |c: char| c.is_ascii_uppercase();
                    let is_code =
                        |word: &&str| word.contains(is_letter) && word.chars().all(|c| is_letter(c) || c == '_');
                    let of_several_words = text.split('"').filter(|word| word.contains('_'));
                    // Words are much else than codes, but for where a failure is made.
                    let of_failures = text.split("::new(\"").skip(1).filter_map(|rest| rest.split('"').next());
                    codes.extend(of_several_words.chain(of_failures).filter(is_code).map(str::to_owned));
                }
            }
        }
        // Variables of the environment have the same form, and so has why a task is not wanted, which stands beside its code.
        let others = ["CARGO_", "MIMALLOC_", "NO_COLOR", "PLENUM_", "RUST_LOG", "TASK_IS_DONE", "XDG_"];
        let is_other = |code: &String| others.iter().any(|prefix| code.starts_with(prefix));
        let is_missing = |code: &String| !is_other(code) && !has_page(code);
        assert!(codes.len() > 15, "codes are found");
        assert_eq!(codes.into_iter().filter(is_missing).collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn every_page_says_meaning_cause_and_what_to_do() {
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code} opens with its title");
            for part in ["## Meaning", "## Likely cause", "## What to do"] {
                assert!(page.contains(part), "{code} has {part}");
            }
        }
    }

    // What a terminal is shown of them is made of these: a link or a block of code would be told as if it were a sentence.
    #[test]
    fn every_page_has_only_what_can_be_told_at_a_terminal() {
        for (code, page) in PAGES {
            for mark in ["](", "```", "\n>", "\n\t", "\n    ", "**", "__"] {
                assert!(!page.contains(mark), "{code} has {mark:?}");
            }
            for block in page.split("\n\n") {
                assert_eq!(block.matches('`').count() % 2, 0, "{code}: {block}");
                let beside_code: String = block.split('`').step_by(2).collect();
                assert_eq!(beside_code.matches('*').count() % 2, 0, "{code}: {block}");
            }
        }
    }

    // That of RESOURCE_EXHAUSTED said that nothing was executed: it is the word of a library that did not take the answer.
    #[test]
    fn the_page_of_what_a_library_says_by_itself_tells_it_from_what_the_cell_says() {
        let bare = (1..=16).map(|code| tonic::Status::new(tonic::Code::from_i32(code), ""));
        let unanswered = bare.filter(plenum_proto::error::is_unanswered);
        let codes = unanswered.map(|status| Failure::from(status).code);
        let codes: Vec<String> = codes.filter(|code| has_page(code)).collect();
        assert!(codes.len() > 3, "{codes:?}");
        for code in codes {
            let page = page(&code).unwrap();
            assert!(page.contains("`plenum-code`") && page.contains("may have been"), "{code}");
        }
    }

    #[test]
    fn every_file_of_the_folder_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".md") && name != "README.md")
            .collect();
        let pages: BTreeSet<String> = PAGES.iter().map(|(code, _)| format!("{code}.md")).collect();
        assert_eq!(files, pages);
    }
}
