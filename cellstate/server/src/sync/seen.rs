//! Whether this is the cell that a watcher has dealt with, and has come as far as it saw: judged before anything is opened for it.
//!
//! Whoever saw a revision that is not here saw another history, of a copy that went on while this one did not. A snapshot would make
//! them forget it, and a session that is opened for them is written into the log: each attempt would bring this cell nearer to being
//! taken for the other one. It comes as far by itself, too, as it goes on without them: the terms of servers tell them apart even then.

use plenum_model::{CellIdentity, Revision};
use plenum_proto::v1;

/// What may have happened where more was seen than is here, and what to do: in other languages than the SDK's this is all that a scheduler's log has of it.
const MAY_BE: &str = "an older copy of the cell's directory may have been started: start the server on the one that went on; or this client is mistaken, as where it \
                      saw another cell (`plenum explain NO_SUCH_REVISION` tells more)";

/// Why a watcher is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It has dealt with another cell.
    #[error("another cell is meant")]
    Cell,
    /// It has seen what this one does not have.
    #[error("{what}: expected at most {newest}, found {found}: more of the cell than is here; {MAY_BE}")]
    Future {
        /// What kind of thing it is.
        what: Seen,
        /// The newest that it can have seen here.
        newest: u64,
        /// What was seen.
        found: u64,
    },
}

/// What may have been seen. As text it is the field that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An incarnation.
    Incarnation,
    /// A revision, by a mirror that has it.
    Mirror,
    /// A revision.
    Revision,
    /// A server, by its term.
    Term,
    /// A revision that an earlier server showed.
    RevisionOfEarlierTerm,
}

impl Seen {
    /// Which one was seen, as in `revision 7`.
    #[must_use]
    pub fn told(self, found: u64) -> String {
        match self {
            Self::Incarnation => format!("incarnation {found}"),
            Self::Mirror | Self::Revision => format!("revision {found}"),
            Self::Term => format!("a server of term {found}"),
            Self::RevisionOfEarlierTerm => format!("revision {found} of an earlier server"),
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Incarnation => "seen_incarnation",
            Self::Mirror => "revision",
            Self::Revision => "seen_revision",
            Self::Term => "seen_term",
            Self::RevisionOfEarlierTerm => "seen_revision of an earlier term",
        })
    }
}

