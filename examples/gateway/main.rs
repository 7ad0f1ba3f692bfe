//! A gateway that bills its calls over gRPC: a call of known cost, and the stream of a model.
//!
//! `cargo run --profile quick --example gateway -- call http://localhost:9107 USER SERVICE COUNT TRACE_ID`
//! `cargo run --profile quick --example gateway -- http://localhost:9107 USER SERVICE MODEL TRACE_ID < FILE`
//!
//! The environment variable `BILLING_TOKEN` has the token of a caller with the role gateway.

mod call;
mod retry;
mod stream;

use std::env::{args, var};

use anyhow::{Context, anyhow};
use tonic::{Request, Status, metadata::AsciiMetadataValue, transport::Channel};
use tonic_types::StatusExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = args().skip(1).peekable();
    let is_call = arguments.next_if_eq("call").is_some();
    let mut next = |name: &str| arguments.next().with_context(|| format!("argument {name} is missing"));
    let channel = Channel::from_shared(next("SERVER")?)?
        .connect_timeout(retry::DEADLINE)
        // A server that has vanished ends a stream, which is then opened on another one.
        .http2_keep_alive_interval(retry::DEADLINE)
        .connect_lazy();
    let authorize = token()?;
    let (user, service) = (next("USER")?, next("SERVICE")?);
    let write = |line: &str| println!("{line}");
    if is_call {
        let (count, trace) = (next("COUNT")?.parse()?, next("TRACE_ID")?);
        call::run((channel, authorize), call::call(&user, &service, count, &trace), write).await
    } else {
        let (model, trace) = (next("MODEL")?, next("TRACE_ID")?);
        let open = stream::open(&user, &service, &model, &trace);
        stream::run((channel, authorize), open, std::io::stdin(), write).await
    }
    .map_err(|status| {
        let details = status.get_error_details();
        let code = details.error_info().and_then(|info| info.metadata.get("error_code")).map_or("", String::as_str);
        anyhow!("{:?} {code}: {}", status.code(), status.message())
    })
}

/// Adds the token of the environment to each request.
fn token() -> anyhow::Result<impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone> {
    let token = var("BILLING_TOKEN").ok().map(|token| format!("Bearer {token}").parse::<AsciiMetadataValue>());
    let token = token.transpose()?;
    Ok(move |mut request: Request<()>| {
        if let Some(token) = &token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    })
}
