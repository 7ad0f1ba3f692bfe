//! The entry of the route that proxies ask. Its parameters are headers.

use http::Method;
use prost_reflect::MessageDescriptor;
use serde_json::{Value, json};

use super::{
    access::Access,
    answers::errors,
    port::Port,
    schema::{Given, Schemas},
};
use crate::service::{
    check::{FIELDS, UNCOVERED},
    errors::{Kind, kinds::INSUFFICIENT_BALANCE},
    refusals::refusals,
    routes::AUTHORIZE_PATH,
};

const RPC: &str = "Authorize";
const SUMMARY: &str = "Whether a call is covered, for a proxy that asks before it passes the call on";
const TEXT: &str = "Decides as CheckQuota does, on the call that the headers name. An empty header is an absent one. \
    The route takes any method and any path behind its own, because a proxy may pass on those of its client. Method, \
    path, query and body mean nothing.";

/// The fields of a call that the free quota covers.
const EXAMPLE: [(&str, &str); 2] = [("user_id", "user_001"), ("service_name", "asset")];

/// The entry, with the bounds of the fields of a check.
pub fn entry(port: &Port, check: &MessageDescriptor, schemas: &mut Schemas<'_>) -> Value {
    let fields = schemas.request_fields(check, Given::default());
    let parameters = FIELDS.iter().filter_map(|known| {
        let field = fields.iter().find(|field| field.name == known.name)?;
        let mut schema = field.schema.clone();
        let text = schema.as_object_mut().and_then(|schema| schema.remove("description")).unwrap_or_else(|| "".into());
        // A check without a count has none. A call that a proxy passes on is one.
        let is_required = field.is_required && known.name != "count";
        let mut parameter = json!({
            "name": known.header.as_str(), "in": "header", "required": is_required, "schema": schema, "description": text,
        });
        if let Some((_, value)) = EXAMPLE.iter().find(|(name, _)| *name == known.name) {
            parameter["examples"] = json!({"a covered call": {"value": value}});
        }
        Some(parameter)
    });
    let mut parameters: Vec<Value> = parameters.collect();
    parameters.push(json!({"$ref": "#/components/parameters/RequestId"}));
    let access = Access::of_rpc(port, RPC, AUTHORIZE_PATH);
    let kinds = access.refusals.iter().copied().chain(refusals(RPC).map(of_a_proxy));
    let mut responses = errors(kinds, &Method::GET, schemas, port.names(), &[]);
    responses.insert("200".into(), json!({"description": "The call is covered."}));
    for response in responses.values_mut() {
        response["headers"]["x-request-id"] = json!({"$ref": "#/components/headers/RequestId"});
        for (header, name) in
            [("ratelimit-policy", "RateLimitPolicy"), ("ratelimit", "RateLimit"), ("x-billing-error-code", "ErrorCode")]
        {
            response["headers"][header] = json!({"$ref": format!("#/components/headers/{name}")});
        }
    }
    let mut operation = json!({
        "operationId": RPC,
        "summary": SUMMARY,
        "description": TEXT,
        "tags": ["BillingInternalService"],
        "parameters": parameters,
        "responses": responses,
        "security": access.security,
        "x-any-method": true,
    });
    if !access.roles.is_empty() {
        operation["x-roles"] = access.roles.into();
    }
    json!({"get": operation})
}

fn of_a_proxy(kind: Kind) -> Kind {
    match kind.error_code == INSUFFICIENT_BALANCE.error_code {
        true => Kind { http: UNCOVERED, ..kind },
        false => kind,
    }
}
