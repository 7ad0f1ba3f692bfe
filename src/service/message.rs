//! The request message of a call over REST: its path, and the body of a POST or the query of
//! any other request.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    extract::{FromRequest, MatchedPath, Query, RawPathParams, Request, rejection::RawPathParamsRejection},
};
use http::{HeaderMap, Method};
use prost_reflect::MessageDescriptor;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    body::{BodyBudget, MAX_INLINE_JSON, off_worker_if},
    idempotency::IdSource,
    json::{self, Fills, Source, UnknownNames, UnknownPolicy},
    origin::Account,
    request::{RequestId, note_trace_id},
};
use crate::biz::values::{
    error::{Error, Result},
    invalid::Invalid,
};

pub(super) type PathResult = std::result::Result<RawPathParams, RawPathParamsRejection>;

/// The field with the account, which every message of BillingService has.
const USER_ID: &str = "user_id";

/// The message, with the account of a front end's request, and with an id that it lacks from the
/// headers.
///
/// # Errors
/// [`Error::Invalid`] with the field that is wrong; [`Error::PermissionDenied`] for the account of
/// another user.
pub(super) async fn message<M>(
    policy: &UnknownPolicy,
    path: PathResult,
    mut request: Request,
    id: IdSource,
) -> Result<M>
where
    M: DeserializeOwned + prost::Name + Send + 'static,
{
    let path = path.map_err(|rejection| Invalid::new("path", rejection.body_text()))?;
    let descriptor = json::descriptor::<M>();
    let descriptor = descriptor.ok_or_else(|| Error::Internal(format!("{} has no descriptor", M::full_name())))?;
    let headers = std::mem::take(request.headers_mut());
    let request_id = RequestId::beside(request.extensions());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let fills = fills(&path, request.extensions().get::<Account>(), id, &headers);
    let mut unknown = UnknownNames::default();
    let read = if request.method() == Method::POST {
        // The body is the whole message, so all query parameters are unknown.
        pairs(&request)?.into_iter().for_each(|(name, _)| unknown.add(|| name));
        let budget = BodyBudget::current();
        let body = Bytes::from_request(request, &()).await;
        let body = body.map_err(|rejection| Invalid::new("body", rejection.body_text()))?;
        let is_large = body.len() > MAX_INLINE_JSON;
        let reading = move || {
            // A body may be left out.
            if body.iter().all(u8::is_ascii_whitespace) {
                return json::object::<M>(Map::new(), descriptor, fills);
            }
            json::message::<M>(&body, descriptor, fills, budget.as_ref())
        };
        off_worker_if(is_large, reading).await??
    } else {
        json::object(query_fields(&request, &descriptor, &mut unknown)?, descriptor, fills)?
    };
    unknown.append(read.unknown);
    if let Some(field) = id.field() {
        request_id.note_retry_id(field, read.fills.value(field).unwrap_or_default());
    }
    if id == IdSource::Items {
        id.read(&headers)?;
    }
    if let Some(trace_id) = read.fills.value("trace_id") {
        note_trace_id(trace_id);
    }
    policy.apply(route.as_ref().map_or("", MatchedPath::as_str), &unknown)?;
    Ok(read.message)
}

/// The sources of fields beside the body or the query.
fn fills(path: &RawPathParams, account: Option<&Account>, id: IdSource, headers: &HeaderMap) -> Fills {
    let mut fills = Fills::default();
    for (name, value) in path {
        fills.add(name, Source::Path(value.to_owned()));
    }
    if let Some(account) = account {
        fills.add(USER_ID, Source::Account(account.clone()));
    }
    if let Some(field) = id.field() {
        fills.add(field, Source::Header(id.read(headers).map(|id| id.map(Cow::into_owned))));
    }
    fills
}

fn query_fields(
    request: &Request,
    message: &MessageDescriptor,
    unknown: &mut UnknownNames,
) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for (name, text) in pairs(request)? {
        match json::parameter(message, &name, &text)? {
            // An empty parameter is an absent one.
            Some((_, Value::Null)) => {}
            Some((field, value)) => set_once(&mut fields, &field, value)?,
            None => unknown.add(|| name),
        }
    }
    Ok(fields)
}

fn pairs(request: &Request) -> Result<Vec<(String, String)>> {
    match Query::try_from_uri(request.uri()) {
        Ok(Query(pairs)) => Ok(pairs),
        Err(rejection) => Err(Invalid::new("query", rejection.body_text()).into()),
    }
}

fn set_once(fields: &mut Map<String, Value>, name: &str, value: Value) -> Result<()> {
    match fields.get(name) {
        Some(other) if *other != value => Err(Invalid::new(name, "is given twice with different values").into()),
        _ => {
            fields.insert(name.to_owned(), value);
            Ok(())
        }
    }
}
