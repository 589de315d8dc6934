//! Job files: TOML, or JSON with the same fields, read into the `JobSpec` that a cell takes.
//!
//! Reading is strict. A field that nobody knows is an error, not a wish that goes unheard; what is known but not built
//! yet is refused as `UNIMPLEMENTED`. Whatever the file leaves out is filled in here, at the edge, so that a cell never
//! guesses. This module knows nothing of connections or of the command line.

mod constraint;
mod fault;
mod fields;
mod group;
mod job;
mod json;
mod nearest;
mod order;
mod settings;
mod sharing;
#[cfg(test)]
mod tests;
mod tree;
mod units;

pub(crate) use constraint::parse as constraint;
pub(crate) use fault::JobFileError;
pub(crate) use nearest::{guess, nearest};
pub(crate) use settings::{Settings, settings};
pub(crate) use units::{duration_micros, name_fault, quota_bytes, quota_cpu_millis};

use std::{
    io::{ErrorKind, Read},
    path::Path,
};

use plenum_proto::v1::{JobKind, JobShape, JobSpec};

use self::{fault::Faults, group::Custom};

use crate::failure::Failure;

/// The longest job file that is read. A job's body is at most 64 KiB, so that more can only be a mistake.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;

/// Attempts of a retry policy without a limit, as the protocol writes it.
pub(crate) const ATTEMPTS_UNLIMITED: u32 = u32::MAX;

/// A job file, read and checked as far as it can be without a cell.
#[derive(Clone, Debug)]
pub(crate) struct JobFile {
    /// What is submitted. Custom resources are still missing from it: see [`JobFile::with_custom_resources`].
    pub(crate) spec: JobSpec,
    /// True when the file itself named the namespace.
    names_namespace: bool,
    /// Each with the place of its group.
    custom: Vec<(usize, Custom)>,
    source: Source,
}

/// What a job does instead of ending by itself, in words; nothing of one that ends.
pub(crate) fn endless(shape: &JobShape) -> Option<&'static str> {
    match shape.kind() {
        JobKind::Forever => Some("runs for ever"),
        JobKind::Recurring => Some("waits for ever to be launched"),
        _ if shape.groups.iter().all(|group| group.count == 0) => Some("has no task and waits for ever to be scaled"),
        JobKind::ToCompletion | JobKind::Unspecified => None,
    }
}

/// What to do about a file that can't be opened, where its path is to blame.
fn no_file_hint(kind: ErrorKind) -> Option<&'static str> {
    let is_path = matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory);
    is_path.then_some("give the path of a job file in TOML or JSON")
}

/// The file's name and text, kept for showing places in it.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
}

impl JobFile {
    /// Reads and checks a job file.
    ///
    /// # Errors
    ///
    /// `JOB_FILE_UNREADABLE` when there is no such file or it is above 1 MiB; otherwise as [`JobFile::parse`].
    pub(crate) fn read(path: &Path) -> Result<Self, JobFileError> {
        let is_standard_input = path == Path::new("-");
        let name = if is_standard_input { "standard input".to_owned() } else { path.display().to_string() };
        // Not by its size: a device or a pipe has none, and may have no end.
        let mut bytes = Vec::new();
        let opened = if is_standard_input {
            Ok(Box::new(std::io::stdin()) as Box<dyn Read>)
        } else {
            std::fs::File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
        };
        opened
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| JobFileError::unreadable(&name, &error.to_string(), no_file_hint(error.kind())))?;
        Self::from_bytes(&name, bytes)
    }

    /// The text of the bytes, checked.
    fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, JobFileError> {
        let unreadable = |why: &str, hint| JobFileError::unreadable(name, why, Some(hint));
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let why = format!("it has more than the {FILE_BYTES_MAX} bytes of a job file");
            return Err(unreadable(&why, "put long scripts into files that the command reads"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let right = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = right.split(|byte| *byte == b'\n').count();
            unreadable(&format!("it is no text in UTF-8 from line {line} on"), "save it as UTF-8")
        })?;
        Self::parse(name, &text)
    }

    /// Checks the text of a job file. It is JSON when its name ends in `.json` or its first character is `{`. A byte order mark before it, as
    /// some editors write one, says nothing.
    ///
    /// # Errors
    ///
    /// What is wrong in the file, each with its place: all that can be found at once, twenty at most.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, JobFileError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = Source { name: name.to_owned(), text: text.to_owned() };
        let (tree, format) = match (name.ends_with(".json"), text.trim_start().starts_with('{')) {
            (true, _) => (json::parse(text), "this is read as JSON, as its name ends in .json"),
            (false, true) => (json::parse(text), "this is read as JSON, as it begins with {"),
            (false, false) => {
                let told = "this is read as TOML; JSON begins with {, or has a name that ends in .json";
                (tree::parse_toml(text), told)
            }
        };
        let tree = tree.map_err(|fault| if fault.code == "JOB_FILE_SYNTAX" { fault.with_hint(format) } else { fault });
        match tree.map_err(Faults::from).and_then(|tree| job::read(&tree)) {
            Ok(job) => Ok(Self { spec: job.spec, names_namespace: job.names_namespace, custom: job.custom, source }),
            Err(faults) => Err(JobFileError::new(&source.name, &source.text, faults)),
        }
    }

    /// The job in the namespace that the `flag` of the command line names; where neither does it nor the file, in the `usual` one, if there is one.
    ///
    /// # Errors
    ///
    /// `USAGE` when the file names another one than the flag.
    pub(crate) fn in_namespace(mut self, flag: Option<&str>, usual: Option<&str>) -> Result<Self, Failure> {
        let Some(shape) = self.spec.shape.as_mut() else { return Ok(self) };
        if !self.names_namespace {
            if let Some(namespace) = flag.or(usual) {
                shape.namespace = namespace.to_owned();
            }
        } else if let Some(other) = flag.filter(|flag| *flag != shape.namespace) {
            let (file, own) = (&self.source.name, &shape.namespace);
            let what = format!("{file} names the namespace `{own}`, but the command line names `{other}`");
            return Err(Failure::usage(what).with_hint("leave one of them out"));
        }
        Ok(self)
    }

    /// The file's name, as it was given.
    pub(crate) fn name(&self) -> &str {
        &self.source.name
    }

    /// True when the file asks for resources that only the cell can number.
    pub(crate) fn has_custom_resources(&self) -> bool {
        !self.custom.is_empty()
    }

    /// Puts custom resources in the order of the cell that the job goes to.
    ///
    /// # Errors
    ///
    /// `NO_SUCH_RESOURCE` when the cell has none of that name; `JOB_FILE_UNKNOWN_FIELD` when it looks like a slip in a name of all cells.
    pub(crate) fn with_custom_resources(mut self, cell: &[String]) -> Result<Self, JobFileError> {
        let mut faults = Faults::default();
        for (group, custom) in &self.custom {
            let Some(place) = cell.iter().position(|name| *name == custom.resource) else {
                let absent = || job::no_such_resource(&custom.resource, cell, custom.at.clone());
                faults.add_with(|| custom.slip.clone().unwrap_or_else(absent));
                continue;
            };
            let group = self.spec.shape.as_mut().and_then(|shape| shape.groups.get_mut(*group));
            if let Some(resources) = group.and_then(|group| group.resources.as_mut()) {
                if resources.custom.len() <= place {
                    resources.custom.resize(place + 1, 0);
                }
                resources.custom[place] = custom.amount;
            }
        }
        if !faults.is_empty() {
            return Err(JobFileError::new(&self.source.name, &self.source.text, faults));
        }
        self.custom.clear();
        Ok(self)
    }
}
