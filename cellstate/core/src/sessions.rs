//! Sessions, and the opening of a server.

use std::sync::Arc;

use plenum_model::{
    CellIdentity, LogTime, Rejection, RejectionCode, Request, SessionChange, SessionId, session::NUMBERS_KEPT,
};

use crate::{Core, Handled, Verdict, accepted};

const _: () = assert!(NUMBERS_KEPT == 256, "documented in the protocol");

impl Core {
    /// A server starts: everybody's leases begin anew, and the ring of changes is empty.
    pub(crate) fn open_server(&mut self, identity: &CellIdentity, now: LogTime) -> Verdict {
        let mut delta = self.draft(now);
        delta.cell = Some(identity.clone());
        Verdict::Change(accepted(identity.term, 0), delta)
    }

    pub(crate) fn open_session(&mut self, request: &Request, scheduler: &Arc<str>, now: LogTime) -> Handled {
        let open = self.cell.sessions().count();
        if open >= self.options.sessions_max {
            let message = format!("at most {} sessions, and {open} are open; close some", self.options.sessions_max);
            return Err(Rejection::new(RejectionCode::LimitReached, message));
        }
        let mut delta = self.draft(now);
        if !self.derived.scheduler_numbers.contains_key(scheduler) {
            if self.cell.scheduler_names().len() >= usize::from(u16::MAX) {
                let message = "at most 65535 names of schedulers in the life of a cell; use one again";
                return Err(Rejection::new(RejectionCode::LimitReached, message));
            }
            delta.scheduler_names.push(scheduler.clone());
        }
        delta.sessions.push(SessionChange::Opened {
            scheduler: scheduler.clone(),
            principal: request.principal.clone(),
            namespace: request.namespace.clone(),
        });
        Ok(Verdict::Change(accepted(delta.revision.0, 0), delta))
    }

    pub(crate) fn close_session(&mut self, id: SessionId, now: LogTime) -> Handled {
        if self.cell.session(id).is_none() {
            return Err(no_such_session(id));
        }
        let mut delta = self.draft(now);
        delta.sessions.push(SessionChange::Closed(id));
        Ok(Verdict::Change(accepted(id.0, 0), delta))
    }
}

pub(crate) fn no_such_session(id: SessionId) -> Rejection {
    Rejection::new(RejectionCode::NoSuchSession, format!("session {} is closed or never was; open a new one", id.0))
}
