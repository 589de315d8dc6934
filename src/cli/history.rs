//! What happened to a job, an allocation or a machine: printed by itself, or with what it is about.

use plenum_proto::v1::HistoryResponse;
use serde_json::{Value, json};

use super::Context;
use crate::{
    failure::Failure,
    output::{self, Format, Row},
};

/// Prints a story by itself, as a listing.
pub(super) fn print(context: &Context, story: &HistoryResponse) -> Result<(), Failure> {
    match context.format {
        Format::Json | Format::Yaml => output::print(&output::object(context.format, &to_json(story), "", String::new)),
        format => output::print(&output::listing(format, story.revision, &story.events, story.truncated)),
    }?;
    tell_what_is_missing(context, story);
    Ok(())
}

/// A story for programs.
pub(super) fn to_json(story: &HistoryResponse) -> Value {
    json!({
        "revision": story.revision,
        "items": story.events.iter().map(Row::to_json).collect::<Vec<_>>(),
        "truncated": story.truncated,
        "oldest_revision": if story.oldest_revision == 0 { Value::Null } else { json!(story.oldest_revision) },
    })
}

/// Tells people what a story leaves out.
pub(super) fn tell_what_is_missing(context: &Context, story: &HistoryResponse) {
    if !matches!(context.format, Format::Table | Format::Wide) {
        return;
    }
    if story.truncated {
        let oldest = story.events.iter().map(|event| event.revision).min().unwrap_or_default();
        output::tell(&format!("there are older events; see them with --at {oldest}"));
    }
    if story.oldest_revision > 0 {
        output::tell(&format!("nothing from before revision {} is retained", story.oldest_revision));
    }
}
