//! Reads Rust text just well enough for tidy's questions: what is code and what is comment or text, which
//! identifiers there are, which functions, how long. No parser: it must keep compiling within a second.

/// A piece of code: an identifier (or a number), or one sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Token {
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
    }
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// The line of its `fn`, counted from 1.
    pub(crate) line: usize,
    pub(crate) name: String,
    /// Lines from its `fn` to its closing brace.
    pub(crate) lines: usize,
    /// An attribute like `#[test]` or `#[tokio::test]` stands above it.
    pub(crate) is_test: bool,
}

/// `text` with every comment, string and character literal blanked out; all lines stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let length = skipped_length(&characters, at);
        if length == 0 {
            code.push(characters[at]);
            at += 1;
        } else {
            let end = (at + length).min(characters.len());
            code.extend(characters[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// How many characters from `at` on are a comment or a literal; 0 for code.
fn skipped_length(characters: &[char], at: usize) -> usize {
    let rest = &characters[at..];
    match rest {
        ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => string_length(rest),
        ['r' | 'b' | 'c', ..] if at == 0 || !is_word_part(characters[at - 1]) => prefixed_string_length(rest),
        ['\'', '\\', ..] => 2 + rest.iter().skip(3).position(|c| *c == '\'').map_or(rest.len(), |end| end + 2),
        // Not a lifetime: those have no second quote right after one character.
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Block comments nest.
fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Strings like `b"…"`, `r"…"` and `br##"…"##`; 0 when it is an identifier after all.
fn prefixed_string_length(rest: &[char]) -> usize {
    let prefix = rest.iter().take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    if prefix > 2 || rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let open = prefix + hashes;
    if rest[..prefix].contains(&'r') {
        let mut at = open + 1;
        while at < rest.len() {
            if rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
                return at + 1 + hashes;
            }
            at += 1;
        }
        rest.len()
    } else {
        prefix + string_length(&rest[prefix..])
    }
}

fn is_word_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The pieces of `code`, which must come from [`code_only`]. `::` is one token.
pub(crate) fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word_part(first) {
                rest.find(|c| !is_word_part(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            tokens.push(Token { line, text: token.to_owned() });
            rest = after.trim_start();
        }
    }
    tokens
}

/// All functions with a body, those inside others included.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "#" => is_test |= is_test_attribute(&tokens[at + 1..]),
            "fn" => {
                if let Some(name) = tokens.get(at + 1).filter(|next| next.is_word())
                    && let Some(end) = last_line_of_body(&tokens[at..])
                {
                    let lines = end - token.line + 1;
                    found.push(Function { line: token.line, name: name.text.clone(), lines, is_test });
                }
                is_test = false;
            }
            ";" | "}" => is_test = false,
            _ => {}
        }
    }
    found
}

/// True for what follows the `#` of an attribute whose path ends in `test`.
fn is_test_attribute(after: &[Token]) -> bool {
    let path = after.iter().skip(1).take_while(|token| token.is_word() || token.text == "::");
    after.first().is_some_and(|token| token.text == "[") && path.last().is_some_and(|token| token.text == "test")
}

/// The line of the brace that closes the function which starts at the front; none if it has no body.
fn last_line_of_body(tokens: &[Token]) -> Option<usize> {
    let mut in_brackets = 0_usize;
    let mut depth = 0_usize;
    for token in tokens {
        match token.text.as_str() {
            "(" | "[" if depth == 0 => in_brackets += 1,
            ")" | "]" if depth == 0 => in_brackets = in_brackets.saturating_sub(1),
            ";" if depth == 0 && in_brackets == 0 => return None,
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

/// The words of an identifier in lower case: `maxPodCount`, `max_pod_count` and `MAX_POD_COUNT` have the same.
pub(crate) fn words(identifier: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in identifier.split('_') {
        let mut before_is_lower = true;
        for (place, character) in part.chars().enumerate() {
            if place == 0 || (character.is_uppercase() && before_is_lower) {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(character.to_lowercase());
            }
            before_is_lower = character.is_lowercase() || character.is_numeric();
        }
    }
    words
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"pod // no\"; // pod\n/* pod /* pod */ pod */ let b = r#\"pod \" pod\"#;\nlet c = '\"'; let d: &'a str = b\"pod\";";
    let code = code_only(text);
    assert!(!code.contains("pod"), "{code}");
    assert_eq!(code.lines().count(), 3);
    assert!(code.contains("let d: &'a str ="), "{code}");
}

#[test]
fn functions_are_found_with_their_length_and_their_test_attribute() {
    let text = "#[tokio::test(flavor = \"x\")]\n#[should_panic]\nasync fn tells_a_story() {\n    if a { b } else { c }\n}\ntrait T { fn none(a: [u8; 2]); }\nfn plain() {}\n";
    let found = functions(&tokens(&code_only(text)));
    let expected = [(3, "tells_a_story", 3, true), (7, "plain", 1, false)];
    let found: Vec<_> = found.iter().map(|f| (f.line, f.name.as_str(), f.lines, f.is_test)).collect();
    assert_eq!(found, expected);
}

#[test]
fn identifiers_fall_into_words_however_they_are_written() {
    assert_eq!(words("max_pod_count"), ["max", "pod", "count"]);
    assert_eq!(words("MAX_POD_COUNT"), ["max", "pod", "count"]);
    assert_eq!(words("PodId"), ["pod", "id"]);
    assert_eq!(words("podium"), ["podium"]);
}
