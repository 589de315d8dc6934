//! What is left of what is retired: sums, for people and for programs.

use std::{cmp::Reverse, collections::BTreeMap};

use plenum_proto::v1::{RetiredDay, RetiredPair, RetiredPast};
use serde_json::{Value, json};

use super::json_time;

/// Pairs of schedulers that people are told of.
const PAIRS_SHOWN: usize = 3;

/// That some of what was asked for is there no more; `oldest_revision` is 0 where nothing is missing.
pub(crate) fn retired(oldest_revision: u64) -> Option<String> {
    let oldest = Some(oldest_revision).filter(|oldest| *oldest > 0)?;
    Some(format!("nothing from before revision {oldest} is retained"))
}

/// What it came to, as lines behind that: in all, or by day.
pub(crate) fn retired_lines(past: &RetiredPast, by_day: bool) -> String {
    let in_all: Vec<RetiredDay> = if by_day { Vec::new() } else { in_all(&past.days).into_iter().collect() };
    let days = if by_day { &past.days } else { &in_all };
    let mut lines: String = days.iter().map(|day| "\n".to_owned() + &words(day)).collect();
    if past.uncounted_revisions > 0 {
        lines.push_str(&format!(
            "\nof {} revisions before it transactions and claims were not counted",
            past.uncounted_revisions
        ));
    }
    lines
}

/// The same for programs.
pub(crate) fn retired_json(past: &RetiredPast) -> Value {
    let pair = |pair: &RetiredPair| {
        json!({
            "loser": pair.loser,
            "winner": pair.winner,
            "transactions": pair.transactions,
            "claims": pair.claims,
        })
    };
    let day = |day: &RetiredDay| {
        json!({
            "first_revision": day.first_revision,
            "last_revision": day.last_revision,
            "from": json_time(day.from_micros),
            "to": json_time(day.to_micros),
            "counted_revisions": day.counted_revisions,
            "transactions": day.transactions,
            "claims": day.claims,
            "refused_claims": day.refused_claims,
            "lost_claims": day.lost_claims,
            "pairs": day.pairs.iter().map(pair).collect::<Vec<_>>(),
        })
    };
    json!({
        "days": past.days.iter().map(day).collect::<Vec<_>>(),
        "uncounted_revisions": past.uncounted_revisions,
    })
}

/// All days as if they were one; none if there is none.
fn in_all(days: &[RetiredDay]) -> Option<RetiredDay> {
    let (first, last) = (days.first()?, days.last()?);
    let sum = |of: fn(&RetiredDay) -> u64| days.iter().map(of).fold(0, u64::saturating_add);
    let mut claims: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for pair in days.iter().flat_map(|day| &day.pairs) {
        let sum = claims.entry((&pair.loser, &pair.winner)).or_default();
        *sum = sum.saturating_add(pair.claims);
    }
    let pairs = claims.into_iter().map(|((loser, winner), claims)| RetiredPair {
        loser: loser.to_owned(),
        winner: winner.to_owned(),
        claims,
        ..RetiredPair::default()
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|pair| Reverse(pair.claims));
    Some(RetiredDay {
        first_revision: first.first_revision,
        last_revision: last.last_revision,
        from_micros: first.from_micros,
        to_micros: last.to_micros,
        counted_revisions: sum(|day| day.counted_revisions),
        transactions: sum(|day| day.transactions),
        claims: sum(|day| day.claims),
        refused_claims: sum(|day| day.refused_claims),
        lost_claims: sum(|day| day.lost_claims),
        pairs,
    })
}

fn words(day: &RetiredDay) -> String {
    let (from, to) = (date(day.from_micros), date(day.to_micros));
    let dates = if from == to { from } else { format!("{from} to {to}") };
    let counted = match day.counted_revisions {
        0 => "transactions were not counted".to_owned(),
        _ => format!(
            "{} transactions with {} claims, {} of them refused",
            day.transactions, day.claims, day.refused_claims
        ),
    };
    let shown = &day.pairs[..day.pairs.len().min(PAIRS_SHOWN)];
    let told = shown.iter().map(|pair| pair.claims).fold(0, u64::saturating_add);
    let mut losses: Vec<_> =
        shown.iter().map(|pair| format!("{} to {} {}", pair.loser, pair.winner, pair.claims)).collect();
    let others = day.lost_claims.saturating_sub(told);
    losses.extend((others > 0).then(|| format!("others {others}")));
    let losses = if losses.is_empty() { String::new() } else { format!(" ({})", losses.join(", ")) };
    format!("{dates}: {counted}, {} lost as conflicts{losses}", day.lost_claims)
}

/// The day of a moment, in UTC.
fn date(micros: i64) -> String {
    let time = json_time(micros);
    time.as_str().and_then(|time| time.get(..10)).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: i64, lost_claims: u64, pairs: &[(&str, &str, u64)]) -> RetiredDay {
        let pair = |(loser, winner, claims): &(&str, &str, u64)| RetiredPair {
            loser: (*loser).to_owned(),
            winner: (*winner).to_owned(),
            transactions: 1,
            claims: *claims,
        };
        RetiredDay {
            first_revision: 1,
            last_revision: 40,
            from_micros: number * 86_400_000_000 + 1,
            to_micros: number * 86_400_000_000 + 2,
            counted_revisions: 30,
            transactions: 20,
            claims: 100,
            refused_claims: 50,
            lost_claims,
            pairs: pairs.iter().map(pair).collect(),
        }
    }

    #[test]
    fn what_is_retired_is_told_in_all_and_by_day() {
        let one = day(1, 9, &[("red", "blue", 5), ("blue", "red", 3), ("red", "(expired)", 1)]);
        let other = day(2, 8, &[("blue", "red", 4), ("green", "red", 2)]);
        let past = RetiredPast { days: vec![one, other], uncounted_revisions: 7 };
        let in_all = "\n1970-01-02 to 1970-01-03: 40 transactions with 200 claims, 100 of them refused, 17 lost as conflicts \
                      (blue to red 7, red to blue 5, green to red 2, others 3)\
                      \nof 7 revisions before it transactions and claims were not counted";
        assert_eq!(retired_lines(&past, false), in_all);
        let by_day = "\n1970-01-02: 20 transactions with 100 claims, 50 of them refused, 9 lost as conflicts \
                      (red to blue 5, blue to red 3, red to (expired) 1)\
                      \n1970-01-03: 20 transactions with 100 claims, 50 of them refused, 8 lost as conflicts \
                      (blue to red 4, green to red 2, others 2)\
                      \nof 7 revisions before it transactions and claims were not counted";
        assert_eq!(retired_lines(&past, true), by_day);
        let json = retired_json(&past);
        assert_eq!((&json["uncounted_revisions"], &json["days"][1]["lost_claims"]), (&json!(7), &json!(8)));
        let pair = json!({"loser": "blue", "winner": "red", "transactions": 1, "claims": 4});
        assert_eq!(
            (&json["days"][1]["pairs"][0], &json["days"][0]["from"]),
            (&pair, &json!("1970-01-02T00:00:00.000001Z"))
        );
    }

    #[test]
    fn what_nobody_counted_is_not_told_as_nothing() {
        let uncounted = RetiredDay { counted_revisions: 0, transactions: 0, claims: 0, ..day(1, 5, &[]) };
        let past = RetiredPast { days: vec![uncounted], uncounted_revisions: 0 };
        let words = "\n1970-01-02: transactions were not counted, 5 lost as conflicts (others 5)";
        assert_eq!(retired_lines(&past, false), words);
        assert_eq!(retired_lines(&RetiredPast::default(), false), "");
    }
}
