//! Amounts and times: integers with units for programs, short words for people.

use std::time::Duration;

use jiff::Timestamp;
use plenum_proto::v1::{Port, ResourceName, Resources};
use serde_json::{Map, Value, json};

use super::{
    or_dash,
    seen::{given_name, given_name_of, names_given, seen_from_micros},
};

/// Thousandths of a core, as job files write them.
pub(crate) fn cpu(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    format!("{sign}{}", plenum_model::cpu(millis.unsigned_abs()))
}

/// Bytes with the greatest unit of which there is at least one; one decimal where it is not whole.
pub(crate) fn bytes(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", plenum_model::bytes(bytes.unsigned_abs()))
}

/// A length of time in one or two units.
pub(crate) fn span(micros: i64) -> String {
    let micros = micros.max(0);
    let seconds = micros / 1_000_000;
    match seconds {
        0 if micros < 1000 => format!("{micros}us"),
        0 => format!("{}.{}ms", micros / 1000, micros % 1000 / 100),
        1..=9 => format!("{seconds}.{}s", micros % 1_000_000 / 100_000),
        10..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m{}s", seconds / 60, seconds % 60),
        7200..=172_799 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The same, of a length of time.
pub(crate) fn span_of(time: Duration) -> String {
    span(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

/// The wall clock. Only for telling people how old something is; what is shown may be of another moment, see [`seen_from_micros`].
pub(crate) fn now_micros() -> i64 {
    Timestamp::now().as_microsecond()
}

/// How long ago a moment was, as seen from the one that is shown, in whole seconds; a dash for none.
pub(crate) fn ago(micros: i64) -> String {
    if micros == 0 {
        return "-".to_owned();
    }
    whole_seconds(seen_from_micros().saturating_sub(micros))
}

/// A length of time, in whole seconds.
pub(super) fn whole_seconds(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    if seconds < 10 { format!("{seconds}s") } else { span(seconds * 1_000_000) }
}

/// A length of time that somebody asked for: whole seconds have no decimals.
pub(super) fn short_span(micros: i64) -> String {
    if micros % 1_000_000 == 0 { whole_seconds(micros) } else { span(micros) }
}

/// A moment in RFC 3339, in UTC; nothing for 0.
pub(crate) fn json_time(micros: i64) -> Value {
    match Timestamp::from_microsecond(micros) {
        Ok(time) if micros != 0 => Value::from(time.to_string()),
        _ => Value::Null,
    }
}

/// Amounts for programs.
pub(super) fn json_resources(resources: Option<&Resources>) -> Value {
    let Some(resources) = resources else { return Value::Null };
    let mut object = json!({
        "cpu_millis": resources.cpu_millis,
        "memory_bytes": resources.memory_bytes,
        "disk_bytes": resources.disk_bytes,
    });
    // The wire leaves out what is 0 behind the last one that is not.
    let places = resources.custom.len().max(names_given());
    let amount = |place| resources.custom.get(place).copied().unwrap_or(0);
    put_custom(&mut object, (0..places).map(|place| json!(amount(place))));
    object
}

/// Ports for programs, by their names; 0 for one that the cell is going to choose.
pub(super) fn json_ports(ports: &[Port]) -> Value {
    ports.iter().map(|port| (port.name.clone(), json!(port.number))).collect::<Map<_, _>>().into()
}

/// Puts what is said of resources that the cell named itself into an object: each by its place, and under `custom` by its name.
pub(super) fn put_custom(object: &mut Value, amounts: impl Iterator<Item = Value>) {
    let mut named = Map::new();
    for (place, amount) in amounts.enumerate() {
        named.extend(given_name(place).map(|name| (name, amount.clone())));
        object[custom_key(place)] = amount;
    }
    if !named.is_empty() {
        object["custom"] = Value::Object(named);
    }
}

/// What a resource that the cell named itself is called by its place.
fn custom_key(place: usize) -> String {
    format!("custom_{}", place + 1)
}

/// What people call it.
pub(super) fn custom_name(place: usize) -> String {
    given_name(place).unwrap_or_else(|| custom_key(place))
}

/// "Used/limit" of one resource; a dash for no limit.
pub(super) fn part(used: i64, limit: Option<i64>, show: impl Fn(i64) -> String) -> String {
    format!("{}/{}", show(used), limit.map_or_else(|| "-".to_owned(), show))
}

/// The same of each resource that the cell named itself and of which there is some, by its name.
pub(super) fn custom_parts(used: Option<&Resources>, all: Option<&Resources>) -> Vec<(String, String)> {
    let amounts =
        |resources: Option<&Resources>| resources.map(|resources| resources.custom.clone()).unwrap_or_default();
    let (used, all) = (amounts(used), amounts(all));
    let at = |amounts: &[i64], place: usize| amounts.get(place).copied().unwrap_or(0);
    let places = (0..used.len().max(all.len())).filter(|&place| at(&used, place) != 0 || at(&all, place) != 0);
    places
        .map(|place| (custom_name(place), part(at(&used, place), Some(at(&all, place)), |amount| amount.to_string())))
        .collect()
}

/// The same in one cell of a table.
pub(super) fn custom_cell(used: Option<&Resources>, all: Option<&Resources>) -> String {
    let parts = custom_parts(used, all).into_iter().map(|(name, part)| format!("{name}={part}"));
    or_dash(&parts.collect::<Vec<_>>().join(","))
}

/// Amounts for people: `cpu 500m, memory 64MiB`.
pub(super) fn short_resources(resources: Option<&Resources>) -> String {
    let Some(resources) = resources else { return "-".to_owned() };
    let mut text = format!("cpu {}, memory {}", cpu(resources.cpu_millis), bytes(resources.memory_bytes));
    if resources.disk_bytes > 0 {
        text.push_str(&format!(", disk {}", bytes(resources.disk_bytes)));
    }
    for (place, amount) in resources.custom.iter().enumerate().filter(|(_, amount)| **amount != 0) {
        text.push_str(&format!(", {} {amount}", custom_name(place)));
    }
    text
}

/// What part of all so many are, for people: below a tenth rounded up, so that a few of very many are not none, and never all where some are left;
/// `None` of nothing.
pub(super) fn percent(some: u64, all: u64) -> Option<String> {
    let tenths = (u128::from(some) * 1000).div_ceil(u128::from(all).max(1));
    (all > 0).then(|| match tenths {
        0 => "0%".to_owned(),
        1..=99 => format!("{}.{}%", tenths / 10, tenths % 10),
        _ => format!("{}%", (tenths / 10).min(if some < all { 99 } else { 100 })),
    })
}

/// The same for programs, from 0 to 1.
#[allow(clippy::cast_precision_loss, reason = "a part of 2^53 is told as well by 53 bits")]
pub(super) fn json_ratio(some: u64, all: u64) -> Value {
    if all > 0 { json!(some as f64 / all as f64) } else { Value::Null }
}

/// A resource's name as programs read it.
pub(super) fn resource_key(resource: ResourceName) -> Option<String> {
    (resource != ResourceName::Unspecified).then(|| resource.as_str_name().to_lowercase())
}

/// A resource's name and an amount of it, for people.
pub(super) fn named_amount(resource: ResourceName, amount: i64) -> (String, String) {
    match resource {
        ResourceName::CpuMillis => {
            ("cpu".to_owned(), if amount % 1000 == 0 { cpu(amount) } else { format!("{amount}m") })
        }
        ResourceName::MemoryBytes => ("memory".to_owned(), bytes(amount)),
        ResourceName::DiskBytes => ("disk".to_owned(), bytes(amount)),
        other => {
            let name = given_name_of(other).or_else(|| resource_key(other));
            (name.unwrap_or_else(|| "room".to_owned()), amount.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_right() {
        assert_eq!((cpu(500), cpu(2000), cpu(2500)), ("500m".to_owned(), "2".to_owned(), "2500m".to_owned()));
        assert_eq!(bytes(64 << 20), "64MiB");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(i64::MAX), "8191.9PiB");
        assert_eq!(bytes(-(64 << 20)), "-64MiB");
    }

    #[test]
    fn a_part_of_all_is_none_only_where_there_is_none_of_it() {
        let told =
            [(0, 7), (1, 100_000), (1, 40), (99, 1000), (1, 3), (999, 1000), (9996, 10_000), (u64::MAX, u64::MAX)];
        let told = told.map(|(some, all)| percent(some, all).unwrap());
        assert_eq!(told, ["0%", "0.1%", "2.5%", "9.9%", "33%", "99%", "99%", "100%"]);
        assert_eq!((percent(0, 0), json_ratio(0, 0), json_ratio(1, 4)), (None, Value::Null, json!(0.25)));
    }

    // They were `custom_1` wherever people read them, and in short words they were left out.
    #[test]
    fn resources_that_the_cell_named_have_their_names() {
        let resources = Resources { cpu_millis: 500, custom: vec![0, 3], ..Resources::default() };
        assert_eq!(short_resources(Some(&resources)), "cpu 500m, memory 0B, custom_2 3");
        assert_eq!(json_resources(Some(&resources)).get("custom"), None);
        super::super::name_resources(vec!["seats".into(), "licences".into()]);
        assert_eq!(short_resources(Some(&resources)), "cpu 500m, memory 0B, licences 3");
        assert_eq!(named_amount(ResourceName::Custom2, 7), ("licences".to_owned(), "7".to_owned()));
        assert_eq!(named_amount(ResourceName::Custom3, 7).0, "custom_3");
        let object = json_resources(Some(&resources));
        assert_eq!((&object["custom_2"], &object["custom"]), (&json!(3), &json!({"seats": 0, "licences": 3})));
        // A program that looked for one which nobody used found nothing.
        let unused = json_resources(Some(&Resources::default()));
        assert_eq!((&unused["custom_1"], &unused["custom"]), (&json!(0), &json!({"seats": 0, "licences": 0})));
        let all = Resources { custom: vec![0, 8, 1], ..Resources::default() };
        assert_eq!(custom_cell(Some(&resources), Some(&all)), "licences=3/8,custom_3=0/1");
        assert_eq!(custom_cell(None, None), "-");
    }

    #[test]
    fn spans_have_the_precision_that_people_need() {
        let spans: Vec<_> = [7, 1_500, 1_500_000, 42_000_000, 300_000_000, 10_800_000_000].map(span).into();
        assert_eq!(spans, ["7us", "1.5ms", "1.5s", "42s", "5m0s", "3h0m"]);
    }

    // Of a cell as it was a week ago, everything was a week old and more.
    #[test]
    fn ages_count_up_to_the_moment_that_is_shown() {
        let then = now_micros() - 7 * 86_400_000_000;
        assert_eq!(ago(then - 42_000_000), "7d0h");
        super::super::look_from(then);
        assert_eq!(ago(then - 42_000_000), "42s");
        assert_eq!(ago(then + 1_000_000), "0s", "what came later has no age yet");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(json_time(1_000_000), "1970-01-01T00:00:01Z");
        assert_eq!(json_time(0), Value::Null);
        assert_eq!(json_time(i64::MAX), Value::Null);
    }
}
