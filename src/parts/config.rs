//! Configuration files of parts: TOML with what the flags say, in names with underscores, and with all that has no flag.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, path::PathBuf, sync::Arc, time::Duration};

use plenum_agent::assignments::devices_variable;
use plenum_model::{AMOUNT_MAX, CUSTOM_RESOURCES, Device};
use plenum_proto::{
    bounds::{self, DEVICES_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX},
    names,
};

use crate::{
    address::url,
    failure::Failure,
    job_file::{Settings, settings},
};

/// What a part reads of a file.
pub(super) trait Read: Default {
    /// What is left out is as in the default.
    fn read(settings: &mut Settings<'_>) -> Self;
}

/// A server's file.
#[derive(Debug, Default)]
pub(super) struct ServerFile {
    pub(super) dir: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) custom_resources: Vec<String>,
    pub(super) lease: Option<Duration>,
    pub(super) session_linger: Option<Duration>,
    pub(super) retain: Option<Duration>,
    pub(super) retain_bytes: Option<u64>,
    /// After which time tasks that the cell does not know are told to stop.
    pub(super) unknown_after: Option<Duration>,
    /// After which time finished jobs leave the cell.
    pub(super) retire_after: Option<Duration>,
    pub(super) finished_jobs: Option<usize>,
    pub(super) checkpoint_bytes: Option<u64>,
    pub(super) checkpoint_interval: Option<Duration>,
    /// From how many page images on a set of them begins with a file.
    pub(super) image_file_pages: Option<usize>,
    pub(super) segment_bytes: Option<u64>,
    pub(super) reserve_bytes: Option<u64>,
    pub(super) recent_bytes: Option<usize>,
    pub(super) arriving_bytes: Option<usize>,
    pub(super) unread_bytes: Option<usize>,
    pub(super) connections: Option<usize>,
    pub(super) shared_calls: Option<usize>,
    pub(super) listing_rows: Option<u32>,
}

impl Read for ServerFile {
    fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            dir: settings.parsed("dir", folder),
            listen: settings.parsed("listen", |text| {
                text.parse().map_err(|_| "expected an address and a port, such as \"127.0.0.1:7070\"".to_owned())
            }),
            custom_resources: settings.texts("custom_resources"),
            lease: settings.time("lease"),
            session_linger: settings.time("session_linger"),
            retain: settings.time("retain"),
            retain_bytes: settings.number("retain_bytes", 0..=u64::MAX),
            unknown_after: settings.time("unknown_after"),
            retire_after: settings.time("retire_after"),
            finished_jobs: settings.number("finished_jobs", 0..=usize::MAX),
            checkpoint_bytes: settings.number("checkpoint_bytes", 0..=u64::MAX),
            checkpoint_interval: settings.time("checkpoint_interval"),
            image_file_pages: settings.number("image_file_pages", 0..=usize::MAX),
            segment_bytes: settings.number("segment_bytes", 0..=u64::MAX),
            reserve_bytes: settings.number("reserve_bytes", 0..=u64::MAX),
            recent_bytes: settings.number("recent_bytes", 0..=usize::MAX),
            arriving_bytes: settings.number("arriving_bytes", 0..=usize::MAX),
            unread_bytes: settings.number("unread_bytes", 0..=usize::MAX),
            connections: settings.number("connections", 0..=usize::MAX),
            shared_calls: settings.number("shared_calls", 0..=usize::MAX),
            listing_rows: settings.number("listing_rows", 0..=u32::MAX),
        }
    }
}

/// An agent's file.
#[derive(Debug, Default)]
pub(super) struct AgentFile {
    pub(super) addr: Option<String>,
    pub(super) name: Option<String>,
    pub(super) dir: Option<PathBuf>,
    pub(super) share: Option<u32>,
    pub(super) memory_aside: Option<u64>,
    pub(super) no_isolation: bool,
    pub(super) stop_tasks_on_exit: bool,
    pub(super) attributes: BTreeMap<String, String>,
    /// By kind, such as `[devices.gpu]`.
    pub(super) devices: BTreeMap<String, Devices>,
    /// By the name that the cell has given.
    pub(super) resources: BTreeMap<String, u64>,
    pub(super) log_file_bytes_max: Option<u64>,
    pub(super) ended_kept_max: Option<usize>,
    pub(super) ended_bytes_max: Option<u64>,
    pub(super) pids_max: Option<u32>,
}

