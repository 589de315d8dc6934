//! `plenum txn`: transactions with their outcomes, each refused claim explained in words.

use std::collections::BTreeSet;

use plenum_proto::v1::{
    At, GetTransactionRequest, ListRequest, ListTransactionsRequest, ListTransactionsResponse, Outcome, StatusRequest,
    TransactionView,
};

use super::{
    Context,
    args::Txn,
    govern::is_known,
    history,
    job::list_request,
    target,
    watch::{self, Listed},
};
use crate::{
    connect::Connection,
    failure::Failure,
    output::{self, Format, Names, Row, sentence},
};

/// Refusals that fit on a screen; a transaction may have 16,384.
const REFUSALS_SHOWN: usize = 30;

pub(super) async fn run(context: &Context, command: Txn) -> Result<(), Failure> {
    match command {
        Txn::List { scheduler, refused, oldest_first, after, before, listing } => {
            // A slip is told before a missing cell.
            let after = after.unwrap_or_default();
            before.map_or(Ok(()), |before| check_window(after, before))?;
            let connection = context.connect_to_read(listing.at).await?;
            let request = ListTransactionsRequest {
                // Each question has its own: it may be asked again for another moment.
                list: None,
                scheduler: scheduler.unwrap_or_default(),
                refused,
                oldest_first,
                after_revision: after.revision,
                after_micros: after.time_micros,
            };
            watch::print(context.format, listing.watch, async || {
                let answer = history::below(listing.at, before, async |at| {
                    let list = Some(ListRequest { at, ..list_request(context, &listing) });
                    let request = ListTransactionsRequest { list, ..request.clone() };
                    Ok(connection.inspect().list_transactions(request).await?.into_inner())
                });
                let answer = answer.await?;
                let listed = listed(context.format, &answer, listing.limit, oldest_first);
                let is_empty = answer.transactions.is_empty() && !answer.truncated;
                let why_empty = if is_empty { why_empty(&connection, &request.scheduler).await } else { None };
                let hint = match (why_empty, output::retired(answer.oldest_revision)) {
                    (None, Some(retired)) => Some(retired + &where_the_past_is(&connection).await),
                    (why_empty, _) => why_empty,
                };
                Ok(Listed { hint, ..listed })
            })
            .await
        }
        Txn::Show { id } => {
            let (session, number) = target::transaction(&id)?;
            let request = GetTransactionRequest { session, number };
            let view = context.connect_to_read(None).await?.inspect().get_transaction(request).await?.into_inner();
            let shown = if context.format == Format::Wide { usize::MAX } else { REFUSALS_SHOWN };
            output::print(&output::object(context.format, &view.to_json(), &id, || text(&view, shown)))
        }
    }
}

/// Refuses what nothing can lie in. Of a revision and a time nobody knows here which one is earlier.
fn check_window(after: At, before: At) -> Result<(), Failure> {
    let of_revisions = after.revision > 0 && before.revision > 0 && after.revision.saturating_add(1) >= before.revision;
    let of_times = after.time_micros > 0 && before.time_micros > 0 && after.time_micros >= before.time_micros;
    if of_revisions || of_times {
        return Err(Failure::usage("nothing lies after the moment of --after and before that of --before")
            .with_hint("--after takes the earlier one of both: for example --after -2m --before -1m"));
    }
    Ok(())
}

/// Where to read of what is not retained; empty where the cell does not say just now whether it was restored.
async fn where_the_past_is(connection: &Connection) -> String {
    let answer = connection.inspect().status(StatusRequest {}).await;
    answer.map_or_else(|_| String::new(), |status| past_words(status.into_inner().incarnation))
}

/// A restored cell has sums of nothing from before its restore.
fn past_words(incarnation: u64) -> String {
    match incarnation {
        ..=1 => "; `plenum conflicts` tells what that came to".to_owned(),
        restored => format!(
            "; what was before the restore (this is incarnation {restored}) is in the old directory only; what was retired since, `plenum conflicts` sums up"
        ),
    }
}

