//! Calls over gRPC: messages, frames and metadata that are broken.

use std::{sync::LazyLock, time::Duration};

use axum::body::Body;
use billing_service::service::{proto::DESCRIPTORS, routes::GRPC_CALLBACK_PATH, signature};
use chrono::Utc;
use http::{HeaderName, HeaderValue, Request, header::CONTENT_TYPE};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    content::protobuf,
    damage::{damage, happens, noise, one_of},
    http2::{Connection, connect, read},
    server::{SECRET, Target, gzip},
    tally::Tally,
};
use crate::harness::caller::Dice;

/// Deadline of an answer, above every deadline of the server.
const ANSWER: Duration = Duration::from_secs(30);

/// The paths of all rpcs, with their messages.
static RPCS: LazyLock<Vec<(String, MessageDescriptor)>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| (format!("/{}/{}", method.parent_service().full_name(), method.name()), method.input()))
        .collect()
});

pub async fn send(target: &Target, mut dice: Dice, requests: usize) -> Tally {
    let mut tally = Tally::default();
    let mut connection = connect(target.grpc).await;
    for _ in 0..requests {
        let (path, headers, body) = call(&mut dice, target);
        let mut request =
            Request::post(format!("http://{}{path}", target.grpc)).body(Body::from(body.clone())).unwrap();
        for (name, value) in &headers {
            // Other values would not leave the client.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
        }
        let shown = || format!("{path}\n  {headers:?}\n  {}", body.escape_ascii());
        if !connection.is_ready() {
            connection = connect(target.grpc).await;
        }
        match timeout(ANSWER, answer(&mut connection, request)).await {
            Ok(Ok(Answer::Http(status))) => tally.rest(status, &[], shown),
            Ok(Ok(Answer::Grpc(status))) => {
                if is_fault(&status) {
                    tally.fault(format!("{status:?}\n  to {}", shown()));
                }
                tally.code(name(status.code()));
            }
            Ok(Err(error)) => {
                tally.fault(format!("{error:?} after {}", shown()));
                tally.code("none");
            }
            Err(_) => {
                tally.fault(format!("no answer in time to {}", shown()));
                tally.code("none");
            }
        }
    }
    tally
}

type Headers = Vec<(&'static str, Vec<u8>)>;

/// Path, headers and body of a call, most often with damage.
fn call(dice: &mut Dice, target: &Target) -> (String, Headers, Vec<u8>) {
    let (path, message) = &RPCS[dice.below(RPCS.len())];
    let mut path = path.clone();
    let mut headers: Headers = vec![
        (CONTENT_TYPE.as_str(), b"application/grpc".to_vec()),
        ("te", b"trailers".to_vec()),
        ("authorization", format!("Bearer {}", target.caller_token).into_bytes()),
    ];
    let mut content = protobuf(dice, message, 0);
    if happens(dice, 30) {
        damage(dice, &mut content);
    }
    if path == GRPC_CALLBACK_PATH {
        headers.push((signature::HEADER, signature::sign(SECRET, Utc::now(), &content).into_bytes()));
    }
    let is_gzip = happens(dice, 15);
    if is_gzip {
        headers.push(("grpc-encoding", b"gzip".to_vec()));
        content = gzip(&content);
    }
    let mut body = [&[u8::from(is_gzip)][..], &(content.len() as u32).to_be_bytes(), &content].concat();
    if happens(dice, 25) {
        match dice.below(4) {
            0 => body[dice.below(5)] = dice.below(256) as u8,
            1 => body.extend(body.clone()),
            2 => body = noise(dice, 60),
            _ => damage(dice, &mut body),
        }
    }
    if happens(dice, 25) {
        damage_head(dice, &mut path, &mut headers);
    }
    (path, headers, body)
}

fn damage_head(dice: &mut Dice, path: &mut String, headers: &mut Headers) {
    let (name, values): (_, &[&[u8]]) = match dice.below(7) {
        0 => {
            path.insert_str(path.len() - dice.below(path.len()), one_of(dice, &["/", "x", "%00", "?a=b"]));
            if !path.starts_with('/') {
                path.insert(0, '/');
            }
            return;
        }
        1 => ("content-type", &[b"application/grpc+json", b"application/grpc-web", b"", b"application/grpc; x=\xff"]),
        2 => ("authorization", &[b"", b"Bearer", b"Bearer x", b"Basic YTpi", b"Bearer \xff"]),
        3 => ("grpc-encoding", &[b"br", b"gzip", b"identity", b"\xff", b"deflate,gzip"]),
        4 => ("grpc-timeout", &[b"99999999999S", b"1n", b"0S", b"-1S", b"1x", b"S", b"\xff", b"00000001H"]),
        5 => ("x-trace-id", &[b"\xff\xfe", b"", b"a b", b"\"", b"\x7e"]),
        _ => ("grpc-accept-encoding", &[b"gzip", b"br,,;", b"\xff"]),
    };
    headers.retain(|(other, _)| *other != name);
    headers.push((name, one_of(dice, values).to_vec()));
}

enum Answer {
    Http(u16),
    Grpc(Status),
}

async fn answer(connection: &mut Connection, request: Request<Body>) -> hyper::Result<Answer> {
    let (head, body) = connection.send_request(request).await?.into_parts();
    if head.status != 200 {
        return Ok(Answer::Http(head.status.as_u16()));
    }
    if let Some(status) = Status::from_header_map(&head.headers) {
        return Ok(Answer::Grpc(status));
    }
    let (_, trailers) = read(body).await?;
    let status = trailers.as_ref().and_then(Status::from_header_map);
    Ok(Answer::Grpc(status.unwrap_or_else(|| Status::internal("an answer without a status"))))
}

/// Whether the server is at fault.
fn is_fault(status: &Status) -> bool {
    let is_overloaded = || status.get_error_details().error_info().is_some_and(|info| info.reason == "OVERLOADED");
    match status.code() {
        Code::Internal | Code::Unknown | Code::DataLoss => true,
        Code::Unavailable => !is_overloaded(),
        _ => false,
    }
}

/// `INVALID_ARGUMENT` of `InvalidArgument`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() && code != Code::Ok {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}
