//! Quantities and names as people write them: `500m`, `64MiB`, `1m30s`, `word-count`.
//!
//! Everything is integer arithmetic on the text, so that `0.1` of a core is exactly 100 millis, and everything is
//! bounded. Errors are sentences that say what was expected; the caller adds the field and the place.

use plenum_model::{AMOUNT_MAX, CPU_MILLIS_MAX, QUOTA_MAX, is_name};

/// The longest time a job file can name: a year and a day.
pub(crate) const DURATION_MICROS_MAX: i64 = 366 * 24 * 3600 * 1_000_000;

const CPU_EXPECTED: &str = "expected cores or thousandths of one, such as \"1\", \"0.5\" or \"500m\"";
const BYTES_EXPECTED: &str = "expected a whole number and a unit, such as \"64MiB\" or \"2GB\" (B, kB, MB, GB, TB, KiB, \
                              MiB, GiB, TiB)";
const DURATION_EXPECTED: &str = "expected whole numbers with units, such as \"10s\", \"1m30s\" or \"500ms\" (us, ms, \
                                 s, m, h, d)";
const NAME_EXPECTED: &str = "expected 1 to 63 characters of a to z, 0 to 9 and `-`, the first and the last a \
                             letter or a digit";

/// Thousandths of a core that a task may ask for.
pub(super) fn cpu_millis(text: &str) -> Result<i64, String> {
    cpu_millis_up_to(CPU_MILLIS_MAX, text)
}

/// Thousandths of a core that a quota may allow.
pub(crate) fn quota_cpu_millis(text: &str) -> Result<i64, String> {
    cpu_millis_up_to(QUOTA_MAX, text)
}

fn cpu_millis_up_to(most: u64, text: &str) -> Result<i64, String> {
    let millis = match text.strip_suffix('m') {
        Some(digits) => scaled(digits.trim_end(), 0),
        None => scaled(text, 3),
    };
    match millis {
        Some(millis) if millis.unsigned_abs() <= most => Ok(millis),
        Some(_) => Err(format!("`{text}` is too much; expected at most {} cores", most / 1000)),
        None => Err(format!("`{text}` is no amount of CPU; {CPU_EXPECTED}")),
    }
}

/// Thousandths of a device, such as a GPU: the same notation as for cores.
pub(super) fn device_millis(text: &str) -> Result<i64, String> {
    cpu_millis(text).map_err(|_| format!("`{text}` is no amount of GPUs; expected such as \"2\" or \"250m\""))
}

/// Bytes that a task may ask for. A bare number is taken as bytes.
pub(super) fn bytes(text: &str) -> Result<i64, String> {
    bytes_up_to(AMOUNT_MAX, text)
}

/// Bytes that a quota may allow, written the same.
pub(crate) fn quota_bytes(text: &str) -> Result<i64, String> {
    bytes_up_to(QUOTA_MAX, text)
}

fn bytes_up_to(most: u64, text: &str) -> Result<i64, String> {
    let fault = || format!("`{text}` is no amount of bytes; {BYTES_EXPECTED}");
    let too_much = || format!("`{text}` is too much; expected at most {}TiB", most >> 40);
    let split = text.find(|each: char| !each.is_ascii_digit()).unwrap_or(text.len());
    let amount: i64 = match text[..split].parse() {
        Ok(amount) => amount,
        Err(_) if split > 0 => return Err(too_much()),
        Err(_) => return Err(fault()),
    };
    let unit: i64 = match text[split..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000_i64.pow(2),
        "GB" => 1000_i64.pow(3),
        "TB" => 1000_i64.pow(4),
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        _ => return Err(fault()),
    };
    match amount.checked_mul(unit) {
        Some(bytes) if bytes.unsigned_abs() <= most => Ok(bytes),
        _ => Err(too_much()),
    }
}

/// Microseconds. Parts add up: `1m30s`. As with all quantities, there may be a space before a unit.
pub(crate) fn duration_micros(text: &str) -> Result<i64, String> {
    let fault = || format!("`{text}` is no time; {DURATION_EXPECTED}");
    let too_long = || format!("`{text}` is too long; expected at most 366d");
    let mut rest = text.trim();
    let mut total: i64 = 0;
    if rest.is_empty() {
        return Err(fault());
    }
    while !rest.is_empty() {
        let digits = rest.find(|each: char| !each.is_ascii_digit()).ok_or_else(fault)?;
        if digits == 0 {
            return Err(fault());
        }
        let amount: i64 = rest[..digits].parse().map_err(|_| too_long())?;
        let behind = rest[digits..].trim_start();
        let letters = behind.find(|each: char| !each.is_ascii_alphabetic()).unwrap_or(behind.len());
        let unit: i64 = match &behind[..letters] {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(fault()),
        };
        total = amount.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        rest = behind[letters..].trim_start();
    }
    if total > DURATION_MICROS_MAX { Err(too_long()) } else { Ok(total) }
}

/// Says what is wrong with a name of a job, group, namespace or scheduler; nothing if it is right.
pub(crate) fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        Some(format!("is empty; {NAME_EXPECTED}"))
    } else if name.contains(['/', '\\']) || name == "." || name == ".." {
        Some(format!("`{}` looks like a path; {NAME_EXPECTED}", shortened(name)))
    } else if name.len() > 63 {
        Some(format!("`{}` has {} bytes; {NAME_EXPECTED}", shortened(name), name.len()))
    } else if !is_name(name, false) {
        Some(format!("`{}` is no name; {NAME_EXPECTED}", shortened(name)))
    } else {
        None
    }
}

/// At most 40 characters of somebody's text, for a message.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(39).chain(['…']).collect() }
}

/// A decimal number times a power of ten, exactly; none if it has more decimals, a sign, or does not fit.
fn scaled(text: &str, decimals: usize) -> Option<i64> {
    let (whole, part) = text.split_once('.').map_or((text, ""), |(whole, part)| (whole, part));
    let is_digits = |digits: &str| digits.bytes().all(|each| each.is_ascii_digit());
    let bare = whole.is_empty() || !is_digits(whole) || !is_digits(part) || part.len() > decimals;
    if bare || text.ends_with('.') {
        return None;
    }
    // Digits that do not fit 64 bits are still a number, only too big a one.
    Some(format!("{whole}{part:0<decimals$}").parse().unwrap_or(i64::MAX))
}