/// Why nothing is listed of a scheduler, where that is its name: a slip in it looks like one that has decided nothing.
async fn why_empty(connection: &Connection, scheduler: &str) -> Option<String> {
    if scheduler.is_empty() || is_known(connection, scheduler).await {
        return None;
    }
    Some(format!(
        "this cell has never seen a scheduler named \"{scheduler}\"; `plenum scheduler list --all` has their names"
    ))
}

fn listed(format: Format, answer: &ListTransactionsResponse, limit: u32, oldest_first: bool) -> Listed {
    let ListTransactionsResponse { revision, transactions, truncated, resume_revision, oldest_revision } = answer;
    let revisions = [("resume_revision", *resume_revision), ("oldest_revision", *oldest_revision)];
    let revisions = revisions.map(|(name, revision)| (name, output::revision_or_null(revision)));
    let text = output::listing_with(format, *revision, transactions, *truncated, &revisions);
    Listed {
        revision: *revision,
        unlogged: String::new(),
        text,
        missing: missing(format, answer, limit, oldest_first),
        hint: None,
    }
}

/// What to say where the server told less than there may be: it reads so much of its log at once, and perhaps nothing of that passed.
fn missing(format: Format, listed: &ListTransactionsResponse, limit: u32, oldest_first: bool) -> Option<String> {
    let missing = watch::missing(format, listed.transactions.len(), listed.truncated, limit, "--filter")?;
    Some(match (listed.resume_revision, oldest_first) {
        // A server of before does not say where the rest begins.
        (0, _) => missing,
        (revision, false) => format!("there may be more, older than these: go on with --before {}", revision + 1),
        (revision, true) => {
            format!("there may be more, newer than these: go on with --after {}", revision.saturating_sub(1))
        }
    })
}

/// A transaction for people: what it was, what became of it, and why claims were refused.
fn text(view: &TransactionView, refusals_shown: usize) -> String {
    let outcome = view.outcome.clone().unwrap_or_default();
    let cells = view.cells();
    let staleness = outcome.revision.saturating_sub(view.base_revision).saturating_sub(1);
    let decision = view.decision.clone().unwrap_or_default();
    let mut pairs = vec![
        ("transaction", cells[0].clone()),
        ("scheduler", format!("{} (principal {})", cells[1], output::or_dash(&view.principal))),
        ("outcome", format!("{}: {} of {} claims granted", cells[2], outcome.granted, outcome.claims)),
        ("decided", decided(&outcome)),
        ("based on", format!("revision {} ({staleness} decided in between)", view.base_revision)),
        ("rules", format!("check {}, {}", output::check_name(view.check()), together(view.atomic))),
    ];
    pairs.extend(lines("minimum", output::minima(view), refusals_shown));
    pairs.extend(lines("granted", output::grants(view), refusals_shown));
    if view.stops > 0 {
        pairs.push(("stops", format!("{} ({} idle)", view.stops, outcome.idle_stops.len())));
    }
    let stopped = output::stopped(view);
    if !stopped.is_empty() {
        pairs.push(("stopped", some_of(&stopped, refusals_shown)));
    }
    pairs.extend(lines("evicted", output::evictions(view), refusals_shown));
    if !decision.policy.is_empty() {
        let words = format!(
            "{}, attempt {}, queued {}, deciding {}",
            decision.policy,
            decision.attempt,
            output::said_span(decision.queued_micros),
            output::said_span(decision.deciding_micros)
        );
        pairs.push(("policy", words));
    }
    let configuration = output::configuration(view);
    pairs.extend((!configuration.is_empty()).then_some(("configuration", configuration)));
    let assumed = output::assumed(view);
    if !assumed.is_empty() {
        pairs.push(("assumed", some_of(&assumed, refusals_shown)));
    }
    output::fields(&pairs) + &refusals(view, &outcome, refusals_shown)
}

