//! Conditions on machines: `attr.kernel >= "5.10"`, `attr.arch in ["x86_64", "aarch64"]`.

use plenum_proto::{
    names,
    v1::{Constraint, Operator},
};

use super::units::shortened;

const EXPECTED: &str = "expected such as 'attr.kernel >= \"5.10\"' or 'attr.arch in [\"x86_64\", \"aarch64\"]' (==, \
                        !=, <, <=, >, >=, in)";
const VALUES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 255;

/// Reads one condition. The error says what was found and expected; the caller adds the place.
pub(crate) fn parse(text: &str) -> Result<Constraint, String> {
    let fault = |what: &str| format!("`{}` is no condition: {what}; {EXPECTED}", shortened(text));
    let text = text.trim();
    let end = text.find(|each: char| each.is_whitespace() || "=!<>".contains(each)).unwrap_or(text.len());
    let attribute = attribute(&text[..end]).map_err(|what| fault(&what))?;
    let rest = text[end..].trim_start();
    let (operator, rest) = operator(rest).ok_or_else(|| fault("no comparison after the attribute"))?;
    let rest = rest.trim();
    let values = if operator == Operator::In {
        list(rest).ok_or_else(|| fault("`in` takes a list of quoted texts"))?
    } else {
        vec![single(rest).ok_or_else(|| fault("the value is neither a quoted text nor a number of digits and dots"))?]
    };
    if values.is_empty() || values.len() > VALUES_MAX {
        return Err(fault(&format!("{} values where 1 to {VALUES_MAX} are possible", values.len())));
    }
    if values.iter().any(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(fault(&format!("a value has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(Constraint { attribute, operator: operator.into(), values })
}

/// The name behind `attr.`.
pub(super) fn attribute(text: &str) -> Result<String, String> {
    let Some(name) = text.strip_prefix("attr.") else {
        return Err(format!("`{}` does not begin with `attr.`", shortened(text)));
    };
    match names::attribute("", name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(format!(
            "`{}` is no name of an attribute (1 to 63 letters, digits, `-`, `_`, `.`, the first a letter or a digit)",
            shortened(name)
        )),
    }
}

fn operator(text: &str) -> Option<(Operator, &str)> {
    let symbols = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    for (symbol, operator) in symbols {
        if let Some(rest) = text.strip_prefix(symbol) {
            return Some((operator, rest));
        }
    }
    let rest = text.strip_prefix("in")?;
    rest.starts_with(|each: char| each.is_whitespace() || each == '[').then_some((Operator::In, rest))
}

/// A quoted text, or a number of digits and dots. Nothing else compares as a number: one below 0 would be a text, so that it has to be written as one.
fn single(text: &str) -> Option<String> {
    if let Some((value, rest)) = quoted(text) {
        return rest.trim().is_empty().then_some(value);
    }
    let is_number = !text.is_empty() && text.chars().all(|each| each.is_ascii_digit() || each == '.');
    is_number.then(|| text.to_owned())
}

fn list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.trim_start();
    let mut values = Vec::new();
    loop {
        if let Some(end) = rest.strip_prefix(']') {
            return end.trim().is_empty().then_some(values);
        }
        let (value, after) = quoted(rest)?;
        values.push(value);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start(),
            None if rest.starts_with(']') => {}
            None => return None,
        }
    }
}

/// A text between two equal quotes, and what follows. There is no way to write the quote itself inside.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|each| *each == '"' || *each == '\'')?;
    let end = text[1..].find(quote)?;
    Some((text[1..=end].to_owned(), &text[end + 2..]))
}
