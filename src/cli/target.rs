//! What commands name: a job by its name or its file, an allocation or a transaction by its id.

use std::path::Path;

use plenum_model::{AllocationId, TransactionId};

use super::Context;
use crate::{
    failure::Failure,
    job_file::{self, JobFile},
    output,
};

/// A job's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl JobName {
    /// What leads to this job, and to no other, as long as neither a flag, nor a variable, nor the user's file names a namespace for all names.
    pub(super) fn called(&self) -> String {
        output::job_called(&self.namespace, &self.name)
    }
}

/// A job that is named, perhaps with its namespace as listings of several have it; or whose file is: then in the namespace in which `job run`
/// would submit the file.
pub(super) fn job(context: &Context, text: &str) -> Result<JobName, Failure> {
    let path = Path::new(text);
    let is_name = |text: &str| job_file::name_fault(text).is_none();
    let parts = text.split_once('/').filter(|(namespace, name)| is_name(namespace) && is_name(name));
    // No job is in a folder, and jobs' files may be kept in folders that are called as the jobs are.
    let is_there = path.exists() && !path.is_dir();
    // It says more than a flag or a variable for all names.
    if let Some((namespace, name)) = parts.filter(|_| !is_there) {
        return Ok(JobName { namespace: namespace.to_owned(), name: name.to_owned() });
    }
    let is_file = text.contains('/') || text.ends_with(".toml") || text.ends_with(".json");
    if is_file {
        let file = JobFile::read(path)?.in_namespace(context.namespace.as_deref())?;
        let shape = file.spec.shape.unwrap_or_default();
        return Ok(JobName { namespace: shape.namespace, name: shape.name });
    }
    match job_file::name_fault(text) {
        Some(what) => Err(Failure::usage(format!("the job's name {what}"))),
        None => Ok(JobName { namespace: context.namespace(), name: text.to_owned() }),
    }
}

/// A job of which alone something is listed. Its namespace is empty where any job of that name is meant.
pub(super) fn listed_job(context: &Context, text: &str) -> Result<JobName, Failure> {
    let Some((namespace, name)) = text.split_once('/') else {
        return Ok(JobName { namespace: context.namespace.clone().unwrap_or_default(), name: text.to_owned() });
    };
    for (part, what) in [(namespace, "the namespace"), (name, "the job's name")] {
        if let Some(fault) = job_file::name_fault(part) {
            return Err(Failure::usage(format!("{what} {fault}")));
        }
    }
    match &context.namespace_flag {
        Some(other) if other != namespace => {
            let what = format!("`{text}` names the namespace `{namespace}`, but the command line names `{other}`");
            Err(Failure::usage(what).with_hint("leave one of them out"))
        }
        _ => Ok(JobName { namespace: namespace.to_owned(), name: name.to_owned() }),
    }
}

/// An allocation's id in 64 bits.
pub(super) fn allocation(text: &str) -> Result<u64, Failure> {
    let id = AllocationId::parse(text).map(AllocationId::to_bits);
    id.ok_or_else(|| {
        Failure::usage(format!(
            "`{text}` is no allocation; expected such as alloc-4-1, as `plenum alloc list` lists them"
        ))
    })
}

/// A transaction's session and number.
pub(super) fn transaction(text: &str) -> Result<(u64, u64), Failure> {
    let id = TransactionId::parse(text).map(|id| (id.session.0, id.number));
    id.ok_or_else(|| Failure::usage(format!("`{text}` is no transaction; expected such as txn-17-3")))
}