/// What stands or falls with what. Whether claims of one placement do, its minimum says.
const fn together(is_atomic: bool) -> &'static str {
    if is_atomic { "atomic: nothing at all if a placement misses its minimum" } else { "each placement by itself" }
}

/// When it was: to be held against other records, and as people count.
fn decided(outcome: &Outcome) -> String {
    let time = output::json_time(outcome.time_micros);
    let time = time.as_str().map_or_else(String::new, |time| format!("{time}, "));
    format!("{time}at revision {}, {} ago", outcome.revision, output::ago(outcome.time_micros))
}

/// A line for each of the first few, and how many more there are.
fn lines(title: &'static str, mut words: Vec<String>, shown: usize) -> Vec<(&'static str, String)> {
    let hidden = words.len().saturating_sub(shown);
    words.truncate(shown);
    words.extend((hidden > 0).then(|| format!("and {hidden} more; `-o wide` shows all")));
    words.into_iter().map(|line| (title, line)).collect()
}

/// Why claims were refused, behind an empty line; nothing where none was.
fn refusals(view: &TransactionView, outcome: &Outcome, shown: usize) -> String {
    if outcome.refusals.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n");
    for refusal in outcome.refusals.iter().take(shown) {
        text.push_str(&sentence(Names(view), refusal));
        text.push('\n');
    }
    let hidden = outcome.refusals.len().saturating_sub(shown);
    if hidden > 0 {
        text.push_str(&format!("and {hidden} more; `-o wide` shows all\n"));
    }
    let reasons: BTreeSet<&str> = outcome.refusals.iter().map(|each| each.reason().as_str_name()).collect();
    for reason in reasons {
        text.push_str(&format!("\nmore: plenum explain {reason}"));
    }
    let divergences = outcome.divergent().count();
    if divergences > 0 {
        text.push_str(&format!(
            "\ndivergence: {divergences} of these could be seen at revision {}; a scheduler that asks all the same has a bug, or the cell has",
            view.base_revision
        ));
    }
    text + "\n"
}

/// The first few ids, and how many more there are.
fn some_of(ids: &[String], shown: usize) -> String {
    let some = ids.iter().take(shown).cloned().collect::<Vec<_>>().join(", ");
    match ids.len().saturating_sub(shown) {
        0 => some,
        hidden => format!("{some} and {hidden} more; `-o wide` shows all"),
    }
}

#[cfg(test)]
mod tests {
    use plenum_proto::v1::{
        DecisionMetadata, Placement, Refusal, RefusalKind, RefusalReason, Transaction, TransactionOutcome,
    };

    use super::*;

    // Of a restored cell it named `plenum conflicts`, which knows nothing from before the restore.
    #[test]
    fn a_restored_cell_names_the_old_directory_for_what_was_before() {
        assert_eq!(past_words(1), "; `plenum conflicts` tells what that came to");
        let told = past_words(2);
        assert!(told.contains("incarnation 2") && told.contains("is in the old directory only"), "{told}");
    }

    // What was looked for was older than what is read at once: the list was empty, and narrowing it further was the advice.
    #[test]
    fn a_list_that_was_cut_says_how_to_go_on_also_where_it_is_empty() {
        let cut = |resume_revision| ListTransactionsResponse { truncated: true, resume_revision, ..Default::default() };
        let told = |answer: &ListTransactionsResponse, oldest_first| {
            listed(Format::Table, answer, 0, oldest_first).missing.unwrap_or_default()
        };
        // With --at they would be seen from there, each part from a moment of its own.
        assert!(told(&cut(4711), false).ends_with("go on with --before 4712"));
        assert!(told(&cut(4711), true).ends_with("go on with --after 4710"));
        assert!(told(&cut(0), false).contains("--filter"), "by an earlier server");
        assert_eq!(told(&ListTransactionsResponse::default(), false), "");
        let two = ListTransactionsResponse { transactions: vec![TransactionView::default(); 2], ..cut(4711) };
        let two = missing(Format::Table, &two, 2, false).unwrap_or_default();
        assert_eq!(two, "there may be more, older than these: go on with --before 4712", "so few were asked for");
        let json = listed(Format::Json, &cut(4711), 0, false).text;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        assert_eq!((&json["truncated"], &json["resume_revision"]), (&true.into(), &4711.into()));
    }

