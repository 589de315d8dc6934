//! Texts of other people, such as why a task failed: they must neither break what is printed nor speak to the terminal.

/// True for what a terminal takes for an order, or shows in another place than where it stands: control characters, and those that
/// turn the direction of writing. What joins or parts letters without being seen stays, as some scripts need it.
fn is_order(each: char) -> bool {
    each.is_control()
        || matches!(each, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// True for what does not stand on one line as it is.
pub(super) fn is_unprintable(each: char) -> bool {
    is_order(each) || is_break(each)
}

/// The text on one line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|each| if is_unprintable(each) { ' ' } else { each }).collect()
}

/// The text with its lines as they are.
pub(crate) fn lines(text: &str) -> String {
    text.chars().map(|each| if is_order(each) && !matches!(each, '\n' | '\t') { ' ' } else { each }).collect()
}

/// What YAML takes for the end of a line, beyond the one that has no other meaning.
const fn is_break(each: char) -> bool {
    matches!(each, '\u{2028}' | '\u{2029}')
}

/// JSON with everything escaped that it need not escape and its reader may stumble over: what terminals obey, and what YAML, which reads
/// texts as JSON writes them, refuses or takes for the end of a line. All of it can only stand within a text.
pub(super) fn escaped(json: &str) -> String {
    let stumbles = |each: char| {
        (is_order(each) && each != '\n') || is_break(each) || matches!(each, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut out = String::with_capacity(json.len());
    for each in json.chars() {
        if stumbles(each) {
            out.push_str(&format!("\\u{:04x}", u32::from(each)));
        } else {
            out.push(each);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two values that were told apart by such a mark looked the same.
    #[test]
    fn every_mark_that_turns_the_direction_of_writing_is_seen_and_what_scripts_need_stays() {
        for mark in ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            let text = format!("a{mark}b");
            assert_eq!((one_line(&text), lines(&text)), ("a b".to_owned(), "a b".to_owned()));
            assert_eq!(escaped(&text), format!("a\\u{:04x}b", u32::from(mark)));
        }
        let joined = "\u{645}\u{6cc}\u{200c}\u{62e} \u{915}\u{94d}\u{200d} \u{e01}\u{200b}\u{e02}";
        for kept in [one_line(joined), lines(joined), escaped(joined)] {
            assert_eq!(kept, joined);
        }
    }

    // Another one's text cleared the screen of whoever looked, and was no YAML.
    #[test]
    fn texts_of_others_do_not_speak_to_terminals() {
        let text = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}b\u{2028}c";
        assert_eq!(one_line(text), "a [2J 31m  b c");
        assert_eq!(lines("a\n\tb\r\u{1b}c"), "a\n\tb  c");
        let json = serde_json::json!({"why": text, "ä": "\u{feff}"}).to_string();
        let written = escaped(&json);
        assert_eq!(written, r#"{"why":"a\u001b[2J\u009b31m\u007f\u202eb\u2028c","ä":"\ufeff"}"#);
        let read: Option<serde_json::Value> = serde_json::from_str(&written).ok();
        assert_eq!(read, serde_json::from_str(&json).ok());
    }
}