impl Read for AgentFile {
    fn read(settings: &mut Settings<'_>) -> Self {
        let file = Self {
            addr: settings.text("addr"),
            name: settings.text("name"),
            dir: settings.parsed("dir", folder),
            share: settings.number("share", 1..=SHARES_MAX),
            memory_aside: settings.number("memory_aside", 0..=u64::MAX),
            no_isolation: settings.is_true("no_isolation"),
            stop_tasks_on_exit: settings.is_true("stop_tasks_on_exit"),
            attributes: settings.named_texts("attributes"),
            devices: settings.named_tables("devices", "a table, such as { count = 2 }", Devices::read),
            resources: settings.named_numbers("resources"),
            log_file_bytes_max: settings.number("log_file_bytes_max", LOG_FILE_BYTES_MIN..=u64::MAX),
            ended_kept_max: settings.number("ended_kept_max", 0..=usize::MAX),
            ended_bytes_max: settings.number("ended_bytes_max", 0..=u64::MAX),
            pids_max: settings.number("pids_max", 0..=PIDS_MAX),
        };
        file.check(settings);
        file
    }
}

/// Equal devices of a machine.
#[derive(Debug)]
pub(super) struct Devices {
    count: u32,
    model: String,
}

impl Devices {
    fn read(settings: &mut Settings<'_>) -> Self {
        let count = settings.number("count", 1..=OF_ONE_KIND_MAX);
        if count.is_none() {
            settings.lacks("count");
        }
        Self { count: count.unwrap_or(0), model: settings.text("model").unwrap_or_default() }
    }
}

/// Devices of one kind that a machine has at most.
const OF_ONE_KIND_MAX: u32 = 64;

/// Attributes that a file may give a machine: room is left for the four that its agent finds.
const ATTRIBUTES_MAX: usize = bounds::ATTRIBUTES_MAX - 4;
/// As many as the flag takes.
const SHARES_MAX: u32 = 64;
/// Output that is kept in files of less would be more names than bytes.
const LOG_FILE_BYTES_MIN: u64 = 4096;
/// As many processes as the kernel can number (its `PID_MAX_LIMIT`): a control group takes no larger limit.
const PIDS_MAX: u32 = 1 << 22;

impl AgentFile {
    /// Checks what can't be told by the kind of a value. What no cell takes is told here: an agent that is refused goes on asking, as a cell may change
    /// its mind.
    fn check(&self, settings: &mut Settings<'_>) {
        // Its line would be shown with its place, and a password may stand in there.
        if let Some(Err(wrong)) = self.addr.as_deref().map(url) {
            settings.refuse(&[], format!("addr: {}", wrong.message));
        }
        if let Some(Err(wrong)) = self.name.as_deref().map(|name| plenum_agent::machine::name(Some(name))) {
            settings.refuse(&["name"], wrong.to_string());
        }
        self.check_names(settings);
        self.check_lengths(settings);
        self.check_counts(settings);
        self.check_variables(settings);
    }

    fn check_names(&self, settings: &mut Settings<'_>) {
        let attributes = self.attributes.keys().map(|name| ("attributes", name.as_str()));
        let devices = self.devices.keys().map(|kind| ("devices", kind.as_str()));
        let resources = self.resources.keys().map(|name| ("resources", name.as_str()));
        for (table, name) in attributes.chain(devices).chain(resources) {
            if let Err(invalid) = names::attribute(table, name) {
                settings.refuse(&[table, name], invalid.to_string());
            }
        }
    }

    /// Of what has a name that can be: others are told already, and may be as long as the file.
    fn check_lengths(&self, settings: &mut Settings<'_>) {
        let is_long = |(name, value): &(&String, &String)| value.len() > TEXT_BYTES_MAX && is_name(name);
        for (name, value) in self.attributes.iter().filter(is_long) {
            let what = format!("attributes.{name} has {} bytes; expected at most {TEXT_BYTES_MAX}", value.len());
            settings.refuse(&["attributes", name.as_str()], what);
        }
        let is_large = |(name, amount): &(&String, &u64)| **amount > AMOUNT_MAX && is_name(name);
        for (name, amount) in self.resources.iter().filter(is_large) {
            let what = format!("resources.{name} is {amount}; expected at most {AMOUNT_MAX}");
            settings.refuse(&["resources", name.as_str()], what);
        }
        for (kind, Devices { model, .. }) in &self.devices {
            if model.len() > NAME_BYTES_MAX && is_name(kind) {
                let what = format!("devices.{kind}.model has {} bytes; expected at most {NAME_BYTES_MAX}", model.len());
                settings.refuse(&["devices", kind.as_str(), "model"], what);
            }
        }
    }

