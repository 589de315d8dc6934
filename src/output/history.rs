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

/// What is told of it. The server begins an end's words with its exit code, also where the reason says the same, and where there was none.
fn detail(event: &HistoryEvent) -> String {
    let words = event.detail.as_str();
    let has_none = matches!(event.event.as_str(), "failed" | "lost");
    match words.split_once(": ") {
        Some(("exit code 0", reason)) if has_none => reason.to_owned(),
        Some((code, reason)) if code.starts_with("exit code ") && code == reason => code.to_owned(),
        Some((group, "1 tasks wanted")) => format!("{group}: 1 task wanted"),
        None if has_none && words == "exit code 0" => String::new(),
        _ => words.to_owned(),
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
    fn an_exit_code_is_told_once_and_only_where_there_was_one() {
        let told = |event: &str, words: &str| {
            detail(&HistoryEvent { event: event.into(), detail: words.into(), ..Default::default() })
        };
        assert_eq!(told("failed", "exit code 3: exit code 3"), "exit code 3");
        assert_eq!(told("failed", "exit code 0: nobody saw its end"), "nobody saw its end");
        assert_eq!(told("failed", "exit code 137: out of memory"), "exit code 137: out of memory");
        assert_eq!(
            (told("complete", "exit code 0").as_str(), told("lost", "exit code 0").as_str()),
            ("exit code 0", "")
        );
        assert_eq!(told("submitted", "work: 3 tasks wanted"), "work: 3 tasks wanted");
        assert_eq!(told("submitted", "work: 1 tasks wanted"), "work: 1 task wanted");
    }
}
