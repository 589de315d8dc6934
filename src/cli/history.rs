//! What happened to a job, an allocation, a machine or the whole cell: printed by itself, or with what it is about.

use plenum_proto::v1::{At, CellHistoryRequest, HistoryResponse};
use serde_json::{Value, json};

use super::{
    Context,
    args::Told,
    at::{Since, up_to},
    conflicts::since_micros,
};
use crate::{
    failure::Failure,
    output::{self, Format, Row},
};

/// What `ask` answers up to what is below `before`, of a cell that is looked at as it was `at`. All there is, is below one that is yet to come: of
/// the one below that, which nobody named, the cell would say that it can't be told. Of a time before its first revision it says the same.
pub(super) async fn below<T>(
    at: Option<At>,
    before: Option<At>,
    mut ask: impl AsyncFnMut(Option<At>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match ask(up_to(at, before)).await {
        Err(failure) if failure.code == "NO_SUCH_REVISION" && before.is_some_and(may_come) => ask(at).await,
        answer => answer,
    }
}

/// Whether a moment can be yet to come. Revisions begin with the first one, so that one that is not there is.
fn may_come(moment: At) -> bool {
    moment.time_micros == 0 || moment.time_micros > output::cell_now_micros()
}

/// What happened to the cell.
pub(super) async fn of_cell(context: &Context, since: Option<Since>, told: &Told) -> Result<(), Failure> {
    // A slip is told before a missing cell.
    since_micros(since, told.at, 0)?;
    let connection = context.connect_to_read(told.at).await?;
    let since_micros = since_micros(since, told.at, output::cell_now_micros())?;
    let story = below(told.at, told.before, async |at| {
        let request = CellHistoryRequest { since_micros, at, limit: told.limit };
        Ok(connection.inspect().cell_history(request).await?.into_inner())
    });
    let story = story.await?;
    print(context, &story)?;
    if story.events.is_empty() && !story.truncated && context.format.is_for_people() {
        let since = if since.is_some() { " since then" } else { "" };
        output::tell(&format!("nothing of that happened{since} up to revision {}", story.revision));
    }
    Ok(())
}

/// Prints a story by itself, as a listing.
pub(super) fn print(context: &Context, story: &HistoryResponse) -> Result<(), Failure> {
    match context.format {
        Format::Json | Format::Yaml => output::print(&output::object(context.format, &to_json(story), "", String::new)),
        format => output::print(&output::listing(format, story.revision, &story.events, story.truncated)),
    }?;
    // Seen from the same moment on.
    tell_missing(context, story, |at| format!("--before {}", at + 1));
    Ok(())
}

/// A story for programs.
pub(super) fn to_json(story: &HistoryResponse) -> Value {
    json!({
        "revision": story.revision,
        "items": story.events.iter().map(Row::to_json).collect::<Vec<_>>(),
        "truncated": story.truncated,
        "older_at": output::revision_or_null(story.older_at),
        "oldest_revision": output::revision_or_null(story.oldest_revision),
    })
}

/// Tells people what the story of something leaves out that is shown as it was at a moment.
pub(super) fn tell_what_is_missing(context: &Context, story: &HistoryResponse) {
    tell_missing(context, story, |at| format!("--at {at}"));
}

/// Tells people how to see what the cell has no more as it was before it went, which its story ends with. `command`: what shows it.
pub(super) fn tell_how_it_was(context: &Context, story: &HistoryResponse, command: &str) {
    if !context.format.is_for_people() {
        return;
    }
    if let Some(hint) = how_it_was(story, command) {
        output::tell(&hint);
    }
}

fn how_it_was(story: &HistoryResponse, command: &str) -> Option<String> {
    let end = story.events.last().filter(|event| matches!(event.event.as_str(), "retired" | "gone"))?;
    let before = end.revision.checked_sub(1).filter(|before| *before > 0)?;
    Some(format!("the cell has it no more; `plenum {command} --at {before}` shows it as it was"))
}

/// Where to read of what is not there: `gone` says how it may have come to that, and `command` tells its story. At a moment of the past it may not have
/// been there yet.
pub(super) fn where_its_story_is(gone: &str, command: &str, at: Option<At>) -> String {
    match at {
        None => format!("if {gone}, `plenum {command}` tells of it"),
        Some(_) => format!("`plenum {command}` tells when it was there, if it ever was"),
    }
}

fn tell_missing(context: &Context, story: &HistoryResponse, flag: impl Fn(u64) -> String) {
    if !context.format.is_for_people() {
        return;
    }
    if let Some(hint) = where_older(story, flag) {
        output::tell(&hint);
    }
    if let Some(retired) = output::retired(story.oldest_revision) {
        output::tell(&retired);
    }
}

/// How to see older events, where there are some. `flag`: for those up to a revision.
fn where_older(story: &HistoryResponse, flag: impl Fn(u64) -> String) -> Option<String> {
    let at = match (story.older_at, story.truncated) {
        (0, false) => return None,
        // A server of before does not say where they are.
        (0, true) => story.events.iter().map(|event| event.revision).min(),
        (at, _) => Some(at),
    };
    Some(at.map_or_else(
        || {
            "there may be older events: more of the past would have to be read for them than a server reads at once"
                .to_owned()
        },
        |at| format!("there are older events; see them with {}", flag(at)),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::HistoryEvent;

    use super::*;

    // Where all that may be read at once told nothing, it was --at 0: that is never readable.
    #[test]
    fn older_events_are_where_the_server_says_and_never_at_revision_zero() {
        let told = |older_at, revisions: &[u64], truncated| {
            let event = |&revision: &u64| HistoryEvent { revision, ..HistoryEvent::default() };
            let events = revisions.iter().map(event).collect();
            let story = HistoryResponse { events, truncated, older_at, ..HistoryResponse::default() };
            where_older(&story, |at| format!("--at {at}"))
        };
        assert_eq!(told(0, &[5, 6], false), None);
        assert!(told(4711, &[], true).unwrap().ends_with("--at 4711"));
        assert!(told(4, &[5, 5], true).unwrap().ends_with("--at 4"));
        assert!(told(0, &[5, 6], true).unwrap().ends_with("--at 5"), "by an earlier server");
        assert!(!told(0, &[], true).unwrap().contains("--at"));
    }

    // Of a moment before a job was submitted it said that it may be retired.
    #[test]
    fn what_was_not_there_yet_is_not_called_gone() {
        let told = |at| where_its_story_is("web is retired", "job history web", at);
        assert_eq!(told(None), "if web is retired, `plenum job history web` tells of it");
        let then = Some(At { revision: 5, time_micros: 0 });
        assert_eq!(told(then), "`plenum job history web` tells when it was there, if it ever was");
    }

    // "Revision 699 is yet to come" was the answer to who asked for what is below 700.
    #[test]
    fn all_there_is_lies_below_a_revision_that_is_yet_to_come() {
        let newest = 610;
        let asked = |at: Option<u64>, before: Option<u64>| {
            let moment = |revision| At { revision, time_micros: 0 };
            let (at, before) = (at.map(moment), before.map(moment));
            let ask = async |at: Option<At>| match at.map(|at| at.revision) {
                Some(revision) if revision > newest => Err(Failure::new("NO_SUCH_REVISION", revision.to_string())),
                revision => Ok(revision),
            };
            crate::cli::block_on(below(at, before, ask)).unwrap().map_err(|failure| failure.message)
        };
        assert_eq!((asked(None, None), asked(None, Some(700))), (Ok(None), Ok(None)));
        assert_eq!((asked(None, Some(600)), asked(Some(500), Some(700))), (Ok(Some(599)), Ok(Some(500))));
        assert_eq!(asked(Some(650), Some(700)), Err("650".to_owned()), "the one that was named");
    }

    // All of the cell's past was listed as what was before it.
    #[test]
    fn nothing_lies_below_a_time_before_the_first_revision() {
        let hour = 3_600_000_000;
        let asked = |time_micros| {
            let before = Some(At { revision: 0, time_micros });
            let ask = async |at: Option<At>| match at {
                Some(_) => Err(Failure::new("NO_SUCH_REVISION", "none")),
                None => Ok("all"),
            };
            crate::cli::block_on(below(None, before, ask)).unwrap().map_err(|failure| failure.message)
        };
        assert_eq!(asked(output::cell_now_micros() - hour), Err("none".to_owned()));
        assert_eq!(asked(output::cell_now_micros() + hour), Ok("all"));
    }

    #[test]
    fn what_is_gone_can_be_seen_as_it_was_the_revision_before() {
        let told = |words: &[&str]| {
            let event = |(at, word): (u64, &&str)| HistoryEvent {
                revision: at,
                event: (*word).to_owned(),
                ..HistoryEvent::default()
            };
            let events = (7..).zip(words).map(event).collect();
            how_it_was(&HistoryResponse { events, ..HistoryResponse::default() }, "machine show m1")
        };
        assert!(told(&["registered", "gone"]).unwrap().contains("`plenum machine show m1 --at 7`"));
        assert!(told(&["retired"]).unwrap().contains("--at 6`"));
        assert_eq!((told(&["registered", "ready"]), told(&[])), (None, None));
    }
}
