//! What listings have in common: filters, limits, and words for states.

use std::collections::BTreeMap;

use plenum_proto::{bounds::ANSWER_BYTES_MAX, filters, v1};

use super::failure::Failure;

/// Conditions on fields, joined by "and".
#[derive(Debug, Default)]
pub(super) struct Filter {
    terms: Vec<Term>,
}

/// Terms of a filter: each is held against each row, and a request has room for half a million.
const TERMS_MAX: usize = 32;

#[derive(Debug)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

impl Filter {
    /// Reads `field=value,field!="value"`. `known` are the fields that there are; one that ends in `.` stands for all that begin so.
    pub(super) fn parse(text: &str, known: &[&str]) -> Result<Self, Failure> {
        let (mut terms, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let (part, behind) = rest.split_once(',').unwrap_or((rest, ""));
            if part.trim().is_empty() {
                rest = behind;
                continue;
            }
            // At the first of them: a value may have more.
            let Some((before, after)) = rest.split_once('=').filter(|_| part.contains('=')) else {
                return Err(Failure::invalid(format!("filter: expected field=value or field!=value, found {part:?}")));
            };
            let (value, behind) = value_of(after)?;
            rest = behind;
            let (field, equal) = before.strip_suffix('!').map_or((before, true), |field| (field, false));
            let field = field.trim();
            if !known.iter().any(|known| is_field(field, known)) {
                let known = filters::words(known);
                return Err(Failure::invalid(format!("filter: expected one of {known}, found {field:?}")));
            }
            if terms.len() >= TERMS_MAX {
                return Err(Failure::invalid(format!("filter: expected at most {TERMS_MAX} terms, found more")));
            }
            terms.push(Term { field: field.to_owned(), equal, value });
        }
        // Everything would pass what somebody wrote to narrow a list down.
        if terms.is_empty() && !text.is_empty() {
            return Err(Failure::invalid(format!("filter: expected field=value or field!=value, found {text:?}")));
        }
        Ok(Self { terms })
    }

    /// Puts the word that rows have in place of a field's values that people have other names for.
    pub(super) fn reworded(mut self, field: &str, word: impl Fn(&str) -> Option<&'static str>) -> Self {
        for term in self.terms.iter_mut().filter(|term| term.field == field) {
            term.value = word(&term.value).map_or_else(|| std::mem::take(&mut term.value), str::to_owned);
        }
        self
    }

    /// Refuses values of a field that no row has: a slip would look like a cell in which there is nothing of the kind.
    pub(super) fn with_words(self, field: &str, known: &[&str]) -> Result<Self, Failure> {
        let slip = self.terms.iter().find(|term| term.field == field && !known.contains(&term.value.as_str()));
        let Some(slip) = slip else { return Ok(self) };
        // Counts of jobs by state have this word, but no job has it as its state.
        let counted_only = known == JOB_WORDS && slip.value == "recurring";
        let hint = if counted_only { "; recurring jobs are those with runs=recurring" } else { "" };
        let known: Vec<&str> = known.iter().map(|word| if word.is_empty() { "nothing" } else { *word }).collect();
        let known = known.join(", ");
        Err(Failure::invalid(format!("filter: expected {field} to be one of {known}, found {:?}{hint}", slip.value)))
    }

    /// Refuses values of a field that has names of jobs where a namespace stands before the name, as commands take it: no row has such a name.
    pub(super) fn with_names(self, field: &str) -> Result<Self, Failure> {
        let slip = self.terms.iter().find(|term| term.field == field && term.value.contains('/'));
        let Some(slip) = slip else { return Ok(self) };
        Err(Failure::invalid(format!(
            "filter: expected {field} to be a name without its namespace, which is asked for apart, found {:?}",
            slip.value
        )))
    }

    /// Refuses values of a field that has numbers where they are none, or not as rows write them.
    pub(super) fn with_numbers(self, field: &str) -> Result<Self, Failure> {
        let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
        let slip = self.terms.iter().find(|term| term.field == field && !is_number(&term.value));
        let Some(slip) = slip else { return Ok(self) };
        Err(Failure::invalid(format!("filter: expected {field} to be a number such as 7, found {:?}", slip.value)))
    }

