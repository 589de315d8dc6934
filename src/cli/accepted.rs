//! Whether the cell that answers now goes on from what was accepted. A server on an empty directory, or on an older copy of the cell, knows nothing of it: that
//! it has no such machine or job does not say that these are gone, nor that what it has of these names is what was asked for.

use plenum_proto::{
    error::retry_micros_of,
    v1::{At, MomentRequest, StatusRequest, StatusResponse},
};
use tokio::time::Instant;
use tonic::Status;

use super::{hints, silence::OTHER_CELL, tells_no_moments};
use crate::{connect::Connection, failure::Failure};

/// A revision that the cell had when it accepted a change: what goes on from there has it, too.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// 0: none is known.
    pub(super) revision: u64,
    /// When that was. Another cell may have a revision of the same number, and not of the same time. `None`: nobody said so.
    time_micros: Option<i64>,
    /// Which cell it was: its older copies are called so, too. Empty: nobody said so.
    cell_id: Vec<u8>,
}

impl Accepted {
    /// A revision that is known by its number alone.
    pub(super) const fn numbered(revision: u64) -> Self {
        Self { revision, time_micros: None, cell_id: Vec::new() }
    }

    /// One that no cell has had at that time.
    #[cfg(test)]
    pub(super) const fn elsewhere(revision: u64) -> Self {
        Self { revision, time_micros: Some(1), cell_id: Vec::new() }
    }

    /// A revision that the cell has just answered with, with its time and which cell that is, as far as it tells them until then.
    pub(super) async fn at(connection: &Connection, revision: u64, until: Instant) -> Self {
        let numbered = Self::numbered(revision);
        if revision == 0 {
            return numbered;
        }
        let mut inspect = connection.inspect();
        let moment = hints::besides(until, inspect.moment(numbered.asked())).await;
        let (time_micros, told) = moment.map_or((None, None), |moment| (Some(moment.time_micros), moment.cell_id));
        let cell_id = match told {
            Some(cell_id) => cell_id.to_vec(),
            // An earlier server, or one that can't tell of that revision. For a status it counts the whole cell.
            None => {
                let status = hints::besides(until, inspect.status(StatusRequest {})).await;
                // What has not come so far is another one by now.
                let status = status.filter(|status| status.revision >= revision);
                status.map(|status| status.cell_id.to_vec()).unwrap_or_default()
            }
        };
        Self { revision, time_micros, cell_id }
    }

    /// Makes sure that an answer of this revision may be of the cell that has it. What was accepted is durable, and each answer shows all that is: one from
    /// before it is of an older copy, or of another cell.
    ///
    /// # Errors
    ///
    /// [`OTHER_CELL`] where it is from before.
    pub(super) fn expect_shown_at(&self, revision: u64) -> Result<(), Failure> {
        if revision < self.revision { Err(self.lacking()) } else { Ok(()) }
    }

    /// Makes sure that the cell that answers now has it.
    ///
    /// # Errors
    ///
    /// [`OTHER_CELL`] where it has not, and whatever keeps it from being told.
    pub(super) async fn expect_known_to(&self, connection: &Connection) -> Result<(), Failure> {
        if self.revision == 0 {
            return Ok(());
        }
        if let Some(then) = self.time_micros {
            let answer = connection.inspect().moment(self.asked()).await;
            if self.judged(then, answer.map(|moment| moment.into_inner().time_micros))? {
                return Ok(());
            }
        }
        let status = connection.inspect().status(StatusRequest {}).await?.into_inner();
        if self.may_be_of(&status) { Ok(()) } else { Err(self.lacking()) }
    }

    /// Whether the cell of this status may have it, as far as which cell it is and how far it has come can tell.
    fn may_be_of(&self, status: &StatusResponse) -> bool {
        let is_called_so = self.cell_id.is_empty() || self.cell_id[..] == status.cell_id[..];
        is_called_so && status.revision >= self.revision
    }

    const fn asked(&self) -> MomentRequest {
        MomentRequest { at: Some(At { revision: self.revision, time_micros: 0 }) }
    }

    /// Whether a cell has what was at that time, by its own word of when the revision was; false where it can't tell.
    fn judged(&self, then: i64, answer: Result<i64, Status>) -> Result<bool, Failure> {
        let (failure, may_come) = match answer {
            Ok(time_micros) if time_micros == then => return Ok(true),
            Ok(_) => return Err(self.lacking()),
            // A server of before tells no times.
            Err(status) if tells_no_moments(status.code()) => return Ok(false),
            Err(status) => {
                let may_come = retry_micros_of(&status) > 0;
                (Failure::from(status), may_come)
            }
        };
        match failure.code.as_str() {
            "NO_SUCH_REVISION" => Err(self.lacking()),
            // So does another cell that is far ahead, of each small number.
            "REVISION_RETIRED" | "DAMAGED_HISTORY" => Ok(false),
            // It stays behind for as long as that server runs, in the cell that is meant as well: its name tells more.
            "HISTORY_BEHIND" if !may_come && !self.cell_id.is_empty() => Ok(false),
            "HISTORY_BEHIND" => {
                let (revision, said) = (self.revision, &failure.message);
                let what =
                    format!("what answers now can't tell yet whether it goes on from revision {revision}: {said}");
                Err(Failure::new(OTHER_CELL, what))
            }
            _ => Err(failure),
        }
    }

