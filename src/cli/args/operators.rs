//! What operators type: who may have how much, and where; and who lost against whom.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use plenum_model::QUOTA_MAX;
use plenum_proto::{filters, v1::At};

use super::{Listing, Told, by, not_empty, number::whole};
use crate::cli::at::{Since, parse_after, parse_at, parse_before, parse_since};

/// `plenum scheduler list|pause|resume|set`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Schedulers {
    /// Lists schedulers, built-in and others
    #[command(mut_arg("filter", by(filters::SCHEDULERS)))]
    List {
        /// Those too that have neither sessions nor jobs any more
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Tells who was paused, resumed or granted something, what it was, and who asked for it
    History {
        /// The scheduler's name [default: all]
        name: Option<String>,
        #[command(flatten)]
        told: Told,
    },
    /// Keeps a scheduler's transactions out; what it placed runs on
    Pause {
        /// The scheduler's name
        name: String,
    },
    /// Lets them in again
    Resume {
        /// The scheduler's name
        name: String,
    },
    /// Sets what a scheduler is granted: what is not named stays as it was
    #[command(group = clap::ArgGroup::new("rights").required(true).multiple(true))]
    Set {
        /// The scheduler's name
        name: String,
        /// Whether it may evict tasks of lower bands of priority: `yes` (usual) or `no`
        #[arg(long, value_name = "yes|no", group = "rights", value_parser = yes_or_no(), hide_possible_values = true)]
        evict: Option<bool>,
        /// How many turns its transactions get for one of a usual scheduler's: 1 (usual) to 100
        #[arg(long, value_name = "N", group = "rights", value_parser = whole(1..=100_u32), allow_hyphen_values = true)]
        priority: Option<u32>,
    },
}

fn yes_or_no() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["yes", "no"]).map(|word| word == "yes")
}

/// `plenum quota`
#[derive(Debug, Subcommand)]
pub(crate) enum Quotas {
    /// Lists quotas, and what is used of them
    #[command(mut_arg("filter", by(filters::QUOTAS)))]
    List(Listing),
    /// Tells which quotas were set, to what, and who asked for it
    History {
        /// The namespace [default: that of --namespace, or all]
        #[arg(value_name = "NAMESPACE")]
        name: Option<String>,
        #[command(flatten)]
        told: Told,
    },
    /// Sets a namespace's whole quota: what is not named is not limited, and devices never are. Lowering it stops nothing
    Set {
        /// The namespace
        #[arg(value_name = "NAMESPACE")]
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Removes a namespace's quota
    Remove {
        /// The namespace
        #[arg(value_name = "NAMESPACE")]
        name: String,
    },
}

/// Limits of a quota: at least one.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Limits {
    /// Cores, such as 100 or 500m
    #[arg(long, value_name = "CORES", value_parser = crate::job_file::quota_cpu_millis, allow_hyphen_values = true)]
    pub(crate) cpu: Option<i64>,
    /// Memory, such as 64GiB
    #[arg(long, value_name = "BYTES", value_parser = crate::job_file::quota_bytes, allow_hyphen_values = true)]
    pub(crate) memory: Option<i64>,
    /// Disk, such as 1TiB
    #[arg(long, value_name = "BYTES", value_parser = crate::job_file::quota_bytes, allow_hyphen_values = true)]
    pub(crate) disk: Option<i64>,
    /// A resource that the cell named; can be given several times
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = parse_amount)]
    pub(crate) resource: Vec<(String, i64)>,
}

/// `plenum partition`
#[derive(Debug, Subcommand)]
pub(crate) enum Partitions {
    /// Lists partitions, and what is in them
    #[command(mut_arg("filter", by(filters::PARTITIONS)))]
    List(Listing),
    /// Tells which partitions were set, to what, and who asked for it
    History {
        /// The partition's name [default: all]
        name: Option<String>,
        #[command(flatten)]
        told: Told,
    },
    /// Names a set of machines, or changes one
    Set {
        /// The partition's name
        name: String,
        /// Which machines, such as 'attr.rack == "a"'; can be given several times, all must hold
        #[arg(long = "where", required = true, value_name = "RULE")]
        rules: Vec<String>,
        /// Reserves it for these schedulers, joined by commas
        #[arg(long = "for", value_delimiter = ',', value_name = "SCHEDULER")]
        schedulers: Vec<String>,
    },
    /// Forgets a partition; what runs there stays
    Remove {
        /// The partition's name
        name: String,
    },
}

