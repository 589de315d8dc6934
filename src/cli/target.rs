//! What commands name: a job by its name or its file, an allocation or a transaction by its id.

use std::path::Path;

use plenum_model::{AllocationId, TransactionId};

use super::Context;
use crate::{failure::Failure, job_file, output};

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
    if let Some((namespace, name)) = parts.filter(|_| !is_there) {
        return in_own_namespace(context, text, namespace, name);
    }
    let is_file = text.contains('/') || text.ends_with(".toml") || text.ends_with(".json");
    if is_file {
        let shape = context.job_file(path)?.spec.shape.unwrap_or_default();
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
    in_own_namespace(context, text, namespace, name)
}

/// A job whose name has its namespace with it. That says more than a variable or the user's file, which are for all names; the flag is typed for this
/// very command, and who typed another namespace there may mean either job.
fn in_own_namespace(context: &Context, text: &str, namespace: &str, name: &str) -> Result<JobName, Failure> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    // A file that names its namespace was refused because of a variable, which each task has, or of a line in the user's settings; and the command line,
    // which named none, was blamed.
    #[test]
    fn a_file_that_names_its_namespace_gives_way_to_no_variable_and_is_refused_for_another_flag() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, head: &str| {
            let path = folder.path().join(name);
            let group = "[group.main]\ncommand = [\"/bin/true\"]\nresources = { cpu = 1, memory = \"1MiB\" }\n";
            std::fs::write(&path, format!("name = \"x7\"\nscheduler = \"batch\"\n{head}{group}")).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (own, none) = (file("own.toml", "namespace = \"ml\"\n"), file("none.toml", ""));
        let found = |flag: Option<&str>, usual: Option<&str>, file: &str| {
            let context = Context {
                namespace: flag.or(usual).map(str::to_owned),
                namespace_flag: flag.map(str::to_owned),
                ..Context::asking(String::new())
            };
            job(&context, file).map(|job| job.namespace).map_err(|failure| failure.code)
        };
        let named = |namespace: &str| Ok(namespace.to_owned());
        assert_eq!(found(None, Some("prod"), &own), named("ml"));
        assert_eq!(found(Some("ml"), Some("prod"), &own), named("ml"));
        assert_eq!(found(Some("prod"), None, &own), Err("USAGE".into()));
        assert_eq!(found(Some("prod"), Some("dev"), &none), named("prod"));
        assert_eq!((found(None, Some("dev"), &none), found(None, None, &none)), (named("dev"), named("default")));
    }

    // `plenum --namespace other job stop ml/web` stopped the job of `ml` without a word.
    #[test]
    fn a_name_with_its_namespace_gives_way_to_no_variable_and_is_refused_for_another_flag() {
        let found = |flag: Option<&str>, usual: Option<&str>| {
            let context = Context {
                namespace: flag.or(usual).map(str::to_owned),
                namespace_flag: flag.map(str::to_owned),
                ..Context::asking(String::new())
            };
            let named = [job(&context, "ml/web"), listed_job(&context, "ml/web")];
            named.map(|named| named.map(|job| job.called()).map_err(|failure| failure.message))
        };
        let one = || Ok("ml/web".to_owned());
        for (flag, usual) in [(None, None), (None, Some("prod")), (Some("ml"), None), (Some("ml"), Some("prod"))] {
            assert_eq!(found(flag, usual), [one(), one()], "{flag:?}, {usual:?}");
        }
        let refused = "`ml/web` names the namespace `ml`, but the command line names `prod`".to_owned();
        assert_eq!(found(Some("prod"), Some("ml")), [Err(refused.clone()), Err(refused)]);
    }
}
