//! Lost races, grouped.

use plenum_proto::v1::{ConflictRow, ResourceName};
use serde_json::{Value, json};

use super::{Row, allocation::transaction_id, job::full_name_called, or_dash, or_null, seen::given_name_of, span};

/// A title, what rows that are grouped by it have in common, and the key below it.
type Key = (&'static str, &'static str, fn(&ConflictRow) -> &str);

/// The grouping keys of a row.
const KEYS: [Key; 5] = [
    ("LOSER", "pair", |row| &row.loser),
    ("WINNER", "pair", |row| &row.winner),
    ("MACHINE", "machine", |row| &row.machine),
    ("JOB", "job", |row| &row.job),
    ("RESOURCE", "resource", |row| &row.resource),
];

/// A row, and what it is grouped by. It has the keys of that also where they are empty: claims are lost for other reasons than room.
pub(crate) struct Grouped<'a> {
    by: &'a str,
    row: &'a ConflictRow,
}

/// Rows that are grouped so.
pub(crate) fn grouped<'a>(by: &'a str, rows: &'a [ConflictRow]) -> Vec<Grouped<'a>> {
    rows.iter().map(|row| Grouped { by, row }).collect()
}

/// Titles and cells of the table: only keys that rows have, since they depend on what rows are grouped by.
pub(crate) fn key_columns(rows: &[Grouped<'_>]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let used: Vec<_> = KEYS.iter().filter(|key| rows.iter().any(|group| group.has(key))).collect();
    let mut titles: Vec<&str> = used.iter().map(|(title, ..)| *title).collect();
    titles.extend(Grouped::titles().0);
    let cells = rows.iter().map(|group| {
        let keys = used.iter().map(|(title, _, key)| match *title {
            "RESOURCE" => named_resource(group.row).unwrap_or_else(|| or_dash(key(group.row))),
            "JOB" => or_dash(&full_name_called(key(group.row))),
            _ => or_dash(key(group.row)),
        });
        keys.chain(group.cells()).collect()
    });
    (titles, cells.collect())
}

/// The name that the operator gave to a row's resource.
fn named_resource(row: &ConflictRow) -> Option<String> {
    given_name_of(ResourceName::from_str_name(&row.resource.to_uppercase())?)
}

impl Grouped<'_> {
    fn has(&self, (_, by, key): &Key) -> bool {
        self.by == *by || !key(self.row).is_empty()
    }
}

/// What a scheduler says of how long something took, who need not: 0 stands for nothing.
pub(super) fn said(micros: i64) -> Option<i64> {
    (micros != 0).then_some(micros)
}

/// The same, for people.
pub(crate) fn said_span(micros: i64) -> String {
    or_dash(&said(micros).map(span).unwrap_or_default())
}

impl Row for Grouped<'_> {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["TRANSACTIONS", "CLAIMS", "STALENESS", "WASTED", "NEWEST"], &[])
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.row.transactions.to_string(),
            self.row.claims.to_string(),
            self.row.median_staleness_revisions.to_string(),
            said_span(self.row.wasted_micros),
            self.name(),
        ]
    }

    fn to_json(&self) -> Value {
        let mut object = json!({
            "transactions": self.row.transactions,
            "claims": self.row.claims,
            "median_staleness_revisions": self.row.median_staleness_revisions,
            "wasted_micros": said(self.row.wasted_micros),
            "newest": self.name(),
        });
        for (title, _, key) in KEYS.iter().filter(|key| self.has(key)) {
            object[title.to_lowercase()] = or_null(key(self.row));
        }
        if let Some((namespace, _)) = self.row.job.split_once('/') {
            object["namespace"] = namespace.into();
        }
        if let Some(name) = named_resource(self.row) {
            object["resource_name"] = name.into();
        }
        object
    }

    /// The newest of its transactions.
    fn name(&self) -> String {
        transaction_id(self.row.session, self.row.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_rows_have_are_columns() {
        let row = ConflictRow {
            loser: "red".to_owned(),
            winner: "blue".to_owned(),
            transactions: 3,
            claims: 9,
            session: 4,
            number: 2,
            ..ConflictRow::default()
        };
        let rows = [row];
        let lost = grouped("pair", &rows);
        let (titles, cells) = key_columns(&lost);
        assert_eq!(titles[..3], ["LOSER", "WINNER", "TRANSACTIONS"]);
        assert_eq!(cells[0], ["red", "blue", "3", "9", "0", "-", "txn-4-2"]);
        assert_eq!(lost[0].to_json()["loser"], "red");
        assert!(lost[0].to_json().get("machine").is_none());
    }

    // Who thought for seconds and did not say so had wasted `0us`, beside others that wasted milliseconds.
    #[test]
    fn what_nobody_said_it_took_is_not_told_as_no_time_at_all() {
        let told = |wasted_micros| {
            let rows = [ConflictRow { wasted_micros, ..ConflictRow::default() }];
            let lost = grouped("pair", &rows);
            (lost[0].cells()[3].clone(), lost[0].to_json()["wasted_micros"].clone())
        };
        assert_eq!(told(0), ("-".to_owned(), Value::Null));
        assert_eq!(told(1500), ("1.5ms".to_owned(), json!(1500)));
    }

    #[test]
    fn a_job_is_called_as_everywhere_else_and_programs_read_its_namespace_apart() {
        let row = |job: &str| ConflictRow { job: job.to_owned(), ..ConflictRow::default() };
        let rows = [row("ml/web"), row("default/web"), row("")];
        let lost = grouped("job", &rows);
        let called = key_columns(&lost).1.into_iter().map(|cells| cells[0].clone());
        assert_eq!(called.collect::<Vec<_>>(), ["ml/web", "web", "-"]);
        let json = lost[0].to_json();
        assert_eq!((&json["job"], &json["namespace"]), (&json!("ml/web"), &json!("ml")));
    }

    // The row of claims that a cordon had cost stood in a table without the column of resources, and had no key as JSON.
    #[test]
    fn a_row_has_the_keys_that_it_is_grouped_by_also_where_they_are_empty() {
        let rows = [ConflictRow { claims: 72, ..ConflictRow::default() }];
        let lost = grouped("resource", &rows);
        let (titles, cells) = key_columns(&lost);
        assert_eq!((titles[0], cells[0][0].as_str(), titles.len()), ("RESOURCE", "-", 6));
        assert_eq!(lost[0].to_json().get("resource"), Some(&Value::Null));
    }

    #[test]
    fn a_resource_that_the_cell_named_is_read_by_its_name() {
        let row = ConflictRow { resource: "custom_2".to_owned(), ..ConflictRow::default() };
        let shown = |row: &ConflictRow| key_columns(&grouped("resource", std::slice::from_ref(row))).1[0][0].clone();
        assert_eq!(shown(&row), "custom_2");
        crate::output::name_resources(vec!["seats".into(), "licences".into()]);
        assert_eq!(shown(&row), "licences");
        let json = grouped("resource", std::slice::from_ref(&row))[0].to_json();
        assert_eq!((&json["resource"], &json["resource_name"]), (&json!("custom_2"), &json!("licences")));
        let cpu = ConflictRow { resource: "cpu_millis".to_owned(), ..ConflictRow::default() };
        assert_eq!(shown(&cpu), "cpu_millis");
    }
}