/// `plenum hold`
#[derive(Debug, Subcommand)]
pub(crate) enum Holds {
    /// Lists holds: earlier ones may take room from later ones
    #[command(mut_arg("filter", by(filters::HOLDS)))]
    List(Listing),
}

/// `plenum txn`
#[derive(Debug, Subcommand)]
pub(crate) enum Txn {
    /// Lists transactions, the newest first
    #[command(mut_arg("filter", by(filters::TRANSACTIONS)))]
    List {
        /// Only of this scheduler
        #[arg(long, value_name = "NAME", value_parser = not_empty)]
        scheduler: Option<String>,
        /// Only those with refused claims
        #[arg(long)]
        refused: bool,
        /// The oldest first
        #[arg(long)]
        oldest_first: bool,
        /// Only those above this revision, or after this time
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_after, allow_hyphen_values = true)]
        after: Option<At>,
        /// Only those below this revision, or before this time; ages still count up to --at, or to now
        #[arg(long, value_name = "REVISION|TIME", value_parser = parse_before, allow_hyphen_values = true, conflicts_with = "watch")]
        before: Option<At>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Shows a transaction, with each refused claim explained
    Show {
        /// Such as txn-17-3
        id: String,
    },
}

/// `plenum conflicts`
#[derive(Clone, Debug, Args)]
pub(crate) struct Conflicts {
    /// What conflicts are grouped by
    #[arg(long, default_value = "pair", value_parser = ["pair", "machine", "job", "resource"])]
    pub(crate) by: String,
    /// Only those of the last time, such as 10m, or since a time such as 2026-11-20T08:00:00Z; with --at, of the time before that moment
    #[arg(long, value_name = "TIME", value_parser = parse_since, allow_hyphen_values = true)]
    pub(crate) since: Option<Since>,
    /// Most rows to list [default: 0, the server's own limit]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N", value_parser = whole(0..=u32::MAX), allow_hyphen_values = true)]
    pub(crate) limit: u32,
    /// List again each time that the cell has changed, at most once a second, until interrupted; with `-o json`, one line of JSON each time
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Only what was lost with these values, whatever it is grouped by: FIELD=VALUE or FIELD!=VALUE, joined by commas
    #[arg(long, value_parser = not_empty)]
    pub(crate) filter: Option<String>,
    /// Up to a revision, or a time such as 2026-11-20T08:00:00Z or -10m
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse_at, allow_hyphen_values = true, conflicts_with = "watch")]
    pub(crate) at: Option<At>,
}

/// A named resource and an amount of it that a quota may allow.
fn parse_amount(text: &str) -> Result<(String, i64), String> {
    let parts = text.split_once('=').and_then(|(name, amount)| Some((name, amount.parse::<i64>().ok()?)));
    match parts.filter(|(name, amount)| !name.is_empty() && *amount >= 0) {
        Some((_, amount)) if amount.unsigned_abs() > QUOTA_MAX => {
            Err(format!("`{amount}` is too much; expected at most {QUOTA_MAX}"))
        }
        Some((name, amount)) => Ok((name.to_owned(), amount)),
        None => Err("expected a resource and an amount, such as licenses=4".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The server refused it in words of the protocol, which name no flag.
    #[test]
    fn more_of_a_resource_than_a_quota_may_allow_is_refused_where_it_is_typed() {
        let most = QUOTA_MAX.to_string();
        assert_eq!(parse_amount(&format!("seats={most}")).map(|(name, _)| name), Ok("seats".to_owned()));
        let more = (QUOTA_MAX + 1).to_string();
        let refused = Err(format!("`{more}` is too much; expected at most {most}"));
        assert_eq!(parse_amount(&format!("seats={more}")), refused);
    }
}
