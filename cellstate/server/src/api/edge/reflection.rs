//! Questions about the services themselves, which a library answers: each answer repeats its question whole, beside up to 130 KB, and two wait within the
//! library for a caller that does not read. That counts in no budget, so questions are small, and few calls ask at a time.

use std::sync::Arc;

use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::failure::Failure;
use crate::calls::with_its_answer;

/// What its methods begin with.
pub(in crate::api) const METHODS: &str = "/grpc.reflection.";

/// Largest question, in bytes: the name of a host, and that of a file, a type or a method.
pub(in crate::api) const QUESTION_BYTES_MAX: usize = 4096;

/// Calls that ask at a time, over all connections: with what waits of each, some 30 MB.
const CALLS_MAX: usize = 64;

/// The places of calls that ask.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_MAX)))
    }
}

impl Places {
    /// A place for a call of this method, if it needs one.
    pub(in crate::api) fn take(&self, method: &str) -> Result<Place, Failure> {
        if !method.starts_with(METHODS) {
            return Ok(Place(None));
        }
        match self.0.clone().try_acquire_owned() {
            Ok(place) => Ok(Place(Some(place))),
            Err(_) => Err(Failure::too_many_questions(CALLS_MAX)),
        }
    }
}

/// The place of a call, if it needs one.
pub(in crate::api) struct Place(Option<OwnedSemaphorePermit>);

impl Place {
    /// The answer, which keeps the place until it has ended or is dropped.
    pub(in crate::api) fn until_answered(self, response: Response) -> Response {
        match self.0 {
            Some(place) => with_its_answer(place, response),
            None => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    // Forty calls that read nothing had a gibibyte, and there could be thirty thousand.
    #[test]
    fn few_calls_ask_about_services_at_a_time_and_each_until_its_answer_is_gone() {
        let places = Places::default();
        let take = |method| places.take(method);
        let asked = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let answers: Vec<Response> =
            (0..CALLS_MAX).map(|_| take(asked).ok().unwrap().until_answered(Response::new(Body::empty()))).collect();
        let refused = take(asked).err().unwrap();
        assert_eq!((refused.code, refused.retry_after.is_zero()), ("QUEUE_FULL", false));
        assert!(take("/plenum.v1.Jobs/List").is_ok(), "others need none");
        drop(answers);
        assert!(take(asked).is_ok());
    }
}
