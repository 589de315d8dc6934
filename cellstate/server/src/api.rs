//! gRPC and HTTP: thin. Messages are validated by `plenum-proto`, decided by the core, and answered from here.

mod agents;
mod allocations;
mod cell;
pub(crate) mod edge;
pub(crate) mod failure;
mod govern;
pub(crate) mod health;
mod http;
mod inspect;
mod jobs;
mod listing;
mod members;
pub(crate) mod past;
pub mod probe;

use std::sync::Arc;

use axum::extract::State;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use plenum_proto::v1;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::authorise::Principal;
use crate::shared::Shared;
use cell::session;
use edge::{arriving, bypass, guard, metadata, unread};
use failure::Failure;

/// Metadata with the principal of a call.
const PRINCIPAL: &str = "plenum-principal";

/// Metadata with the cell that a call is meant for, in hexadecimal; with an error of ours that refuses it, the cell that this is.
const CELL: &str = "plenum-cell";

/// All services, behind the table of who may call what; and by what probes are told how they do, for [`health::tell`].
pub(crate) async fn routes(shared: &Arc<Shared>) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let most = shared.settings.message_bytes_max;
    let (reporter, serving) = tonic_health::server::health_reporter();
    health::say(&reporter, true).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(plenum_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let cell = cell::CellService::new(shared.clone());
    let jobs = jobs::JobsService::new(shared.clone());
    let inspect = inspect::InspectService::new(shared.clone());
    let govern = govern::GovernService::new(shared.clone());
    let agents = agents::AgentsService::new(shared.clone());
    let router = Routes::from(http::router(shared.clone()))
        .add_service(session::CellServer::new(cell, most))
        .add_service(v1::jobs_server::JobsServer::new(jobs).max_decoding_message_size(most))
        .add_service(v1::inspect_server::InspectServer::new(inspect).max_decoding_message_size(most))
        .add_service(v1::govern_server::GovernServer::new(govern).max_decoding_message_size(most))
        .add_service(v1::agents_server::AgentsServer::new(agents).max_decoding_message_size(most))
        .add_service(serving)
        .add_service(reflection().build_v1()?)
        // What clients such as Python's know by now.
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router()
        .layer(middleware::from_fn_with_state(shared.clone(), authorise));
    Ok((Routes::from(router).prepare(), reporter))
}

/// Has a place for a call, looks at who calls, and counts who is refused for that: by the rules here, or by the method that knows what it is about.
async fn authorise(
    State(shared): State<Arc<Shared>>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let Some(call) = shared.calls.take(request.extensions().get()) else {
        return without_place(request.uri().path(), shared.calls.shared_max());
    };
    let response = answer(&shared, request, next).await;
    if is_denied(&response) {
        shared.metrics.denied();
    }
    call.until_answered(response)
}

/// The answer to a call for which there is no place. Nothing of it is read, and its stream ends with this.
fn without_place(path: &str, most: usize) -> axum::response::Response {
    let failure = match path {
        session::COMMIT => Failure::too_many_calls(most).of_a_transaction_not_read(),
        _ => Failure::too_many_calls(most),
    };
    if !http::is_method(path) {
        return http::failed(&failure);
    }
    failure.into_status().into_http::<axum::body::Body>().into_response()
}

/// Whether a call was refused for who makes it. A stream that has begun has no code in its headers: where it fails later is where that is counted.
fn is_denied(response: &axum::response::Response) -> bool {
    let code = response.headers().get(failure::CODE).and_then(|code| code.to_str().ok());
    response.status() == axum::http::StatusCode::FORBIDDEN || code.is_some_and(failure::is_denial)
}

/// Lets calls through that the table allows, with their principal. Our own pages have paths without a service, and are for reading
/// only. What a web page could have sent is not looked at.
async fn answer(shared: &Arc<Shared>, mut request: axum::extract::Request, next: Next) -> axum::response::Response {
    let path = request.uri().path();
    let is_method = http::is_method(path);
    if let Some(refusal) = guard::refusal(&request, is_method) {
        return forbidden(&request, refusal);
    }
    if !is_method {
        return next.run(request).await;
    }
    if let Some(status) = meant_for_another(request.headers(), &shared.identity.cell_id) {
        return status.into_http::<axum::body::Body>().into_response();
    }
    let judged = principal_in(request.headers()).and_then(|principal| {
        principal.may_call(path)?;
        Ok(principal)
    });
    match judged {
        Ok(principal) => {
            let place = match shared.reflecting.take(path) {
                Ok(place) => place,
                Err(full) => return full.into_status().into_http::<axum::body::Body>().into_response(),
            };
            request.extensions_mut().insert(principal);
            let (mut parts, body) = request.into_parts();
            metadata::let_go(&mut parts);
            let uri = parts.uri.clone();
            let settings = &shared.settings;
            let mut taken = arriving::Taken::of(uri.path(), settings.message_bytes_max, settings.greeting);
            if uri.path() == session::SESSION {
                let bypass = bypass::Bypass::default();
                parts.extensions.insert(bypass.clone());
                taken = taken.with(bypass);
            }
            let (body, unanswered) = arriving::counted(&shared.arriving, body, taken);
            let mut response = next.run(axum::extract::Request::from_parts(parts, body)).await;
            drop(unanswered);
            say_what_was_unreadable(response.headers_mut(), uri.path(), shared.settings.message_bytes_max);
            place.until_answered(unread::counted(&shared.unread, uri.path(), response))
        }
        Err(denied) => Failure::from(denied).into_status().into_http::<axum::body::Body>().into_response(),
    }
}

