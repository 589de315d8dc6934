//! How many tests passed and failed, read from the test runner's own output.

/// Counts of tests, summed over all test binaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that ran and passed.
    pub(crate) passed: u64,
    /// Tests that failed, ran out of time or could not be started.
    pub(crate) failed: u64,
}

impl Tally {
    /// Takes in a line of output, if it is a summary: that of nextest (one for the whole run) or that of
    /// Cargo's own runner (one for each test binary). What nextest repeats of a failed test, further in, is none.
    pub(crate) fn read(&mut self, line: &str) {
        let plain = without_escapes(line);
        let counts = if plain.trim_start().starts_with("Summary")
            && let Some((_, counts)) = plain.split_once(" run:")
        {
            counts
        } else if let Some(counts) = plain.strip_prefix("test result:") {
            counts
        } else {
            return;
        };
        let words: Vec<&str> = counts.split([' ', ',', ';', '.', '(', ')']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1] {
                "passed" => self.passed += count,
                "failed" | "timed" | "exec" => self.failed += count,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// `line` without the terminal's colour codes.
fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // A colour code ends with its first letter.
            let _ = characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, expected: &str) {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.read(line));
        assert_eq!(tally.to_string(), expected);
    }

    #[test]
    fn a_failed_test_that_nextest_tells_of_counts_once() {
        let mut tally = Tally::default();
        tally.read(
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.1s",
        );
        tally.read("     Summary [   0.2s] 4 tests run: 3 passed, 1 failed, 0 skipped");
        assert_eq!(tally, Tally { passed: 3, failed: 1 });
    }

    #[test]
    fn a_summary_of_nextest_is_read() {
        check("     Summary [   1.234s] 12 tests run: 12 passed (1 slow), 3 skipped", "12 passed, 0 failed");
    }

    #[test]
    fn a_summary_with_colours_and_failures_is_read() {
        check(
            "\u{1b}[31;1m     Summary\u{1b}[0m [   3.1s] \u{1b}[1m9\u{1b}[0m tests run: \u{1b}[1m5\u{1b}[0m passed, \
             \u{1b}[1m2\u{1b}[0m failed, \u{1b}[1m1\u{1b}[0m timed out, \u{1b}[1m1\u{1b}[0m exec failed, 0 skipped",
            "5 passed, 4 failed",
        );
    }

    #[test]
    fn the_summaries_of_all_test_binaries_are_added_up() {
        check(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "12 passed, 2 failed",
        );
    }

    #[test]
    fn what_tests_print_is_not_mistaken_for_a_summary() {
        check("3 passed, 4 failed\n9 tests run: 9 passed\nrunning 5 tests", "0 passed, 0 failed");
    }
}
