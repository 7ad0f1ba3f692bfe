//! A collector of traces: a real receiver of OTLP over gRPC.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use billing_service::server::ListenerLimits;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, service::Routes};

use super::wait::until;

/// The attributes of a span or a process, as text.
pub type Attributes = BTreeMap<String, String>;

/// A span as the collector got it.
#[derive(Debug, Clone)]
pub struct Collected {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first span of a trace.
    pub parent: String,
    /// 2 is a server, 3 a client.
    pub kind: i32,
    pub has_error: bool,
    pub attributes: Attributes,
    /// The ids of the linked spans.
    pub links: Vec<String>,
    /// The attributes of the process.
    pub resource: Attributes,
}

impl Collected {
    /// The attribute; empty if it is missing.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

pub struct Collector {
    /// `telemetry.otlp_endpoint`.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Collected>>>,
    _server: AbortOnDropHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::<Mutex<Vec<Collected>>>::default();
        let receiver = TraceServiceServer::new(Receiver(spans.clone()));
        let limits = ListenerLimits { connections: 10, drain_timeout: Duration::from_secs(1), ..Default::default() };
        let app = Routes::new(receiver).into_axum_router();
        let serving = billing_service::server::serve(listener, app, limits, Default::default());
        Self { endpoint, spans, _server: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub fn spans(&self) -> Vec<Collected> {
        self.spans.lock().unwrap().clone()
    }

    /// The spans, once they are as `wanted`.
    pub async fn until(&self, condition: &str, wanted: impl Fn(&[Collected]) -> bool) -> Vec<Collected> {
        until(condition, async || wanted(&self.spans())).await;
        self.spans()
    }
}

struct Receiver(Arc<Mutex<Vec<Collected>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for of_process in request.into_inner().resource_spans {
            let resource = attributes(of_process.resource.unwrap_or_default().attributes);
            for scope in of_process.scope_spans {
                spans.extend(scope.spans.into_iter().map(|span| collected(span, &resource)));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn collected(span: Span, resource: &Attributes) -> Collected {
    Collected {
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        has_error: span.status.is_some_and(|status| status.code == 2),
        attributes: attributes(span.attributes),
        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
        name: span.name,
        resource: resource.clone(),
    }
}

fn attributes(attributes: Vec<KeyValue>) -> Attributes {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: KeyValue| Some((pair.key, text(pair.value?.value?)));
    attributes.into_iter().filter_map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
