//! What jobs do: checked before the cell keeps it, since only an agent looks into it later.

use plenum_model::JobShape;

use crate::bounds;
use crate::error::{Invalid, SubmitError, Unsupported, Within, quoted};
use crate::{names, v1};

/// The one driver there is.
const EXEC: &str = "exec";

/// What names of variables begin with that the agent sets.
const OF_THE_AGENT: &str = "PLENUM_";

/// Checks a body, also against the shape that it belongs to.
///
/// # Errors
/// Names the field that breaks a rule, or that asks for something which is not there yet.
pub fn check_body(shape: &JobShape, body: &v1::JobBody) -> Result<(), SubmitError> {
    let expected = shape.groups.len();
    bounds::column("spec.body.groups", expected, body.groups.len())?;
    for (position, (group, body)) in shape.groups.iter().zip(&body.groups).enumerate() {
        if body.driver != EXEC && !body.driver.is_empty() {
            return Err(Unsupported {
                field: format!("spec.body.groups[{position}].driver"),
                what: format!("the driver {}", quoted(&body.driver)),
                instead: format!("use {EXEC:?}"),
            }
            .into());
        }
        check_group(&group.name, body).within_at("groups", position).within("spec.body")?;
    }
    Ok(())
}

fn check_group(name: &str, body: &v1::GroupBody) -> Result<(), Invalid> {
    if body.name != name {
        return Err(Invalid::new("name", format!("{name:?}, as in the shape"), quoted(&body.name)));
    }
    if body.driver.is_empty() {
        return Err(Invalid::new("driver", format!("{EXEC:?}"), "nothing"));
    }
    if !body.image.is_empty() {
        return Err(Invalid::new("image", format!("none with the driver {EXEC:?}"), quoted(&body.image)));
    }
    check_command(&body.command)?;
    for (name, value) in &body.env {
        names::variable("env", name)?;
        // An agent drops such a variable, so that no job pretends to be another one: its task would miss it without a word.
        if name.starts_with(OF_THE_AGENT) {
            let expected = format!("names that don't begin with {OF_THE_AGENT}, as those of the agent do");
            return Err(Invalid::new("env", expected, quoted(name)));
        }
        if value.contains('\0') {
            return Err(Invalid::new("env", "values without a zero byte", format_args!("one in {name}")));
        }
    }
    if let Some(restart) = &body.restart {
        bounds::up_to("restart.attempts", restart.attempts, bounds::RESTARTS_MAX)?;
        bounds::span("restart.delay_micros", restart.delay_micros)?;
        bounds::span("restart.within_micros", restart.within_micros)?;
    }
    bounds::span("kill_timeout_micros", body.kill_timeout_micros).map(|_| ())
}

fn check_command(command: &[String]) -> Result<(), Invalid> {
    let program = command.first().map_or("", |program| program.as_str());
    // A path relative to the task's directory would name what a neighbour of the same job put there.
    if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
        let expected = "a program: an absolute path, or a name that is looked up in PATH";
        let found = if command.is_empty() { "nothing".to_owned() } else { quoted(program) };
        return Err(Invalid::new("command", expected, found));
    }
    match command.iter().position(|argument| argument.contains('\0')) {
        None => Ok(()),
        Some(position) => Err(Invalid::new(format!("command[{position}]"), "text without a zero byte", "one")),
    }
}
