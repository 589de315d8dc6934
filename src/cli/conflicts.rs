//! `plenum conflicts`: who loses against whom, where, how stale, and what it cost.

use plenum_proto::v1::{At, ListConflictsRequest, ListConflictsResponse};

use super::{
    Context,
    args::Conflicts,
    at::Since,
    watch::{self, Listed},
};
use crate::{
    failure::Failure,
    output::{self, Format, key_columns},
};

pub(super) async fn run(context: &Context, command: &Conflicts) -> Result<(), Failure> {
    // A slip is told before a missing cell.
    since_micros(command.since, command.at, 0)?;
    let connection = context.connect_to_read(command.at).await?;
    watch::print(context.format, command.watch, async || {
        let since_micros = since_micros(command.since, command.at, output::cell_now_micros())?;
        let request = ListConflictsRequest {
            by: command.by.clone(),
            since_micros,
            limit: command.limit,
            at: command.at,
            filter: command.filter.clone().unwrap_or_default(),
            namespace: context.namespace.clone().unwrap_or_default(),
        };
        let answer = connection.inspect().list_conflicts(request).await?.into_inner();
        Ok(listed(context.format, command, &answer))
    })
    .await
}

fn listed(format: Format, command: &Conflicts, answer: &ListConflictsResponse) -> Listed {
    let rows = output::grouped(&command.by, &answer.rows);
    let text = match format {
        Format::Table | Format::Wide if rows.is_empty() => "no conflicts\n".to_owned(),
        Format::Table | Format::Wide => {
            let (titles, cells) = key_columns(&rows);
            output::table(&titles, cells)
        }
        format => {
            let besides = [
                ("oldest_revision", output::revision_or_null(answer.oldest_revision)),
                ("retired", answer.retired.as_ref().map(output::retired_json).unwrap_or_default()),
            ];
            output::listing_with(format, answer.revision, &rows, answer.truncated, &besides)
        }
    };
    // What was lately is no more after a while, though the cell stands still.
    let unlogged = if command.since.is_some() { text.clone() } else { String::new() };
    // It counts back from a time, and is refused beside a revision.
    let narrow = if command.at.is_some_and(|at| at.time_micros == 0) { "--filter" } else { "--since" };
    let missing = watch::missing(format, rows.len(), answer.truncated, command.limit, narrow);
    let hint = output::retired(answer.oldest_revision).map(|hint| {
        let past = answer.retired.as_ref();
        let lines = past.map(|past| output::retired_lines(past, format == Format::Wide)).unwrap_or_default();
        // It is not narrowed as the rows are, be it by a namespace that nobody named in this call.
        let is_known = past.is_some_and(|past| !past.days.is_empty());
        let whose = if is_known { "; what is known of it is of the whole cell:" } else { "" };
        hint + whose + &lines
    });
    Listed { revision: answer.revision, unlogged, text, missing, hint }
}

