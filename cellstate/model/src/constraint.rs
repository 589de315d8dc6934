//! Conditions on the attributes of machines, and the classes that machines with equal attributes form.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::Cell;

/// What a machine says of itself: name and value.
pub type Attributes = BTreeMap<Arc<str>, Arc<str>>;

/// How a constraint compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `in […]`
    In,
}

/// A condition on one attribute. A missing attribute fails it, whatever the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    /// The attribute's name, without the `attr.` of job files.
    pub attribute: Arc<str>,
    /// How it is compared.
    pub operator: Operator,
    /// With what: one value, or for `In` at least one.
    pub values: Vec<Arc<str>>,
}

impl Constraint {
    /// Whether machines with these attributes satisfy it.
    #[must_use]
    pub fn holds(&self, attributes: &Attributes) -> bool {
        let Some(actual) = attributes.get(&self.attribute) else { return false };
        let order = |value: &Arc<str>| compare_values(actual, value);
        let first = self.values.first().map(order);
        match self.operator {
            Operator::Equal => first == Some(Ordering::Equal),
            Operator::NotEqual => first.is_some_and(|order| order != Ordering::Equal),
            Operator::Less => first == Some(Ordering::Less),
            Operator::LessOrEqual => first.is_some_and(|order| order != Ordering::Greater),
            Operator::Greater => first == Some(Ordering::Greater),
            Operator::GreaterOrEqual => first.is_some_and(|order| order != Ordering::Less),
            Operator::In => self.values.iter().any(|value| order(value) == Ordering::Equal),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
        })
    }
}

/// As job files have it: `attr.rack == "a"`.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(|value| format!("{value:?}")).collect();
        let values = values.join(", ");
        let (open, close) = if self.operator == Operator::In { ("[", "]") } else { ("", "") };
        write!(f, "attr.{} {} {open}{values}{close}", self.attribute, self.operator)
    }
}

/// Orders two values of attributes: runs of digits compare as numbers of any length, whatever their leading zeros, everything else byte
/// by byte. So `5.10` is after `5.9`, `v2` before `v10`, and `a07` equals `a7`.
#[must_use]
pub fn compare_values(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        match (left.first(), right.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) if a.is_ascii_digit() && b.is_ascii_digit() => {
                let (a, rest_left) = split_number(left);
                let (b, rest_right) = split_number(right);
                let order = a.len().cmp(&b.len()).then_with(|| a.cmp(b));
                if order != Ordering::Equal {
                    return order;
                }
                (left, right) = (rest_left, rest_right);
            }
            (Some(a), Some(b)) if a != b => return a.cmp(b),
            _ => (left, right) = (&left[1..], &right[1..]),
        }
    }
}

/// The digits at the beginning without leading zeros, and the rest.
fn split_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeros = number.iter().take_while(|&&byte| byte == b'0').count();
    (&number[zeros..], rest)
}

/// Which classes of machines satisfy a list of constraints: two bits a class, each judged once, when it is asked for or with all others.
#[derive(Clone, Debug, Default)]
pub struct ClassSet {
    /// Those that satisfy them.
    bits: Vec<u64>,
    /// Those that were judged.
    judged: Vec<u64>,
    /// All below were.
    known: usize,
    /// What it knows is good for one numbering of the classes.
    numbering: u64,
}

impl ClassSet {
    /// Whether there is no class of the cell that it has not judged yet.
    #[must_use]
    #[inline]
    pub fn is_complete(&self, cell: &Cell) -> bool {
        self.known == cell.classes().len() && self.numbering == cell.class_numbering()
    }

    /// How many words its bits have room for.
    #[must_use]
    pub const fn words(&self) -> usize {
        self.bits.capacity() + self.judged.capacity()
    }

    /// Judges the classes of the cell that it has not judged yet.
    pub fn refresh(&mut self, constraints: &[Constraint], cell: &Cell) {
        self.refresh_by(cell, |attributes| constraints.iter().all(|constraint| constraint.holds(attributes)));
    }

