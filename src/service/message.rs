//! The request message of a call over REST: its path, and the body of a POST or the query of
//! any other request.

use axum::{
    body::Bytes,
    extract::{FromRequest, MatchedPath, Query, RawPathParams, Request, rejection::RawPathParamsRejection},
};
use http::Method;
use prost_reflect::MessageDescriptor;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::{
    idempotency::IdSource,
    json::{self, UnknownNames, UnknownPolicy, WRONG_VALUE},
    origin::Account,
    request::{RequestId, note_trace_id},
};
use crate::biz::values::{
    error::{Error, Result},
    invalid::Invalid,
};

pub(super) type PathResult = std::result::Result<RawPathParams, RawPathParamsRejection>;

/// Largest body that is read on the thread of the request: some 100 us.
const MAX_INLINE: usize = 16 * 1024;
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
    let message = json::descriptor::<M>();
    let message = message.ok_or_else(|| Error::Internal(format!("{} has no descriptor", M::full_name())))?;
    let headers = std::mem::take(request.headers_mut());
    let request_id = RequestId::beside(request.extensions());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let account = request.extensions().get::<Account>().cloned();
    let mut unknown = UnknownNames::default();
    let mut is_large = false;
    let mut fields = if request.method() == Method::POST {
        // The body is the whole message, so all query parameters are unknown.
        pairs(&request)?.into_iter().for_each(|(name, _)| unknown.add(|| name));
        let body = Bytes::from_request(request, &()).await;
        let body = body.map_err(|rejection| Invalid::new("body", rejection.body_text()))?;
        is_large = body.len() > MAX_INLINE;
        let (fields, names) = off_worker_if(is_large, move || {
            let mut unknown = UnknownNames::default();
            let fields = body_fields(&body, &message, &mut unknown);
            (fields, unknown)
        })
        .await?;
        unknown.append(names);
        fields?
    } else {
        query_fields(&request, &message, &mut unknown)?
    };
    for (name, value) in &path {
        set_once(&mut fields, name, value.into())?;
    }
    if let Some(account) = &account {
        let user = account.user(named_user(&fields)?)?.to_owned();
        fields.insert(USER_ID.into(), user.into());
    }
    if let Some(field) = id.field()
        && let Value::String(own) = fields.entry(field).or_insert_with(|| String::new().into())
    {
        if own.is_empty()
            && let Some(header_id) = id.read(&headers)?
        {
            *own = header_id.into_owned();
        }
        request_id.note_retry_id(field, own);
    }
    if id == IdSource::Items {
        id.read(&headers)?;
    }
    if let Some(Value::String(trace_id)) = fields.get("trace_id") {
        note_trace_id(&headers, trace_id);
    }
    policy.apply(route.as_ref().map_or("", MatchedPath::as_str), &unknown)?;
    off_worker_if(is_large, move || json::message(fields)).await?
}

/// Runs `work`: on this thread if it is short, or else on a thread of its own, so that it delays no
/// other request.
async fn off_worker_if<T: Send + 'static>(is_long: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    /// Most such threads. Further requests wait, until their deadline.
    static THREADS: Semaphore = Semaphore::const_new(2);
    if !is_long {
        return Ok(work());
    }
    let failed = |error: &dyn std::fmt::Display| Error::Internal(format!("reading a body: {error}"));
    let _thread = THREADS.acquire().await.map_err(|error| failed(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))
}

/// The user that a message names, if any.
fn named_user(fields: &Map<String, Value>) -> Result<Option<&str>> {
    match fields.get(USER_ID) {
        None => Ok(None),
        Some(Value::String(user)) => Ok(Some(user)),
        Some(_) => Err(Invalid::new(USER_ID, WRONG_VALUE).into()),
    }
}

fn body_fields(body: &[u8], message: &MessageDescriptor, unknown: &mut UnknownNames) -> Result<Map<String, Value>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    json::object(body, message, unknown)
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