    fn check_counts(&self, settings: &mut Settings<'_>) {
        for (name, found, most) in [
            ("attributes", self.attributes.len(), ATTRIBUTES_MAX),
            ("resources", self.resources.len(), CUSTOM_RESOURCES),
        ] {
            if found > most {
                settings.refuse(&[name], format!("{name} are {found}; expected at most {most}"));
            }
        }
        let devices: u64 = self.devices.values().map(|devices| u64::from(devices.count)).sum();
        if devices > DEVICES_MAX as u64 {
            settings.refuse(&["devices"], format!("devices come to {devices} in all; expected at most {DEVICES_MAX}"));
        }
    }

    /// Tasks find their devices in variables by kind.
    fn check_variables(&self, settings: &mut Settings<'_>) {
        let mut kinds = BTreeMap::new();
        for kind in self.devices.keys().filter(|kind| is_name(kind)) {
            let variable = devices_variable(kind);
            if let Some(other) = kinds.get(&variable) {
                let what = format!(
                    "devices {other:?} and {kind:?} would both be in {variable} of a task; expected kinds that differ in more than '-', '_', \
                     '.' and the size of letters"
                );
                settings.refuse(&["devices", kind.as_str()], what);
            } else {
                kinds.insert(variable, kind);
            }
        }
    }

    /// The devices, each whole: as many as a machine may have.
    pub(super) fn each_device(&self) -> Vec<Device> {
        let mut all = Vec::new();
        for (kind, devices) in &self.devices {
            let (kind, model): (Arc<str>, Arc<str>) = (kind.as_str().into(), devices.model.as_str().into());
            let device = |index| Device { kind: kind.clone(), index, millis: 1000, model: model.clone() };
            all.extend((0..devices.count).map(device));
        }
        all
    }
}

/// Whether an attribute, a kind of devices or a resource can be called so.
fn is_name(name: &str) -> bool {
    names::attribute("", name).is_ok()
}

/// Reads a file; the defaults where none is named.
pub(super) fn read<C: Read>(path: Option<&Path>) -> Result<C, Failure> {
    let Some(path) = path else { return Ok(C::default()) };
    let text =
        fs::read_to_string(path).map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?;
    parse(&path.display().to_string(), &text)
}

/// Reads the text of a file of this name.
pub(super) fn parse<C: Read>(name: &str, text: &str) -> Result<C, Failure> {
    settings(name, text, C::read).map_err(Failure::from)
}