    // `--after -1m --before -2m` was an empty list, as if the cell had decided nothing.
    #[test]
    fn a_span_in_which_nothing_can_lie_is_refused() {
        let (revision, time) =
            (|revision| At { revision, time_micros: 0 }, |time_micros| At { revision: 0, time_micros });
        for (after, before) in
            [(revision(7), revision(7)), (revision(6), revision(7)), (time(9), time(9)), (time(9), time(8))]
        {
            let failure = check_window(after, before).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.exit), ("USAGE", crate::failure::EXIT_USAGE));
        }
        for (after, before) in [
            (At::default(), revision(2)),
            (revision(5), revision(7)),
            (time(8), time(9)),
            (time(9), revision(1)),
            (revision(9), time(1)),
        ] {
            assert_eq!(check_window(after, before), Ok(()), "{after:?} {before:?}");
        }
    }

    #[test]
    fn a_refused_transaction_is_told_in_words() {
        let refusal =
            Refusal { kind: RefusalKind::Misfit.into(), reason: RefusalReason::TaskTaken.into(), ..Refusal::default() };
        let outcome = Outcome {
            session: 17,
            number: 3,
            revision: 43,
            outcome: TransactionOutcome::Refused.into(),
            refusals: vec![refusal.clone(), refusal],
            claims: 1,
            time_micros: 7_000_000,
            divergences: vec![1],
            ..Outcome::default()
        };
        let view = TransactionView {
            outcome: Some(outcome),
            scheduler: "blue".to_owned(),
            base_revision: 38,
            ..TransactionView::default()
        };
        let text = text(&view, 1);
        for part in [
            "txn-17-3",
            "1970-01-01T00:00:07",
            "at revision 43, ",
            "refused: 0 of 1",
            "revision 38 (4 decided in between)",
            "misfit",
            "and 1 more",
            "explain TASK_TAKEN",
            "divergence: 1 of these could be seen at revision 38",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn what_a_transaction_was_decided_by_and_what_it_took_as_granted_is_shown_where_it_is_said() {
        let decision = DecisionMetadata {
            policy: "best-fit".to_owned(),
            configuration: vec![1, 0xab].into(),
            assumed: vec![1, 2, 3],
            ..DecisionMetadata::default()
        };
        let outcome = Some(Outcome { session: 17, number: 4, ..Outcome::default() });
        let view = TransactionView { outcome, decision: Some(decision), ..TransactionView::default() };
        let shown = text(&view, 2);
        for part in ["configuration:", "01ab\n", "assumed:", "txn-17-1, txn-17-2 and 1 more; `-o wide` shows all\n"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        let shown = text(&TransactionView { decision: None, ..view }, 2);
        assert!(!shown.contains("configuration:") && !shown.contains("assumed:"), "{shown}");
    }

    // "Not atomic" was read as if a gang could be granted in part.
    #[test]
    fn a_gang_is_shown_with_its_minimum_and_not_as_if_it_could_be_granted_in_part() {
        let gang = Placement { job: 7, machines: vec![1, 2], tasks: vec![0, 1], min: 2, ..Placement::default() };
        let transaction = Some(Transaction { placements: vec![gang], ..Transaction::default() });
        let job_names = [(7, "ml/train".to_owned())].into();
        let view = TransactionView { transaction, job_names, ..TransactionView::default() };
        let shown = text(&view, 30);
        for part in [", each placement by itself\n", "minimum:", "2 of 2 claims for ml/train/group 0, or none\n"] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        let shown = text(&TransactionView { atomic: true, transaction: None, ..view }, 30);
        assert!(shown.contains(", atomic: nothing at all") && !shown.contains("minimum:"), "{shown}");
    }
}