/// The answer to a request that is not looked at: 403, and a status for those who speak gRPC.
fn forbidden(request: &axum::extract::Request, refusal: String) -> axum::response::Response {
    if !guard::is_grpc(request.headers()) {
        return http::forbidden(&refusal);
    }
    let failure = Failure::new(tonic::Code::PermissionDenied, "NOT_PERMITTED", refusal);
    let mut response = failure.into_status().into_http::<axum::body::Body>().into_response();
    *response.status_mut() = axum::http::StatusCode::FORBIDDEN;
    response
}

/// A message that can't be read is answered by the transport, without a code of ours: over the limit as out of range, and one that is
/// none of the method's as a fault of the server. That is put right: what fails here by itself always has a code.
fn say_what_was_unreadable(headers: &mut axum::http::HeaderMap, method: &str, most: usize) {
    const STATUS: &str = "grpc-status";
    if !headers.contains_key(STATUS) || headers.contains_key(failure::CODE) {
        return;
    }
    let Some(status) = tonic::Status::from_header_map(headers) else { return };
    let expected = format_args!("the message that {method} takes");
    let Some(mut failure) = Failure::unreadable(expected, most, &status) else { return };
    // Any other refusal is of the message itself, which would have had it before as well.
    if method == session::COMMIT && failure.code == "QUEUE_FULL" {
        failure = failure.of_a_transaction_not_read();
    }
    headers.remove(STATUS);
    headers.remove("grpc-message");
    // What is written here is all ASCII.
    let _ = failure.into_status().add_header(headers);
}

/// Refuses what was meant for another cell. Addresses are given again, ids are small numbers, and epochs begin at 1: without this,
/// what an agent tells of its tasks would be believed of those that have the same numbers here.
fn meant_for_another(headers: &axum::http::HeaderMap, cell_id: &[u8]) -> Option<tonic::Status> {
    let meant = headers.get(CELL)?.to_str().unwrap_or("?");
    let own = failure::hexadecimal(cell_id);
    if meant.eq_ignore_ascii_case(&own) {
        return None;
    }
    let mut status = Failure::other_cell(cell_id).into_status();
    if let Ok(own) = own.parse() {
        status.metadata_mut().insert(CELL, own);
    }
    Some(status)
}

fn principal_in(headers: &axum::http::HeaderMap) -> Result<Principal, crate::authorise::Denied> {
    // Several are joined as HTTP joins them, and so are nobody's name: the first one would hide what a library adds behind it.
    let said: Vec<&str> = headers.get_all(PRINCIPAL).iter().map(|value| value.to_str().unwrap_or("?")).collect();
    if said.is_empty() { Ok(Principal::local()) } else { Principal::parse(&said.join(", ")) }
}

/// The principal that the table let through.
fn principal<T>(request: &tonic::Request<T>) -> Result<Principal, Failure> {
    let found = request.extensions().get::<Principal>().cloned();
    found.ok_or_else(|| Failure::internal("a call came in that the table of who may call what has not seen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The first of two counted, and the call that had added the second one was refused, or allowed, as somebody else's.
    #[test]
    fn a_call_has_one_principal_or_is_nobodys() {
        let said = |values: &[&'static str]| {
            let mut headers = axum::http::HeaderMap::new();
            for &value in values {
                headers.append(PRINCIPAL, axum::http::HeaderValue::from_static(value));
            }
            principal_in(&headers).map(|principal| principal.text().to_string()).map_err(|denied| denied.to_string())
        };
        assert_eq!(said(&[]).unwrap(), "local");
        assert_eq!(said(&["user/a"]).unwrap(), "user/a");
        for twice in [["scheduler/b", "user/a"], ["user/a", "user/a"], ["local", "local"]] {
            let denied = said(&twice).unwrap_err();
            assert!(denied.ends_with(&format!("found {:?}", twice.join(", "))), "{denied}");
        }
        assert!(said(&[""]).is_err());
    }

    // Sent again after a lost answer, it was refused as it arrived, as one that was not executed: its scheduler claimed the same under another number.
    #[test]
    fn a_transaction_that_is_not_read_for_want_of_room_may_have_been_decided_before() {
        let told = |method: &str, status: tonic::Status| {
            let mut headers = axum::http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            say_what_was_unreadable(&mut headers, method, 1000);
            let again = headers.get("plenum-retry-after-micros").map(|after| after.to_str().unwrap().to_owned());
            (headers[failure::CODE].to_str().unwrap().to_owned(), again)
        };
        let after = |code: &str| (code.to_owned(), Some("100000".to_owned()));
        let full = || tonic::Status::resource_exhausted("there is room for 9 bytes of requests that are arriving");
        assert_eq!(told(session::COMMIT, full()), after("OUTCOME_UNKNOWN"));
        assert_eq!(told("/plenum.v1.Jobs/Submit", full()), after("QUEUE_FULL"));
        let large = tonic::Status::out_of_range("found 2000 bytes, the limit is: 1000 bytes");
        assert_eq!(told(session::COMMIT, large), ("MESSAGE_TOO_LARGE".to_owned(), None), "it was never taken");
    }
}