/// The path of a directory. An empty one would be the working directory, whatever that is where the part is started.
fn folder(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        Err("expected the path of a directory, found an empty one".to_owned())
    } else {
        Ok(path.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse<C: Read>(text: &str) -> Result<C, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part.toml");
        fs::write(&path, text).unwrap();
        read(Some(&path))
    }

    #[test]
    fn a_servers_file_has_times_with_units() {
        let file: ServerFile = parse("listen = \"127.0.0.1:7171\"\nlease = \"15s\"\nretain_bytes = 10\n").unwrap();
        assert_eq!((file.lease, file.retain_bytes), (Some(Duration::from_secs(15)), Some(10)));
    }

    // A cell was made in the working directory: a template had put nothing in there.
    #[test]
    fn an_empty_path_is_no_directory() {
        let told = "expected the path of a directory, found an empty one";
        let refused = [parse::<ServerFile>("dir = \"\"\n").err(), parse::<AgentFile>("dir = \"\"\n").err()];
        for failure in refused.map(Option::unwrap) {
            assert!(failure.code == "CONFIG" && failure.message.contains(told), "{failure}");
        }
        let file: ServerFile = parse("dir = \"cell\"\n").unwrap();
        assert_eq!(file.dir, Some(PathBuf::from("cell")));
        assert_eq!(parse::<AgentFile>("").unwrap().dir, None);
    }

    #[test]
    fn an_agents_file_says_how_many_devices_of_each_kind_there_are() {
        let file: AgentFile = parse("[devices.gpu]\ncount = 2\nmodel = \"a100\"\n").unwrap();
        let devices = file.each_device();
        assert_eq!(
            devices.iter().map(|device| (&*device.kind, device.index)).collect::<Vec<_>>(),
            [("gpu", 0), ("gpu", 1)]
        );
        let refused = parse::<AgentFile>("[devices.gpu]\ncount = 0\n").unwrap_err();
        assert!(refused.message.contains("`devices.gpu.count` is 0; expected 1 or more"), "{refused}");
    }

    // They were told one at a time, and of none its place. With files of no bytes, a task's shim made new ones without end, and could not be asked to
    // stop; with more processes than a kernel numbers, every task failed: it refused to make their control groups.
    #[test]
    fn numbers_that_an_agent_can_not_have_are_told_together_and_with_their_places() {
        let sound = "share = 64\nlog_file_bytes_max = 4096\npids_max = 4194304\n";
        let read: AgentFile = parse(sound).unwrap();
        assert_eq!((read.share, read.pids_max), (Some(64), Some(4_194_304)));
        assert_eq!(parse::<AgentFile>("pids_max = 0\n").unwrap().pids_max, Some(0));
        let refused = parse::<AgentFile>("share = 0\nlog_file_bytes_max = 0\npids_max = 4294967295\n").unwrap_err();
        for told in [
            ":1:9: `share` is 0; expected 1 or more",
            ":2:22: `log_file_bytes_max` is 0; expected 4096 or more",
            ":3:12: `pids_max` is 4294967295; expected at most 4194304",
        ] {
            assert!(refused.code == "CONFIG" && refused.message.contains(told), "{refused}");
        }
    }

    // The agent asked for ever for a cell at port 80 of a host that is called 7601.
    #[test]
    fn an_address_in_an_agents_file_is_judged_as_one_that_is_typed() {
        for (address, why) in [
            ("7601", "`7601` is no address: it names no port"),
            ("https://cell:7070", "https://cell:7070 asks for TLS"),
            ("me:hush@cell", ""),
        ] {
            let failure = parse::<AgentFile>(&format!("addr = {address:?}\n")).unwrap_err();
            let told = format!("part.toml: addr: {why}");
            assert!(failure.code == "CONFIG" && failure.message.contains(&told), "{failure}");
            assert!(!failure.message.contains("hush"), "a password is not told: {failure}");
        }
        assert!(parse::<AgentFile>("addr = \"127.0.0.1:7601\"\n").is_ok());
    }

    // They were told one at a time, without their file and line, and only where all else was right.
    #[test]
    fn what_an_agents_file_has_wrong_is_told_together_and_with_its_places() {
        let text = "addr = \"nope\"\nname = \"A b\"\nshare = 0\n[attributes]\n\"a b\" = \"c\"\nrack = \"r1\"\n\
                    [devices.\"g p u\"]\ncount = 1\n[resources]\n\"é\" = 1\n";
        let failure = parse::<AgentFile>(text).unwrap_err();
        for told in [
            "part.toml: addr: `nope` is no address",
            "part.toml:2:1: name \"A b\": expected 1 to 63 of a-z",
            "part.toml:3:9: `share` is 0; expected 1 or more",
            "part.toml:5:1: attributes: expected 1 to 63 bytes",
            "devices: expected 1 to 63 bytes",
            "part.toml:10:1: resources: expected 1 to 63 bytes",
        ] {
            assert!(failure.message.contains(told), "expected {told:?} in {failure}");
        }
    }

    // The agent asked to register again and again, and was refused each time.
    #[test]
    fn what_no_cell_takes_of_a_machine_is_told_at_the_start() {
        let check = |text: &str| parse::<AgentFile>(text).unwrap_err();
        for (text, told) in [
            ("[attributes]\n\"a b\" = \"c\"\n".to_owned(), "attributes: expected 1 to 63 bytes"),
            (format!("attributes.rack = {:?}\n", "x".repeat(256)), "attributes.rack has 256 bytes"),
            ("[devices.\"g p u\"]\ncount = 1\n".to_owned(), "devices: expected 1 to 63 bytes"),
            (
                format!("[devices.gpu]\ncount = 1\nmodel = {:?}\n", "x".repeat(64)),
                "devices.gpu.model has 64 bytes; expected at most 63",
            ),
            ("[resources]\n\"a b\" = 1\n".to_owned(), "resources: expected 1 to 63 bytes"),
            (format!("resources.seats = {}\n", AMOUNT_MAX + 1), "resources.seats is"),
            (
                "resources = { a = 1, b = 1, c = 1, d = 1, e = 1, f = 1 }\n".to_owned(),
                "resources are 6; expected at most 5",
            ),
        ] {
            let failure = check(&text);
            assert!(failure.code == "CONFIG" && failure.message.contains(told), "{failure}");
        }
        let many: String = (0..253).map(|number| format!("attributes.a{number} = \"\"\n")).collect();
        assert!(check(&many).message.contains("attributes are 253; expected at most 252"));
        let kinds: String = (0..5).map(|number| format!("[devices.k{number}]\ncount = 64\n")).collect();
        let devices = check(&kinds);
        assert!(devices.message.contains("320 in all; expected at most 256"), "{devices}");
        assert!(parse::<AgentFile>("attributes.rack = \"r1\"\n[devices.gpu]\ncount = 1\n").is_ok());
    }

    // A task that had one device of each found the positions of both in one variable, and took those of the other kind for its own.
    #[test]
    fn kinds_of_devices_that_tasks_could_not_tell_apart_are_refused() {
        let of = |kinds: [&str; 2]| {
            let text: String = kinds.map(|kind| format!("[devices.{kind:?}]\ncount = 1\n")).concat();
            parse::<AgentFile>(&text)
        };
        for kinds in [["gpu.a", "gpu_a"], ["gpu-a", "gpu_a"], ["GPU", "gpu"]] {
            let failure = of(kinds).unwrap_err();
            let told = format!("devices {:?} and {:?} would both be in PLENUM_DEVICES_GPU", kinds[0], kinds[1]);
            assert!(failure.code == "CONFIG" && failure.message.contains(&told), "{failure}");
        }
        assert!(of(["gpu.a", "gpu.b"]).is_ok() && of(["gpu", "gpu1"]).is_ok());
    }

    // It was taken up to 255 bytes, of which the cell takes 63.
    #[test]
    fn a_model_of_a_device_is_as_long_as_a_cell_takes_it() {
        for bytes in [NAME_BYTES_MAX, NAME_BYTES_MAX + 1] {
            let model = "x".repeat(bytes);
            let is_taken = parse::<AgentFile>(&format!("[devices.gpu]\ncount = 1\nmodel = {model:?}\n")).is_ok();
            let device = Device { kind: "gpu".into(), index: 0, millis: 1000, model: model.into() };
            let sent = plenum_proto::v1::Device::from(&device);
            assert_eq!(is_taken, Device::try_from(sent).is_ok(), "{bytes} bytes");
        }
    }

    #[test]
    fn a_slip_in_a_configuration_is_an_error_with_its_place() {
        let failure = parse::<ServerFile>("lisen = \"127.0.0.1:7171\"\n").unwrap_err();
        assert_eq!(failure.code, "CONFIG");
        let told = "part.toml:1:1: unknown setting `lisen`; did you mean `listen`?";
        assert!(failure.message.contains(told), "{failure}");
        assert!(parse::<ServerFile>("lease = \"15\"\n").unwrap_err().message.contains("with units"));
        let bare = parse::<ServerFile>("lease = 5\n").unwrap_err();
        let told = "part.toml:1:9: `lease` is an integer; expected a time with a unit, such as \"10s\"";
        assert!(bare.message.contains(told), "{bare}");
        assert_eq!(parse::<AgentFile>("name = 3\n").unwrap_err().code, "CONFIG");
        let address = parse::<ServerFile>("listen = \"7070\"\n").unwrap_err();
        assert!(address.message.contains("`listen` is `7070`; expected an address and a port"), "{address}");
    }

    // A table of devices that was a number was told to be no `struct Devices`.
    #[test]
    fn devices_that_are_no_table_are_told_what_one_is() {
        let told = |text: &str| parse::<AgentFile>(text).unwrap_err().message;
        let number = told("devices = { gpu = 2 }\n");
        assert!(number.contains("`devices.gpu` is an integer; expected a table, such as { count = 2 }"), "{number}");
        let none = told("[devices.gpu]\nmodel = \"a100\"\n");
        assert!(none.contains("`devices.gpu.count` is missing"), "{none}");
        let text = told("[devices.gpu]\ncount = \"2\"\n");
        assert!(
            text.contains("`devices.gpu.count` is a text; expected an integer") && !text.contains("missing"),
            "{text}"
        );
    }
}
