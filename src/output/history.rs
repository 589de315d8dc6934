//! What happened to something, as listed and as read by programs.

use plenum_proto::v1::HistoryEvent;
use serde_json::{Value, json};

use super::{Row, ago, allocation::transaction_id, json_time, or_dash, or_null};

impl Row for HistoryEvent {
    fn titles() -> (&'static [&'static str], &'static [&'static str]) {
        (&["REVISION", "AGE", "EVENT", "DETAIL", "BY"], &["TIME", "COMMAND", "PRINCIPAL"])
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.revision.to_string(),
            ago(self.time_micros),
            self.event.clone(),
            or_dash(&detail(self)),
            cause(self),
            json_time(self.time_micros).as_str().unwrap_or("-").to_owned(),
            or_dash(&self.command),
            or_dash(&self.principal),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "revision": self.revision,
            "time": json_time(self.time_micros),
            "event": self.event,
            "detail": or_null(&detail(self)),
            "command": self.command,
            "principal": self.principal,
            "transaction": if self.session == 0 { Value::Null } else { json!(transaction_id(self.session, self.number)) },
            "scheduler": or_null(&self.scheduler),
        })
    }

    fn name(&self) -> String {
        self.revision.to_string()
    }
}

/// What is told of it.
fn detail(event: &HistoryEvent) -> String {
    match event.detail.split_once(": ") {
        Some((group, "1 tasks wanted")) => format!("{group}: 1 task wanted"),
        _ => event.detail.clone(),
    }
}

/// Who or what made it happen.
fn cause(event: &HistoryEvent) -> String {
    if event.session == 0 {
        return format!("{} by {}", event.command, event.principal);
    }
    let scheduler = if event.scheduler.is_empty() { &event.principal } else { &event.scheduler };
    format!("{} by {scheduler}", transaction_id(event.session, event.number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wanted_task_is_no_plural() {
        let told = |words: &str| detail(&HistoryEvent { detail: words.into(), ..Default::default() });
        assert_eq!(told("work: 3 tasks wanted"), "work: 3 tasks wanted");
        assert_eq!(told("work: 1 tasks wanted"), "work: 1 task wanted");
    }
}
