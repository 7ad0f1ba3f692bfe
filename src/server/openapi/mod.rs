//! The OpenAPI document of a port, and its page. Both are made of the descriptors of the
//! contract with their comments, the bounds that the service checks, the table of errors, and the access table.

mod access;
mod answers;
mod authorize;
mod contract;
mod examples;
mod names;
mod operation;
mod operations;
mod page;
mod port;
mod schema;

use serde_json::{Map, Value, json};

use self::{contract::Contract, schema::Schemas};
pub use self::{
    examples::{Example, examples},
    page::{CONTENT_SECURITY_POLICY, page},
    port::Port,
};
use crate::{config::UnknownFields, service::routes::AUTHORIZE_PATH};

/// The document of a port.
///
/// # Errors
/// The descriptors or the examples are not readable, which is a defect.
pub fn document(port: &Port) -> anyhow::Result<Value> {
    let (contract, all_examples) = (Contract::read()?, examples()?);
    let mut schemas = Schemas::new(&contract, port.names());
    let mut paths = Map::new();
    for operation in contract.operations()?.iter().filter(|operation| port.serves(&operation.path)) {
        let examples: Vec<_> = all_examples.iter().filter(|example| example.is_of(operation)).collect();
        let entry = operation::entry(port, operation, &mut schemas, &examples);
        let method = operation.method.as_str().to_ascii_lowercase();
        paths.entry(&operation.path).or_insert_with(|| json!({}))[method] = entry;
    }
    if !port.is_public {
        let check = contract.message("CheckQuotaRequest")?;
        paths.insert(AUTHORIZE_PATH.to_owned(), authorize::entry(port, &check, &mut schemas));
    }
    paths.extend(operations::entries(port).into_iter().map(|(path, entry)| (path.to_owned(), entry)));
    let mut found = schemas.into_found();
    found.insert("Error".into(), port.names().error());
    found.insert("Health".into(), operations::health());
    Ok(json!({
        "openapi": "3.1.0",
        "info": info(port),
        "servers": [{"url": "/", "description": "This port."}],
        "tags": tags(port),
        "paths": paths,
        "components": {
            "schemas": found,
            "parameters": operation::header_parameters(),
            "headers": answers::headers(),
            "securitySchemes": access::schemes(port),
        },
    }))
}

fn info(port: &Port) -> Value {
    let title = if port.is_public { "billing-service: API of front ends" } else { "billing-service: internal API" };
    let unknown = match port.config.http.unknown_fields {
        UnknownFields::Ignore => "are ignored",
        UnknownFields::Warn => "are ignored and counted",
        UnknownFields::Reject => "are refused with INVALID_ARGUMENT",
    };
    let description = format!(
        "{RULES} Unknown members and query parameters {unknown}.\n\n{HTTP_ERRORS}\n\nAmounts are in the currency of \
         the account, with at most six decimal places."
    );
    json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "MIT", "identifier": "MIT"},
        "description": description,
    })
}

const RULES: &str = "JSON by the rules of proto3. Requests may write the names of members in snake_case or in \
    lowerCamelCase, and numbers as strings. A null stands for an absent member. A member that comes twice is refused. \
    An int64 of a reply is a string.";
const HTTP_ERRORS: &str = "Every path may also answer errors of HTTP itself, with the same body and without an \
    error_code: 404 for an unknown path, and 405 for a method that the path does not have.";

fn tags(port: &Port) -> Vec<Value> {
    let mut tags = Vec::new();
    let mut tag = |name: &str, text: &str| tags.push(json!({"name": name, "description": text}));
    if port.is_public {
        tag("BillingService", "For the web front end.");
    }
    if port.serves_internal_routes() {
        tag("BillingInternalService", "For API gateways, payment-service and operators.");
    }
    tag("Exports", "Files of CSV.");
    tag("Operations", "For operators, orchestrators and readers of this document.");
    tags
}
