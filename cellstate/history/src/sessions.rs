//! Lookups by id: of transactions and sessions.
use crate::error::ReadError;
use crate::history::History;
use crate::keys;
use plenum_proto::v1;

/// What became of something that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is here.
    Found(T),
    /// It is not here; it may have been, before what is retained.
    Retired {
        /// The oldest revision that is retained.
        oldest: u64,
    },
    /// It never was.
    NeverWas,
}

impl<T> Lookup<T> {
    /// What was found, if it was.
    pub fn found(self) -> Option<T> {
        match self {
            Self::Found(found) => Some(found),
            Self::Retired { .. } | Self::NeverWas => None,
        }
    }
}

impl History {
    /// The revision at which a session's transaction was decided.
    ///
    /// A number that is missing below one that is here, and numbers of sessions from before what is retained, are given
    /// as retired.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn transaction(&self, session: u64, number: u64) -> Result<Lookup<u64>, ReadError> {
        if let Some(revision) = self.find_transaction(session, number)? {
            return Ok(Lookup::Found(revision));
        }
        let (oldest, _, is_whole) = self.extent();
        // A session's id is the revision of its opening.
        if is_whole || session >= oldest {
            return Ok(Lookup::NeverWas);
        }
        // Numbers rise: if one below is retained, this one would be, too.
        let first = self.first_number(session)?;
        Ok(if first.is_some_and(|first| first < number) { Lookup::NeverWas } else { Lookup::Retired { oldest } })
    }

    /// Who opened a session, and when it did (the session's id is the revision of its opening). Sessions are retained
    /// as long as their last revision.
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`].
    pub fn session(&self, id: u64) -> Result<Lookup<v1::SessionOpened>, ReadError> {
        let (oldest, newest, is_whole) = self.extent();
        let found = self.message::<v1::SessionOpened>(&keys::session(id))?;
        Ok(match found {
            Some(opened) if id <= newest => Lookup::Found(opened),
            _ if is_whole || id >= oldest => Lookup::NeverWas,
            _ => Lookup::Retired { oldest },
        })
    }

    /// The oldest and the newest revision, and whether nothing is missing before.
    pub(crate) fn extent(&self) -> (u64, u64, bool) {
        let view = self.view();
        (view.oldest(), view.newest, view.floor == 0 && view.base.is_none_or(|base| base == 0))
    }
}
