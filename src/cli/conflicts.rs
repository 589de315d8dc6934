//! `plenum conflicts`: who loses against whom, where, how stale, and what it cost.

use plenum_proto::v1::ListConflictsRequest;

use super::{
    Context,
    args::Conflicts,
    watch::{self, Listed},
};
use crate::{
    failure::Failure,
    output::{self, Format, key_columns},
};

pub(super) async fn run(context: &Context, command: &Conflicts) -> Result<(), Failure> {
    let connection = context.connect().await?;
    watch::print(context.format, command.watch, async || {
        let since_micros = command.since.map_or(0, |since| output::now_micros().saturating_sub(since).max(1));
        let by = command.by.clone();
        let request = ListConflictsRequest { by, since_micros, limit: command.limit, at: command.at };
        let answer = connection.inspect().list_conflicts(request).await?.into_inner();
        let text = match context.format {
            Format::Table | Format::Wide if answer.rows.is_empty() => "no conflicts\n".to_owned(),
            Format::Table | Format::Wide => {
                let (titles, cells) = key_columns(&answer.rows);
                output::table(&titles, cells)
            }
            format => output::listing(format, answer.revision, &answer.rows, answer.truncated),
        };
        let missing = watch::missing(answer.rows.len(), answer.truncated, command.limit, "--since");
        Ok(Listed { revision: answer.revision, text, missing, hint: None })
    })
    .await
}