    /// Judges the classes of the cell that it has not judged yet by another rule; it must be the same one each time.
    pub fn refresh_by(&mut self, cell: &Cell, holds: impl Fn(&Attributes) -> bool) {
        self.begin(cell);
        while self.judge_next(cell, &holds) {}
    }

    /// Judges these classes of the cell, where it has not judged them yet, and as many more: in the end it has judged all of them, and
    /// nobody who needs a few of a hundred thousand has waited for all. The rule must be the same one each time.
    pub fn judge_by(
        &mut self,
        cell: &Cell,
        classes: impl IntoIterator<Item = u32>,
        holds: impl Fn(&Attributes) -> bool,
    ) {
        self.begin(cell);
        for class in classes {
            self.judge(cell, class as usize, &holds);
            self.judge_next(cell, &holds);
        }
    }

    /// Forgets what it knows by other numbers.
    fn begin(&mut self, cell: &Cell) {
        if self.numbering != cell.class_numbering() {
            *self = Self { numbering: cell.class_numbering(), ..Self::default() };
        }
    }

    /// False: there is none left.
    fn judge_next(&mut self, cell: &Cell, holds: &impl Fn(&Attributes) -> bool) -> bool {
        let more = self.known < cell.classes().len();
        if more {
            self.judge(cell, self.known, holds);
            self.known += 1;
        }
        more
    }

    fn judge(&mut self, cell: &Cell, class: usize, holds: &impl Fn(&Attributes) -> bool) {
        let (word, bit) = (class / 64, 1 << (class % 64));
        let known = self.judged.get(word).is_some_and(|judged| judged & bit > 0);
        let Some(attributes) = cell.classes().get(class).filter(|_| !known) else { return };
        if word >= self.judged.len() {
            self.judged.resize(word + 1, 0);
            self.bits.resize(word + 1, 0);
        }
        self.judged[word] |= bit;
        if holds(attributes) {
            self.bits[word] |= bit;
        }
    }

    /// Whether machines of this class satisfy the constraints. False for a class that was not judged.
    #[must_use]
    #[inline]
    pub fn contains(&self, class: u32) -> bool {
        self.bits.get(class as usize / 64).is_some_and(|word| word >> (class % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(attribute: &str, operator: Operator, values: &[&str]) -> bool {
        let attributes = BTreeMap::from([("x".into(), attribute.into())]);
        let values = values.iter().map(|&value| value.into()).collect();
        Constraint { attribute: "x".into(), operator, values }.holds(&attributes)
    }

    #[test]
    fn versions_compare_part_by_part() {
        assert!(check("6.18.44", Operator::GreaterOrEqual, &["5.10"]));
        assert!(check("5.10", Operator::Greater, &["5.9"]));
        assert!(check("5.9", Operator::Less, &["5.10"]));
        assert!(check("007", Operator::Equal, &["7"]));
        assert!(check("18446744073709551616", Operator::Greater, &["18446744073709551615"]));
        assert!(!check("5.10", Operator::Greater, &["5.10"]) && !check("5.10", Operator::Less, &["5.10"]));
        assert!(check("5.10", Operator::GreaterOrEqual, &["5.10"]) && check("5.10", Operator::LessOrEqual, &["5.10"]));
        assert!(check("5.10", Operator::Less, &["5.10.1"]) && check("5.10.1", Operator::Greater, &["5.10"]));
    }

    #[test]
    fn words_compare_as_text_and_sets_by_member() {
        assert!(check("ssd", Operator::NotEqual, &["disk"]));
        assert!(check("b", Operator::In, &["a", "b"]));
        assert!(!check("c", Operator::In, &["a", "b"]));
    }

    #[test]
    fn a_missing_attribute_fails_even_an_inequality() {
        let constraint = Constraint { attribute: "y".into(), operator: Operator::NotEqual, values: vec!["1".into()] };
        assert!(!constraint.holds(&Attributes::new()));
    }
}
