//! The rpcs of the contract with their REST routes, from the descriptors.

use billing_service::service::proto::DESCRIPTORS;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use reqwest::Method;

/// An rpc of `billing.v1`.
pub struct Rpc {
    pub name: String,
    /// A client stream has no REST route.
    pub is_client_streaming: bool,
    /// The routes of its google.api.http rule.
    pub routes: Vec<(Method, String)>,
}

pub fn rpcs() -> Vec<Rpc> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let http = pool.get_extension_by_name("google.api.http").unwrap();
    let services: Vec<_> = pool.services().filter(|service| service.package_name() == "billing.v1").collect();
    let methods = services.iter().flat_map(|service| service.methods());
    methods
        .map(|method| {
            let options = method.options();
            let routes = match options.has_extension(&http) {
                true => routes(options.get_extension(&http).as_message().unwrap()),
                false => Vec::new(),
            };
            Rpc { name: method.name().to_owned(), is_client_streaming: method.is_client_streaming(), routes }
        })
        .collect()
}

fn routes(rule: &DynamicMessage) -> Vec<(Method, String)> {
    let mut found = Vec::new();
    for (field, value) in rule.fields() {
        match value {
            Value::String(path) if ["get", "post", "delete"].contains(&field.name()) => {
                let method = match field.name() {
                    "get" => Method::GET,
                    "delete" => Method::DELETE,
                    _ => Method::POST,
                };
                found.push((method, path.clone()));
            }
            Value::List(more) if field.name() == "additional_bindings" => {
                let more = more.iter().filter_map(|binding| binding.as_message());
                found.extend(more.flat_map(routes));
            }
            _ => {}
        }
    }
    found
}
