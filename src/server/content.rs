//! The types and codings of bodies: JSON over REST, gRPC over HTTP/2 alone. A body of another
//! type is refused before any of it is read.

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::Response,
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Version,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, UPGRADE},
};

use super::{http_error::http_error, inflate};
use crate::{config::Style, service::request::language, texts::Language};

#[derive(Clone, Copy)]
struct RestBodies {
    style: Style,
    /// Most bytes of a body, before and after its decompression.
    max_bytes: usize,
}

/// Adds the checks of JSON bodies to `routes`, and the limit of their size.
pub fn rest<S: Clone + Send + Sync + 'static>(routes: Router<S>, style: Style, max_bytes: usize) -> Router<S> {
    routes
        .route_layer(DefaultBodyLimit::max(max_bytes))
        .route_layer(middleware::from_fn_with_state(RestBodies { style, max_bytes }, check_rest))
}

/// A web page can send forms, plain text and bodies without a type to any server without a preflight
/// request, but it can't send JSON. So every POST must say that it is JSON.
async fn check_rest(State(bodies): State<RestBodies>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let asked = |request: &Request| (bodies.style, language(request.headers()));
    let mut types = request.headers().get_all(CONTENT_TYPE).iter().peekable();
    if types.peek().is_none() || !types.all(is_json) {
        return unsupported(asked(&request), "send the header Content-Type: application/json");
    }
    match Coding::of(request.headers()) {
        Some(Coding::Identity) => next.run(request).await,
        Some(Coding::Gzip) => next.run(inflate::rest(request, bodies.max_bytes)).await,
        None => {
            let mut response = unsupported(asked(&request), "the Content-Encoding of a body must be gzip, or absent");
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
    }
}

/// Over HTTP/1.1 the status of a call is lost with its trailers, and the caller would take a charge
/// for a failure. tonic checks neither the protocol nor the type.
pub fn refuse_grpc(request: &Request) -> Option<Response> {
    // Clients of gRPC read English.
    let style = (Style::Plain, Language::English);
    if request.version() != Version::HTTP_2 {
        // 505 would count the mistake of a client among the errors of the server.
        let status = StatusCode::UPGRADE_REQUIRED;
        let message = "gRPC needs HTTP/2; over HTTP/1.1 there are the routes of REST";
        let mut response = http_error(style, status, "HTTP_2_REQUIRED", message);
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("HTTP/2.0"));
        return Some(response);
    }
    // tonic takes any method, and the body of a GET is not counted.
    if request.method() != Method::POST {
        return Some(http_error(
            style,
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "a call of gRPC is a POST",
        ));
    }
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(is_grpc_proto);
    (!is_grpc).then(|| unsupported(style, "the Content-Type of a call must be application/grpc"))
}

fn unsupported(style: (Style, Language), message: &str) -> Response {
    http_error(style, StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
}

/// The media type without its parameters. Its letters may be of either case.
fn media_type(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()?.split(';').next().map(str::trim)
}

fn is_json(value: &HeaderValue) -> bool {
    media_type(value).is_some_and(|media_type| {
        let name = media_type.to_ascii_lowercase();
        // JSON messages of gRPC are framed.
        name.strip_prefix("application/")
            .is_some_and(|name| name == "json" || (name.ends_with("+json") && !name.starts_with("grpc")))
    })
}

/// Runs for every gRPC call, so it copies nothing.
fn is_grpc_proto(value: &HeaderValue) -> bool {
    media_type(value).is_some_and(|media_type| {
        ["application/grpc", "application/grpc+proto"].iter().any(|name| media_type.eq_ignore_ascii_case(name))
    })
}

/// The coding of a body.
#[derive(Debug, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// `None` for any other coding.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut coding = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in value.to_str().ok()?.split(',').map(str::trim) {
                match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => {}
                    "gzip" | "x-gzip" if coding == Self::Identity => coding = Self::Gzip,
                    // Two codings on top of each other are not supported.
                    _ => return None,
                }
            }
        }
        Some(coding)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn json_types_are_recognised() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json ; x=y"] {
            assert!(is_json(&HeaderValue::from_static(json)), "{json}");
        }
        for other in [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/grpc+json",
            "application/grpc-web+json",
            "application/x-www-form-urlencoded",
            "json",
            "*/*",
        ] {
            assert!(!is_json(&HeaderValue::from_static(other)), "{other}");
        }
    }

    #[test]
    fn grpc_types_are_recognised() {
        for grpc in ["application/grpc", "application/grpc+proto", "application/grpc; x=y"] {
            assert!(is_grpc_proto(&HeaderValue::from_static(grpc)), "{grpc}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/grpc+json", "application/json"]
        {
            assert!(!is_grpc_proto(&HeaderValue::from_static(other)), "{other}");
        }
    }

    #[test]
    fn only_gzip_is_a_coding() {
        let coding = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value)));
            Coding::of(&values.collect::<Vec<_>>().into_iter().fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            }))
        };
        assert_eq!(coding(&[]), Some(Coding::Identity));
        assert_eq!(coding(&["identity"]), Some(Coding::Identity));
        assert_eq!(coding(&["GZIP"]), Some(Coding::Gzip));
        assert_eq!(coding(&["identity, x-gzip"]), Some(Coding::Gzip));
        for other in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"], &["deflate"], &["zstd, gzip"]] {
            assert_eq!(coding(other), None, "{other:?}");
        }
    }
}
