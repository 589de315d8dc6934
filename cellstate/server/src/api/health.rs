//! What probes are told over gRPC: of each service the same as `/readyz` tells of the server.

use std::sync::Arc;

use plenum_proto::v1;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::shared::Shared;

/// All services by name; the empty one is the server as a whole.
const SERVICES: [&str; 6] = [
    "",
    v1::cell_server::SERVICE_NAME,
    v1::jobs_server::SERVICE_NAME,
    v1::inspect_server::SERVICE_NAME,
    v1::govern_server::SERVICE_NAME,
    v1::agents_server::SERVICE_NAME,
];

/// Says of all services whether they can be used for everything.
pub(super) async fn say(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Says so whenever it changes, until the server ends: that last.
pub(crate) async fn tell(shared: Arc<Shared>, health: HealthReporter) {
    let (mut low, mut ending) = (shared.space.watch_low(), shared.ending.subscribe());
    let mut told = None;
    loop {
        let ends = *ending.borrow_and_update();
        let is_ready = low.borrow_and_update().is_none() && !ends;
        // Who watches hears of what changes, and not of each look.
        if told.replace(is_ready) != Some(is_ready) {
            say(&health, is_ready).await;
        }
        if ends {
            return;
        }
        tokio::select! {
            _ = ending.changed() => {}
            _ = low.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;
    use tonic_health::server::HealthService;

    use super::*;

    // Whoever watched was told nothing until the connection was cut.
    #[tokio::test]
    async fn a_server_that_ends_says_of_all_services_that_they_serve_nobody_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let server = crate::Server::start(crate::ServerOptions::new(dir.path())).await.unwrap();
        let shared = server.shared().clone();
        let health = HealthReporter::new();
        let service = HealthService::from_health_reporter(health.clone());
        let told = async |of: &str| {
            let asked = Request::new(HealthCheckRequest { service: of.to_owned() });
            service.check(asked).await.unwrap().into_inner().status
        };
        say(&health, true).await;
        for of in SERVICES {
            assert_eq!(told(of).await, 1, "{of}");
        }
        shared.ending.send_replace(true);
        tell(shared, health).await;
        for of in SERVICES {
            assert_eq!(told(of).await, 2, "{of}");
        }
        server.shutdown().await.unwrap();
    }
}
