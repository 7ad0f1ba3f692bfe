//! A collector that takes traces and drops them. It runs in this process, as one beside a server shares its cores.

use std::time::Duration;

use billing_service::server::{self, ListenerLimits};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, service::Routes};

/// Starts a collector, and returns its URL. It ends with the process.
///
/// # Errors
/// No port is free.
pub async fn start() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let limits = ListenerLimits { connections: 10, drain_timeout: Duration::from_secs(1), ..Default::default() };
    let app = Routes::new(TraceServiceServer::new(Dropping)).into_axum_router();
    tokio::spawn(server::serve(listener, app, limits, Default::default()));
    Ok(url)
}

struct Dropping;

#[tonic::async_trait]
impl TraceService for Dropping {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