    /// Holds values of a field that has names of jobs against another word of the row where they have a namespace before the name: `full` has both.
    pub(super) fn with_full_names(mut self, field: &str, full: &str) -> Self {
        for term in self.terms.iter_mut().filter(|term| term.field == field && term.value.contains('/')) {
            term.field = full.to_owned();
        }
        self
    }

    /// Whether everything passes.
    pub(super) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a field is asked for at all.
    pub(super) fn asks_for(&self, field: &str) -> bool {
        self.terms.iter().any(|term| term.field == field)
    }

    /// The value that all rows that pass have in a field, where there is one.
    pub(super) fn value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Takes the terms of these fields out, of which rows have several values each.
    pub(super) fn split_off(&mut self, fields: &[&str]) -> Self {
        let all = std::mem::take(&mut self.terms).into_iter();
        let (terms, rest) = all.partition(|term| fields.contains(&term.field.as_str()));
        self.terms = rest;
        Self { terms }
    }

    /// Whether a row passes. `value` gives the row's value of a field; none differs from everything.
    pub(super) fn passes(&self, mut value: impl FnMut(&str) -> Option<String>) -> bool {
        self.passes_among(|field, asked| value(field).as_deref() == Some(asked))
    }

    /// The same where a row may have several values of a field: `has` says whether one of them is what is asked for.
    pub(super) fn passes_among(&self, mut has: impl FnMut(&str, &str) -> bool) -> bool {
        self.terms.iter().all(|term| has(&term.field, &term.value) == term.equal)
    }
}

/// The value that comes first, and what is behind its comma. In quotes it may have commas, and spaces at its ends; a backslash there has the next
/// character taken as it is.
fn value_of(text: &str) -> Result<(String, &str), Failure> {
    let Some(quoted) = text.trim_start().strip_prefix('"') else {
        let (value, rest) = text.split_once(',').unwrap_or((text, ""));
        return Ok((value.trim().to_owned(), rest));
    };
    let (mut value, mut characters) = (String::new(), quoted.chars());
    loop {
        match characters.next() {
            Some('"') => break,
            Some('\\') => value.extend(characters.next()),
            Some(other) => value.push(other),
            None => {
                return Err(Failure::invalid(format!(
                    "filter: expected a value up to its closing quote, found {text:?}"
                )));
            }
        }
    }
    let behind = characters.as_str().trim_start();
    match behind.strip_prefix(',') {
        Some(rest) => Ok((value, rest)),
        None if behind.is_empty() => Ok((value, "")),
        None => Err(Failure::invalid(format!("filter: expected a comma behind the quoted value, found {behind:?}"))),
    }
}

/// Whether a field is a known one, or one of those that have names of their own: what no attribute can be called is a slip, and no row has it.
fn is_field(field: &str, known: &str) -> bool {
    if !known.ends_with('.') {
        return field == known;
    }
    field.strip_prefix(known).is_some_and(|name| plenum_proto::names::attribute("filter", name).is_ok())
}