    fn lacking(&self) -> Failure {
        let what = format!(
            "what answers now lacks revision {}, or has another one of that number: it is an older copy of the cell, a restored one or another cell",
            self.revision
        );
        Failure::new(OTHER_CELL, what)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use plenum_proto::{
        error::{RETRY_KEY, with_code},
        v1::{Quota, SetQuota},
    };
    use plenum_server::{Server, ServerOptions};
    use tonic::Code;

    use super::*;

    #[test]
    fn what_lacks_a_revision_or_has_another_one_of_its_number_is_not_the_cell_that_had_it() {
        let judged =
            |answer: Result<i64, Status>| Accepted::numbered(9).judged(5, answer).map_err(|failure| failure.code);
        assert_eq!([judged(Ok(5)), judged(Ok(6))], [Ok(true), Err(OTHER_CELL.to_owned())]);
        let told = |code| judged(Err(with_code(Code::Unavailable, code, "no".to_owned())));
        assert_eq!(told("NO_SUCH_REVISION"), Err(OTHER_CELL.to_owned()));
        for code in ["REVISION_RETIRED", "DAMAGED_HISTORY"] {
            assert_eq!(told(code), Ok(false), "{code}: any cell of more revisions says so");
        }
        assert_eq!(told("HISTORY_BEHIND"), Err(OTHER_CELL.to_owned()), "another cell may be as far behind");
        // The wait never ended where the history of the right cell had stopped.
        let named = Accepted { cell_id: vec![7; 16], ..Accepted::numbered(9) };
        let mut behind = with_code(Code::Unavailable, "HISTORY_BEHIND", "no".to_owned());
        assert_eq!(named.judged(5, Err(behind.clone())), Ok(false), "its name tells, and how far it has come");
        // An older copy has the name as well, and its history had not got there yet.
        behind.metadata_mut().insert(RETRY_KEY, "100000".parse().unwrap());
        let failure = named.judged(5, Err(behind)).unwrap_err();
        assert_eq!(failure.code, OTHER_CELL, "in a moment it can tell the time: {failure}");
        assert_eq!(told("SERVER_ENDING"), Err("SERVER_ENDING".to_owned()));
        assert_eq!(judged(Err(Status::unimplemented("no such method"))), Ok(false), "a server of before");
    }

    // A cell that had retired its own revision of that number was taken for the one that had accepted the change.
    #[test]
    fn where_no_time_tells_cells_apart_their_names_do_and_how_far_they_have_come() {
        let status = |cell_id: u8, revision| StatusResponse {
            cell_id: vec![cell_id; 16].into(),
            revision,
            ..StatusResponse::default()
        };
        let accepted = Accepted { cell_id: vec![7; 16], ..Accepted::numbered(9) };
        assert!(accepted.may_be_of(&status(7, 9)) && accepted.may_be_of(&status(7, 10)));
        assert!(!accepted.may_be_of(&status(7, 8)), "an older copy");
        assert!(!accepted.may_be_of(&status(8, 10)), "another cell");
        let numbered = Accepted::numbered(9);
        assert!(numbered.may_be_of(&status(8, 9)) && !numbered.may_be_of(&status(8, 8)), "its name was not told");
    }

    #[test]
    fn an_answer_from_before_a_revision_is_not_of_the_cell_that_had_it() {
        let told = |revision| Accepted::numbered(9).expect_shown_at(revision).map_err(|failure| failure.code);
        assert_eq!([8, 9, 10].map(told), [Err(OTHER_CELL.to_owned()), Ok(()), Ok(())]);
        assert_eq!(Accepted::numbered(0).expect_shown_at(0), Ok(()), "none is known");
    }

    // A port was another cell's by then, which had far more revisions.
    #[tokio::test]
    async fn a_cell_that_has_more_revisions_may_be_another_one_all_the_same() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut servers, mut found) = (Vec::new(), Vec::new());
        for folder in &folders {
            let server = Server::start(ServerOptions::new(folder.path())).await.unwrap();
            let connection = Connection::open(&server.address().to_string()).await.unwrap();
            let mut revision = 0;
            for cpu_millis in [1, 2, 3] {
                let limit = Some(Quota { cpu_millis: Some(cpu_millis), ..Quota::default() });
                let quota = SetQuota { namespace: "ml".to_owned(), limit };
                revision = connection.govern().set_quota(quota).await.unwrap().into_inner().revision;
            }
            servers.push(server);
            found.push((connection, revision));
        }
        let (connection, revision) = &found[0];
        let accepted = Accepted::at(connection, revision - 2, hints::look_until(None)).await;
        assert!(accepted.time_micros.is_some() && !accepted.cell_id.is_empty());
        assert_eq!(accepted.expect_known_to(connection).await, Ok(()));
        let failure = accepted.expect_known_to(&found[1].0).await.unwrap_err();
        assert_eq!(failure.code, OTHER_CELL, "{failure}");
        assert!(found[1].1 >= accepted.revision, "it has one of that number");
        // As where the history was behind.
        let untimed = Accepted { time_micros: None, ..accepted };
        assert_eq!(untimed.expect_known_to(connection).await, Ok(()));
        assert_eq!(untimed.expect_known_to(&found[1].0).await.unwrap_err().code, OTHER_CELL);
        for server in servers {
            server.shutdown().await.unwrap();
        }
    }
}
