//! What is read, and above all what is refused, with the words that people see.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn jobs() -> Layout {
    Layout::commas(&["job", "submit_s"], &["user"])
}

/// All rows as text, or what the first error says.
fn read(bytes: &[u8], layout: &Layout) -> Result<Vec<String>, String> {
    let mut table =
        Table::read(io::Cursor::new(bytes.to_vec()), "jobs.csv", layout).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    let mut seen = Seen::default();
    while let Some(row) = table.next().map_err(|flaw| flaw.to_string())? {
        let mut parse = || -> Result<String, Flaw> {
            row.once("job", &mut seen)?;
            let submit = row.whole("submit_s", 0..=u64::MAX)?;
            Ok(format!("{} {submit} {}", row.text("job")?, row.maybe_text("user").unwrap_or("-")))
        };
        rows.push(parse().map_err(|flaw| flaw.to_string())?);
    }
    Ok(rows)
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(read(text.as_bytes(), &jobs()).unwrap(), expected);
}

fn check_refused(text: &str, expected: &str) {
    assert_eq!(read(text.as_bytes(), &jobs()).unwrap_err(), expected);
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn columns_are_found_by_their_names_in_any_order() {
    check("job,submit_s\na,1\nb,2\n", &["a 1 -", "b 2 -"]);
    check("user,submit_s,job\nann,1,a\n,2,b", &["a 1 ann", "b 2 -"]);
}

#[test]
fn line_ends_and_marks_of_other_systems_are_no_part_of_fields() {
    check("\u{feff}job,submit_s\r\na,1\r\n\r\n", &["a 1 -"]);
}

#[test]
fn quoted_fields_may_have_commas_and_quotes() {
    check("job,submit_s,user\n\"a,\"\"b\"\"\",1,\"\"\n", &["a,\"b\" 1 -"]);
    let expected = "a quoted field that ends on its line, and then a comma";
    check_refused(
        "job,submit_s\n\"a,1\n",
        &format!("jobs.csv, line 2, column 1 (job): expected {expected}, found a quote somewhere else"),
    );
    check_refused(
        "job,submit_s\na,1\"\n",
        &format!("jobs.csv, line 2, column 2 (submit_s): expected {expected}, found a quote somewhere else"),
    );
}

#[test]
fn missing_and_unknown_columns_are_named() {
    check_refused("job\na\n", "jobs.csv, line 1: expected the column submit_s, found only job");
    check_refused("", "jobs.csv, line 1: expected a first line with the columns job,submit_s, found an empty file");
    check_refused(
        "job,submit_s,colour\na,1,red\n",
        "jobs.csv, line 1, column 3 (colour): expected one of the columns job,submit_s,user, found \"colour\"",
    );
    check_refused("job,submit_s,job\n", "jobs.csv, line 1, column 3 (job): expected each column once, found job again");
}

#[test]
fn a_column_in_another_unit_is_told_from_an_unknown_one() {
    check_refused(
        "job,submit_min\na,1\n",
        "jobs.csv, line 1, column 2 (submit_min): expected submit_s, which says its unit, found \"submit_min\"; convert it, if it is another unit",
    );
}

#[test]
fn negative_and_malformed_numbers_are_refused_with_their_place() {
    let whole = "expected a whole number from 0 on";
    check_refused(
        "job,submit_s\na,1\nb,-5\n",
        &format!("jobs.csv, line 3, column 2 (submit_s): {whole}, found \"-5\""),
    );
    check_refused("job,submit_s\na,1.5\n", &format!("jobs.csv, line 2, column 2 (submit_s): {whole}, found \"1.5\""));
    check_refused("job,submit_s\na,\n", &format!("jobs.csv, line 2, column 2 (submit_s): {whole}, found nothing"));
}

#[test]
fn a_value_that_stands_twice_names_both_lines() {
    check_refused(
        "job,submit_s\na,1\nb,2\na,3\n",
        "jobs.csv, line 4, column 1 (job): expected a value that no other row has (line 2 has it), found \"a\"",
    );
}

#[test]
fn rows_with_other_numbers_of_fields_and_gaps_are_refused() {
    check_refused("job,submit_s\na,1,2\n", "jobs.csv, line 2: expected 2 fields (job, submit_s), found 3 fields");
    check_refused(
        "job,submit_s\na,1\n\nb,2\n",
        "jobs.csv, line 3: expected a row, found a blank line before further rows",
    );
}

#[test]
fn compressed_files_are_read_and_truncated_or_damaged_ones_refused() {
    let text: String =
        "job,submit_s\n".to_owned() + &(0..5000).map(|job| format!("j{job},{job}\n")).collect::<String>();
    let whole = gzip(&text);
    assert_eq!(read(&whole, &jobs()).unwrap().len(), 5000);
    let cut = read(&whole[..whole.len() / 2], &jobs()).unwrap_err();
    assert!(
        cut.ends_with("expected the rest of a gzip file, found its end: it was cut short; copy or fetch it again"),
        "{cut}"
    );
    let mut damaged = whole.clone();
    let place = damaged.len() - 6;
    damaged[place] ^= 0x10;
    let error = read(&damaged, &jobs()).unwrap_err();
    assert!(error.contains("expected sound gzip data, found damage"), "{error}");
}

#[test]
fn a_cut_within_the_checksum_is_a_cut() {
    let whole = gzip("job,submit_s\na,1\n");
    let cut = read(&whole[..whole.len() - 3], &jobs()).unwrap_err();
    assert!(cut.contains("it was cut short"), "{cut}");
}

#[test]
fn an_endless_line_is_not_read_to_its_end() {
    let text = format!("job,submit_s\n{},1\n", "a".repeat(LINE_BYTES));
    check_refused(&text, "jobs.csv, line 2: expected a line of at most 65536 bytes, found a longer one");
}

#[test]
fn text_that_is_no_text_is_refused() {
    let error = read(b"job,submit_s\na\xff,1\n", &jobs()).unwrap_err();
    assert_eq!(error, "jobs.csv, line 2: expected text in UTF-8, found byte 0xff at position 2");
}

#[test]
fn blank_separated_tables_have_remarks_and_blank_lines() {
    let layout = Layout::blanks(&["job", "submit_s"], b';');
    let bytes = b"; Ac\xe7ores\n  1    10\n \n2\t20\n";
    let mut table = Table::read(io::Cursor::new(bytes.to_vec()), "log.swf", &layout).unwrap();
    let mut sum = 0;
    while let Some(row) = table.next().unwrap() {
        sum += row.whole("submit_s", 0..=100).unwrap();
    }
    assert_eq!((sum, table.remarks().len()), (30, 1));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Table::open(Path::new("/nowhere/jobs.csv"), &jobs()).err().unwrap().to_string();
    assert!(error.starts_with("/nowhere/jobs.csv: expected a file that can be read, found "), "{error}");
}