/// Judges a greeting by what it says was seen, and by what its mirror has. What it does not say is not judged. `opened_at` is the first revision of the
/// term in `identity`, and `newest` the last one.
///
/// # Errors
/// When another cell was seen, or of this one what it does not have.
pub fn check(hello: &v1::Hello, identity: &CellIdentity, opened_at: Revision, newest: Revision) -> Result<(), Unknown> {
    if !hello.cell_id.is_empty() && hello.cell_id != identity.cell_id[..] {
        return Err(Unknown::Cell);
    }
    let own = identity.incarnation;
    let future =
        |what, newest, found| if found > newest { Err(Unknown::Future { what, newest, found }) } else { Ok(()) };
    // A later life than the one that was seen begins anew: what there was before says nothing of its revisions.
    future(Seen::Incarnation, own, hello.seen_incarnation)?;
    if hello.incarnation == own {
        future(Seen::Mirror, newest.0, hello.revision)?;
    }
    if hello.seen_incarnation == own {
        future(Seen::Revision, newest.0, hello.seen_revision)?;
        future(Seen::Term, identity.term, hello.seen_term)?;
        if (1..identity.term).contains(&hello.seen_term) {
            // All that a server shows is durable, and so before the first revision of the next one.
            let before = opened_at.0.saturating_sub(1);
            future(Seen::RevisionOfEarlierTerm, before, hello.seen_revision)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell in its third life, at revision 50. Its server is the fourth one, since revision 41.
    fn judged(hello: &v1::Hello) -> Result<(), Unknown> {
        let identity = CellIdentity { cell_id: [7; 16], incarnation: 3, term: 4, ..CellIdentity::default() };
        check(hello, &identity, Revision(41), Revision(50))
    }

    fn too_much(found: &str) -> String {
        format!("{found}: more of the cell than is here; {MAY_BE}")
    }

    fn seen(cell_id: &[u8], incarnation: u64, revision: u64) -> v1::Hello {
        v1::Hello {
            cell_id: cell_id.to_vec().into(),
            seen_incarnation: incarnation,
            seen_revision: revision,
            ..v1::Hello::default()
        }
    }

    #[test]
    fn who_has_seen_nothing_or_what_is_here_is_served() {
        assert_eq!(judged(&v1::Hello::default()), Ok(()));
        assert_eq!(judged(&seen(&[7; 16], 3, 50)), Ok(()));
        assert_eq!(judged(&seen(&[7; 16], 2, 5000)), Ok(()), "an earlier life had revisions of its own");
        assert_eq!(judged(&seen(&[], 0, 5000)), Ok(()), "a revision of no incarnation says nothing");
    }

    // An older copy was put back, and grew: who had seen as much of the lost one went on with a mirror of both.
    #[test]
    fn what_was_seen_of_an_earlier_server_lies_before_this_one() {
        let of_term = |seen_term, revision| v1::Hello { seen_term, ..seen(&[7; 16], 3, revision) };
        assert_eq!(judged(&of_term(4, 50)), Ok(()));
        assert_eq!(judged(&of_term(3, 40)), Ok(()));
        assert_eq!(judged(&of_term(0, 41)), Ok(()), "who does not say of which server it is");
        let told = |hello: &v1::Hello| judged(hello).unwrap_err().to_string();
        let expected = too_much("seen_revision of an earlier term: expected at most 40, found 41");
        assert_eq!(told(&of_term(3, 41)), expected);
        assert_eq!(told(&of_term(1, 41)), expected);
        assert_eq!(told(&of_term(5, 1)), too_much("seen_term: expected at most 4, found 5"));
        let earlier_life = v1::Hello { seen_term: 9, ..seen(&[7; 16], 2, 5000) };
        assert_eq!(judged(&earlier_life), Ok(()), "a restored cell goes on from the term of its backup");
    }

    #[test]
    fn what_was_seen_is_told_as_what_it_is() {
        let told = |seen_term, seen_incarnation, seen_revision| {
            let hello = v1::Hello { seen_term, ..seen(&[7; 16], seen_incarnation, seen_revision) };
            match judged(&hello) {
                Err(Unknown::Future { what, found, .. }) => what.told(found),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(0, 4, 1), "incarnation 4");
        assert_eq!(told(4, 3, 51), "revision 51");
        assert_eq!(told(5, 3, 40), "a server of term 5");
        assert_eq!(told(3, 3, 45), "revision 45 of an earlier server");
    }

    #[test]
    fn who_has_seen_another_cell_is_not() {
        for other in [&[8; 16][..], &[7; 15], b"x"] {
            assert_eq!(judged(&seen(other, 3, 50)), Err(Unknown::Cell));
        }
    }

    // The stream of a scheduler ended with `it is of another log`, and who read that looked for a mistake in the scheduler: the server had been started on an older copy.
    #[test]
    fn who_has_seen_the_future_is_told_what_is_expected_and_found_and_what_may_have_happened() {
        let told = |hello: &v1::Hello| judged(hello).unwrap_err().to_string();
        assert_eq!(told(&seen(&[], 3, 51)), too_much("seen_revision: expected at most 50, found 51"));
        assert_eq!(told(&seen(&[], 4, 1)), too_much("seen_incarnation: expected at most 3, found 4"));
        for part in ["older copy", "start the server on the one that went on", "another cell"] {
            assert!(told(&seen(&[], 4, 1)).contains(part), "{part}");
        }
        let mirror = v1::Hello { incarnation: 3, revision: 60, ..v1::Hello::default() };
        assert_eq!(told(&mirror), too_much("revision: expected at most 50, found 60"));
        assert_eq!(
            judged(&v1::Hello { incarnation: 2, ..mirror }),
            Ok(()),
            "its mirror is of no use, and it gets another"
        );
    }
}
