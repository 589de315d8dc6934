//! Which build is measured: of the same sources a package has rates that are half as high again as a release build's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How this program was built, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Build {
    /// Cargo's profile: `release`, or `dist`.
    profile: String,
    /// Laid out by counts of what was run, as packages are.
    by_counts: bool,
    /// What was checked out when it was built, where git told. What was changed in the sources besides is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

impl Build {
    /// That of this program.
    pub(crate) fn this() -> Self {
        Self {
            profile: env!("PLENUM_BENCH_PROFILE").to_owned(),
            by_counts: option_env!("PLENUM_BENCH_COUNTS").is_some(),
            commit: option_env!("PLENUM_BENCH_COMMIT").map(str::to_owned),
        }
    }

    /// How it was built, whatever the sources were.
    pub(crate) fn manner(&self) -> String {
        let by_counts = if self.by_counts { " by counts of what was run" } else { "" };
        format!("profile {}{by_counts}", self.profile)
    }

    /// What was checked out.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.manner())?;
        match self.commit() {
            Some(commit) => write!(f, ", commit {commit}"),
            None => write!(f, ", no commit known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_with_its_profile_its_counts_and_its_commit() {
        let package = Build { profile: "dist".into(), by_counts: true, commit: Some("0b492951aaaa".into()) };
        assert_eq!(package.to_string(), "profile dist by counts of what was run, commit 0b492951aaaa");
        assert_eq!(serde_json::from_value::<Build>(serde_json::json!(package)).unwrap(), package);
        let plain = Build { profile: "release".into(), by_counts: false, commit: None };
        assert_eq!(plain.to_string(), "profile release, no commit known");
    }

    #[test]
    fn the_profile_of_this_program_is_that_of_its_folder() {
        let program = std::env::current_exe().unwrap();
        let profile = Build::this().profile;
        assert!(!profile.is_empty() && program.iter().any(|part| *part == *profile), "{profile} {}", program.display());
    }
}