/// How many rows: what was asked for, up to the server's own limit.
pub(super) fn limit(asked: u32, most: u32) -> usize {
    let rows = if asked == 0 { most } else { asked.min(most) };
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// Bytes of the rows of one listing: jobs, machines, holds and transactions may have a quarter of a MiB each and more.
const LISTING_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(
    3 * LISTING_BYTES_MAX < ANSWER_BYTES_MAX,
    "each row has a key and a length beside it: two bytes where it is the smallest, of one byte, and fewer a byte where it is larger"
);

/// What else one listing has room for.
pub(super) struct Room {
    rows: usize,
    bytes: usize,
}

impl Room {
    /// For so many rows.
    pub(super) const fn new(rows: usize) -> Self {
        Self { rows, bytes: LISTING_BYTES_MAX }
    }

    /// How many more rows there is room for.
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// How many more bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for a row, which then takes it. No row is larger than all of it.
    pub(super) fn takes(&mut self, row: &impl prost::Message) -> bool {
        self.takes_with(row, 0)
    }

    /// The same for a row that takes so many bytes more in memory than in the answer.
    pub(super) fn takes_with(&mut self, row: &impl prost::Message, more_bytes: usize) -> bool {
        let bytes = self.bytes.checked_sub(row.encoded_len() + more_bytes);
        let (Some(rows), Some(bytes)) = (self.rows.checked_sub(1), bytes) else { return false };
        (self.rows, self.bytes) = (rows, bytes);
        true
    }

    /// The same for a row with the shape of a job, or of a group of one, which takes so many bytes in memory: a value of a constraint may have three bytes in
    /// the answer, and has some 40 more than its letters in memory.
    pub(super) fn takes_shaped(
        &mut self,
        row: &impl prost::Message,
        shape: Option<&impl prost::Message>,
        memory_bytes: usize,
    ) -> bool {
        self.takes_with(row, memory_bytes.saturating_sub(shape.map_or(0, prost::Message::encoded_len)))
    }
}

/// Counts by word.
pub(super) fn count(counts: &mut BTreeMap<String, u64>, word: &str) {
    match counts.get_mut(word) {
        Some(count) => *count += 1,
        None => {
            counts.insert(word.to_owned(), 1);
        }
    }
}

/// What a field says of each row that is so, or is not.
pub(super) const YES_OR_NO: &[&str] = &["true", "false"];

/// All words for an allocation's state.
pub(super) const ALLOCATION_WORDS: &[&str] =
    &["granted", "starting", "running", "stopping", "lost", "complete", "failed", "stopped", "evicted"];

/// All words for a machine's state.
pub(super) const MACHINE_WORDS: &[&str] = &["ready", "cordoned", "draining", "unreachable", "gone"];

/// All words for a job's state.
pub(super) const JOB_WORDS: &[&str] = &["waiting", "running", "complete", "failed", "stopped"];
/// How a job ends, as people write it.
pub(super) const KIND_WORDS: &[&str] = &["to-completion", "forever", "recurring"];

/// An allocation's state as people write it.
pub(super) fn allocation_word(state: i32) -> &'static str {
    use v1::AllocationState as State;
    match State::try_from(state) {
        Ok(State::Granted) => "granted",
        Ok(State::Starting) => "starting",
        Ok(State::Running) => "running",
        Ok(State::Stopping | State::Evicting) => "stopping",
        Ok(State::Lost | State::EndedLost) => "lost",
        Ok(State::Complete) => "complete",
        Ok(State::Failed) => "failed",
        Ok(State::Stopped) => "stopped",
        Ok(State::Evicted) => "evicted",
        Ok(State::Unspecified) | Err(_) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_passes_when_all_terms_hold() {
        let filter = Filter::parse("state=ready, attr.rack!=r1", &["state", "attr."]).unwrap();
        let row = |state: &'static str, rack: Option<&'static str>| {
            move |field: &str| match field {
                "state" => Some(state.to_owned()),
                _ => rack.map(str::to_owned),
            }
        };
        assert!(filter.passes(row("ready", Some("r2"))) && filter.passes(row("ready", None)));
        assert!(!filter.passes(row("ready", Some("r1"))) && !filter.passes(row("gone", None)));
    }

    // All machines passed for `attr.rack=r1 attr.zone!=b`, where a comma was meant: none has an attribute of that name.
    #[test]
    fn a_field_ends_at_the_first_sign_and_is_a_name() {
        let slip = Filter::parse("attr.rack=r1 attr.zone!=b", &["attr."]).unwrap();
        assert!(!slip.passes(|field| Some(if field == "attr.rack" { "r1".to_owned() } else { "a".to_owned() })));
        let note = Filter::parse("attr.note=a!=b", &["attr."]).unwrap();
        assert!(note.passes(|_| Some("a!=b".to_owned())) && !note.passes(|_| Some("a".to_owned())));
        let unlike = Filter::parse("attr.note!=a=b", &["attr."]).unwrap();
        assert!(unlike.passes(|_| Some("a".to_owned())) && !unlike.passes(|_| Some("a=b".to_owned())));
        for wrong in ["attr.=x", "attr.a b=x", "attr.rack <=x", "attr.!=x"] {
            assert!(Filter::parse(wrong, &["attr."]).is_err(), "{wrong}");
        }
    }

    // What an attribute has that a filter divides at could not be asked for, and was taken for another term where it looked like one.
    #[test]
    fn a_value_in_quotes_may_have_commas_and_spaces() {
        let parsed = |text: &str| {
            let filter = Filter::parse(text, &["state", "attr."])?;
            Ok::<_, Failure>(
                filter.terms.into_iter().map(|term| (term.field, term.equal, term.value)).collect::<Vec<_>>(),
            )
        };
        let term = |field: &str, equal, value: &str| (field.to_owned(), equal, value.to_owned());
        let expected = [term("attr.roles", true, "db,state=gone"), term("state", false, "ready")];
        assert_eq!(parsed("attr.roles = \"db,state=gone\" , state!=ready").unwrap(), expected);
        assert_eq!(parsed("attr.note!=\" x \"").unwrap(), [term("attr.note", false, " x ")]);
        assert_eq!(parsed(r#"attr.note="a\"b\\","#).unwrap(), [term("attr.note", true, r#"a"b\"#)]);
        assert_eq!(
            parsed("attr.note=\"\",attr.note=5\"").unwrap(),
            [term("attr.note", true, ""), term("attr.note", true, "5\"")]
        );
        let told = |text: &str| parsed(text).unwrap_err().message;
        assert_eq!(told("attr.note=\"x"), "filter: expected a value up to its closing quote, found \"\\\"x\"");
        assert_eq!(told("attr.note=\"x\" y"), "filter: expected a comma behind the quoted value, found \"y\"");
    }

    #[test]
    fn an_unknown_field_is_told_with_those_there_are() {
        let failure = Filter::parse("colour=red", &["state", "name"]).unwrap_err();
        assert_eq!(failure.message, "filter: expected one of state, name, found \"colour\"");
        let failure = Filter::parse("rack=r1", &["state", "attr."]).unwrap_err();
        assert_eq!(failure.message, "filter: expected one of state, attr.NAME, found \"rack\"");
        assert!(Filter::parse("state", &["state"]).is_err());
        assert!(Filter::parse("", &[]).unwrap().passes(|_| None));
    }

    // `--filter "$A,$B"` of two variables that were not set listed the whole cell, for whatever was done to all of the list.
    #[test]
    fn a_filter_of_no_terms_is_none() {
        for text in [",", " ", " , ,"] {
            let failure = Filter::parse(text, &["state"]).unwrap_err();
            assert_eq!(failure.message, format!("filter: expected field=value or field!=value, found {text:?}"));
        }
        assert!(Filter::parse("state=ready,", &["state"]).is_ok(), "a comma at the end divides nothing");
    }

    // Who asked for jobs that are pending, or `runing`, read that there were none.
    #[test]
    fn a_state_that_no_row_has_is_told_with_those_there_are() {
        let with_words = |text: &str| Filter::parse(text, &["state", "name"]).unwrap().with_words("state", JOB_WORDS);
        assert!(with_words("state=waiting,state!=failed,name=pending").is_ok());
        let failure = with_words("name=x,state!=pending").unwrap_err();
        let expected =
            "filter: expected state to be one of waiting, running, complete, failed, stopped, found \"pending\"";
        assert_eq!(failure.message, expected);
    }

    // A count of jobs by state had the word, and nothing told who asked for them how to list them.
    #[test]
    fn who_asks_for_jobs_in_the_state_recurring_is_told_how_to_find_them() {
        let told = |words: &[&str]| {
            let filter = Filter::parse("state=recurring", &["state"]).unwrap();
            filter.with_words("state", words).unwrap_err().message
        };
        let of_jobs = told(JOB_WORDS);
        assert!(of_jobs.ends_with("found \"recurring\"; recurring jobs are those with runs=recurring"), "{of_jobs}");
        assert!(told(MACHINE_WORDS).ends_with("found \"recurring\""), "no other state is counted so");
    }

    #[test]
    fn the_words_that_a_filter_takes_are_those_that_rows_have() {
        use std::collections::BTreeSet;
        let of_rows: BTreeSet<_> = (1..100).map(allocation_word).filter(|word| *word != "unknown").collect();
        assert_eq!(of_rows, ALLOCATION_WORDS.iter().copied().collect());
        let wire = (1..100).filter_map(|number| v1::MachineState::try_from(number).ok());
        let of_rows: BTreeSet<_> = wire.map(|state| state.as_str_name().to_lowercase()).collect();
        assert_eq!(of_rows, MACHINE_WORDS.iter().copied().map(str::to_owned).collect());
        use plenum_model::JobState as State;
        let states = [State::Waiting, State::Running, State::Complete, State::Failed, State::Stopped];
        assert_eq!(states.map(State::word), JOB_WORDS);
        use plenum_model::MachineState as Machine;
        let states = [Machine::Ready, Machine::Cordoned, Machine::Draining, Machine::Unreachable, Machine::Gone];
        assert_eq!(states.map(Machine::word), MACHINE_WORDS);
        use plenum_model::JobKind as Kind;
        assert_eq!([Kind::ToCompletion, Kind::Forever, Kind::Recurring].map(Kind::word), KIND_WORDS);
    }

    // `job=staging/web`, as every command takes the job, was a list of nothing.
    #[test]
    fn a_name_with_its_namespace_is_no_name() {
        let filter = |text: &str| Filter::parse(text, &["job", "machine"]).unwrap().with_names("job");
        let failure = filter("machine=m1,job!=staging/web").unwrap_err();
        let expected =
            "filter: expected job to be a name without its namespace, which is asked for apart, found \"staging/web\"";
        assert_eq!(failure.message, expected);
        assert!(filter("job=web,machine=a/b").is_ok(), "another field is another matter");
    }

    #[test]
    fn a_number_that_is_none_is_told() {
        let filter = |text: &str| Filter::parse(text, &["attempt", "job"]).unwrap().with_numbers("attempt");
        assert!(filter("attempt=0,attempt!=17,job=x").is_ok());
        for wrong in ["x", "", "-1", "07", "1.5"] {
            let failure = filter(&format!("attempt={wrong}")).unwrap_err();
            let expected = format!("filter: expected attempt to be a number such as 7, found {wrong:?}");
            assert_eq!(failure.message, expected);
        }
    }

    // `job=web` found nothing of `ml/web`, and said that nothing had been lost.
    #[test]
    fn a_name_may_have_its_namespace_with_it_where_rows_have_both() {
        let passes = |text: &str| {
            let filter = Filter::parse(text, &["job"]).unwrap().with_full_names("job", "full");
            filter.passes(|field| Some(if field == "job" { "web" } else { "ml/web" }.to_owned()))
        };
        assert!(passes("job=web") && passes("job=ml/web") && passes("job!=default/web"));
        assert!(!passes("job!=web") && !passes("job!=ml/web") && !passes("job=default/web"));
    }

    #[test]
    fn nobody_is_listed_more_rows_than_the_server_lists() {
        assert_eq!([0, 3, 9].map(|asked| limit(asked, 5)), [5, 3, 5]);
    }

    // Ten thousand of the largest jobs came to 2.5 GB, which nobody takes.
    #[test]
    fn a_listing_ends_at_its_rows_or_at_its_bytes() {
        let row = |bytes: usize| v1::JobView { waiting_reason: "x".repeat(bytes), ..v1::JobView::default() };
        let listed = |rows: usize, bytes: usize| {
            let (mut room, row) = (Room::new(rows), row(bytes));
            (0..1_000).take_while(|_| room.takes(&row)).count()
        };
        assert_eq!((listed(7, 10), listed(0, 10)), (7, 0));
        assert_eq!(listed(1_000, 256 << 10), 255);
    }

    // What came to 64 MiB in the answer was 700 MB in memory, for each of 32 who listed.
    #[test]
    fn a_listing_counts_what_shapes_take_in_memory() {
        let of_values = |count: usize| v1::Constraint { values: vec!["a".to_owned(); count], ..Default::default() };
        let listed = |values: usize, memory_bytes: usize| {
            let shape = v1::GroupShape { constraints: vec![of_values(values)], ..Default::default() };
            let row = v1::WantedGroup { shape: Some(shape), ..Default::default() };
            let mut room = Room::new(100_000);
            (0..100_000).take_while(|_| room.takes_shaped(&row, row.shape.as_ref(), memory_bytes)).count()
        };
        // Keys and lengths of the constraint and of the shape are three bytes each.
        assert_eq!(listed(4096, 4096 * 41), LISTING_BYTES_MAX / (4096 * 41 + 3));
        assert_eq!(listed(4096, 4096), LISTING_BYTES_MAX / (4096 * 3 + 6), "never less than in the answer");
    }

    // Each of half a million terms was held against each row of the cell, for hours, beside all who list.
    #[test]
    fn a_filter_has_a_bounded_number_of_terms() {
        let filter = |terms: usize| Filter::parse(&"state!=gone,".repeat(terms), &["state"]);
        assert_eq!(filter(TERMS_MAX).unwrap().terms.len(), TERMS_MAX);
        let failure = filter(TERMS_MAX + 1).unwrap_err();
        assert_eq!(failure.message, "filter: expected at most 32 terms, found more");
    }
}