/// Since when something counts: a time, or so long before the moment up to which it does; 0 for all.
///
/// # Errors
///
/// Wrong usage: it counts back from a revision, of which it has no time.
pub(super) fn since_micros(since: Option<Since>, at: Option<At>, now_micros: i64) -> Result<i64, Failure> {
    let ago = match since {
        None => return Ok(0),
        Some(Since::Time(micros)) => return Ok(micros.max(1)),
        Some(Since::Ago(ago)) => ago,
    };
    let until = match at {
        None => now_micros,
        Some(At { time_micros, .. }) if time_micros != 0 => time_micros,
        Some(At { revision, .. }) => {
            let what = format!("--since counts back from a time, and --at names revision {revision}");
            return Err(Failure::usage(what).with_hint("name that moment by its time, such as --at -10m"));
        }
    };
    Ok(until.saturating_sub(ago).max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::v1::{ConflictRow, RetiredDay, RetiredPast};

    use super::*;

    // A watched list of the last ten minutes went on showing what was older, until something happened in the cell.
    #[test]
    fn what_is_no_longer_of_the_last_time_is_another_listing_at_the_same_revision() {
        let command = Conflicts {
            by: "pair".into(),
            since: Some(Since::Ago(600)),
            limit: 0,
            watch: true,
            filter: None,
            at: None,
        };
        let mark = |rows: Vec<ConflictRow>| {
            let answer = ListConflictsResponse { revision: 7, rows, ..ListConflictsResponse::default() };
            listed(Format::Table, &command, &answer).mark()
        };
        assert_ne!(mark(vec![ConflictRow::default()]), mark(Vec::new()));
        assert_eq!(mark(vec![ConflictRow::default()]), mark(vec![ConflictRow::default()]));
    }

    // "No conflicts" was all that it said of days that the cell does not retain.
    #[test]
    fn that_older_conflicts_are_not_retained_is_said() {
        let command = Conflicts { by: "pair".into(), since: None, limit: 0, watch: false, filter: None, at: None };
        let told = |oldest_revision, format| {
            let answer = ListConflictsResponse { revision: 7, oldest_revision, ..ListConflictsResponse::default() };
            listed(format, &command, &answer)
        };
        assert_eq!(told(0, Format::Table).hint, None);
        assert_eq!(told(5, Format::Table).hint.unwrap(), "nothing from before revision 5 is retained");
        let json: serde_json::Value = serde_json::from_str(&told(5, Format::Json).text).unwrap();
        assert_eq!((&json["oldest_revision"], json.get("retired")), (&5.into(), None), "by an earlier server");
    }

    // Nobody knew whether there had been any.
    #[test]
    fn what_older_conflicts_came_to_is_said() {
        let command = Conflicts { by: "pair".into(), since: None, limit: 0, watch: false, filter: None, at: None };
        let day = RetiredDay { last_revision: 4, counted_revisions: 4, lost_claims: 2, ..RetiredDay::default() };
        let retired = Some(RetiredPast { days: vec![day; 2], uncounted_revisions: 1 });
        let answer = ListConflictsResponse { oldest_revision: 10, retired, ..ListConflictsResponse::default() };
        let hint = |format| listed(format, &command, &answer).hint.unwrap();
        let begin = "nothing from before revision 10 is retained; what is known of it is of the whole cell:\n";
        assert!(hint(Format::Table).starts_with(begin), "the rows may be of a part of it: {}", hint(Format::Table));
        assert!(hint(Format::Table).contains(" 4 lost as conflicts"), "{}", hint(Format::Table));
        assert_eq!(hint(Format::Wide).matches(" 2 lost as conflicts").count(), 2, "{}", hint(Format::Wide));
        let nothing = RetiredPast { days: Vec::new(), uncounted_revisions: 9 };
        let unknown = ListConflictsResponse { retired: Some(nothing), ..answer.clone() };
        let unknown = listed(Format::Table, &command, &unknown).hint.unwrap();
        assert!(unknown.contains("were not counted") && !unknown.contains("what is known"), "{unknown}");
        let json: serde_json::Value = serde_json::from_str(&listed(Format::Json, &command, &answer).text).unwrap();
        assert_eq!((&json["retired"]["days"][1]["lost_claims"], &json["oldest_revision"]), (&2.into(), &10.into()));
    }

    #[test]
    fn a_list_that_was_cut_is_narrowed_by_what_its_moment_goes_with() {
        let told = |at| {
            let command = Conflicts { by: "pair".into(), since: None, limit: 1, watch: false, filter: None, at };
            let rows = vec![ConflictRow::default()];
            let answer = ListConflictsResponse { rows, truncated: true, ..ListConflictsResponse::default() };
            listed(Format::Table, &command, &answer).missing.unwrap()
        };
        assert!(told(Some(At { revision: 7, time_micros: 0 })).contains("narrow the list with --filter"));
        assert!(told(Some(At { revision: 0, time_micros: 7 })).contains("narrow the list with --since"));
        assert!(told(None).contains("narrow the list with --since"));
    }

    // It counted back from now: up to an hour ago there were no conflicts of the last ten minutes, ever.
    #[test]
    fn what_happened_lately_is_told_as_seen_from_the_moment_that_is_asked_for() {
        let at = |at| Conflicts {
            by: "pair".into(),
            since: Some(Since::Ago(600)),
            limit: 0,
            watch: false,
            filter: None,
            at,
        };
        let since_of = |command: Conflicts, now_micros| since_micros(command.since, command.at, now_micros);
        assert_eq!(since_of(at(None), 10_000).unwrap(), 9_400);
        assert_eq!(since_of(at(Some(At { revision: 0, time_micros: 5_000 })), 10_000).unwrap(), 4_400);
        let since = Some(Since::Time(77));
        let revision = Some(At { revision: 7, time_micros: 0 });
        assert_eq!(since_of(Conflicts { since, ..at(revision) }, 10_000).unwrap(), 77, "whatever is looked at");
        let failure = since_of(at(Some(At { revision: 7, time_micros: 0 })), 10_000).unwrap_err();
        assert_eq!((failure.exit, failure.message.contains("revision 7")), (crate::failure::EXIT_USAGE, true));
        assert_eq!(since_of(Conflicts { since: None, ..at(Some(At { revision: 7, time_micros: 0 })) }, 1).unwrap(), 0);
    }
}
