//! Lost races, grouped.

use plenum_proto::v1::{ConflictRow, ResourceName};
use serde_json::{Value, json};

use super::{Row, allocation::transaction_id, job::full_name_called, or_dash, or_null, seen::given_name_of, span};

/// A title, and the key below it.
type Key = (&'static str, fn(&ConflictRow) -> &str);

/// The grouping keys of a row, with their titles.
const KEYS: [Key; 5] = [
    ("LOSER", |row| &row.loser),
    ("WINNER", |row| &row.winner),
    ("MACHINE", |row| &row.machine),
    ("JOB", |row| &row.job),
    ("RESOURCE", |row| &row.resource),
];

/// Titles and cells of the table: only keys that some row has, since they depend on what rows are grouped by.
pub(crate) fn key_columns(rows: &[ConflictRow]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let used: Vec<_> = KEYS.iter().filter(|(_, key)| rows.iter().any(|row| !key(row).is_empty())).collect();
    let mut titles: Vec<&str> = used.iter().map(|(title, _)| *title).collect();
    titles.extend(ConflictRow::titles().0);
    let cells = rows.iter().map(|row| {
        let keys = used.iter().map(|(title, key)| match *title {
            "RESOURCE" => named_resource(row).unwrap_or_else(|| or_dash(key(row))),
            "JOB" => or_dash(&full_name_called(key(row))),
            _ => or_dash(key(row)),
        });
        keys.chain(row.cells()).collect()
    });
    (titles, cells.collect())
}

/// The name that the operator gave to a row's resource.
fn named_resource(row: &ConflictRow) -> Option<String> {
    given_name_of(ResourceName::from_str_name(&row.resource.to_uppercase())?)
}

impl Row for ConflictRow {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["TRANSACTIONS", "CLAIMS", "STALENESS", "WASTED", "NEWEST"], &[])
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.transactions.to_string(),
            self.claims.to_string(),
            self.median_staleness_revisions.to_string(),
            span(self.wasted_micros),
            self.name(),
        ]
    }

    fn to_json(&self) -> Value {
        let mut object = json!({
            "transactions": self.transactions,
            "claims": self.claims,
            "median_staleness_revisions": self.median_staleness_revisions,
            "wasted_micros": self.wasted_micros,
            "newest": self.name(),
        });
        for (title, key) in KEYS {
            if !key(self).is_empty() {
                object[title.to_lowercase()] = or_null(key(self));
            }
        }
        if let Some((namespace, _)) = self.job.split_once('/') {
            object["namespace"] = namespace.into();
        }
        if let Some(name) = named_resource(self) {
            object["resource_name"] = name.into();
        }
        object
    }

    /// The newest of its transactions.
    fn name(&self) -> String {
        transaction_id(self.session, self.number)
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
        let (titles, cells) = key_columns(std::slice::from_ref(&row));
        assert_eq!(titles[..3], ["LOSER", "WINNER", "TRANSACTIONS"]);
        assert_eq!(cells[0], ["red", "blue", "3", "9", "0", "0us", "txn-4-2"]);
        assert_eq!(row.to_json()["loser"], "red");
        assert!(row.to_json().get("machine").is_none());
    }

    #[test]
    fn a_job_is_called_as_everywhere_else_and_programs_read_its_namespace_apart() {
        let row = |job: &str| ConflictRow { job: job.to_owned(), ..ConflictRow::default() };
        let rows = [row("ml/web"), row("default/web"), row("")];
        let called = key_columns(&rows).1.into_iter().map(|cells| cells[0].clone());
        assert_eq!(called.collect::<Vec<_>>(), ["ml/web", "web", "-"]);
        let json = rows[0].to_json();
        assert_eq!((&json["job"], &json["namespace"]), (&json!("ml/web"), &json!("ml")));
    }

    #[test]
    fn a_resource_that_the_cell_named_is_read_by_its_name() {
        let row = ConflictRow { resource: "custom_2".to_owned(), ..ConflictRow::default() };
        assert_eq!(key_columns(std::slice::from_ref(&row)).1[0][0], "custom_2");
        crate::output::name_resources(vec!["seats".into(), "licences".into()]);
        assert_eq!(key_columns(std::slice::from_ref(&row)).1[0][0], "licences");
        let json = row.to_json();
        assert_eq!((&json["resource"], &json["resource_name"]), (&json!("custom_2"), &json!("licences")));
        let cpu = ConflictRow { resource: "cpu_millis".to_owned(), ..ConflictRow::default() };
        assert_eq!(key_columns(std::slice::from_ref(&cpu)).1[0][0], "cpu_millis");
    }
}
