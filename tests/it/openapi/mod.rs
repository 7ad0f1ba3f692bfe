//! The OpenAPI documents and their pages: complete, true to the routes, and with examples that a server answers.

mod bounds;
mod headers;
mod replay;
mod routes;

use serde_json::Value;

use crate::harness::Service;

/// The documents of both ports.
async fn documents(service: &Service) -> [(String, Value); 2] {
    let mut documents = Vec::new();
    for addr in [service.app.http_addr, service.app.grpc_addr] {
        let document = service.http.get(format!("http://{addr}/openapi.json")).send().await.unwrap();
        assert_eq!(document.status(), 200);
        documents.push((addr.to_string(), document.json().await.unwrap()));
    }
    documents.try_into().unwrap()
}

/// The operations of a document: method, path and entry.
fn operations(document: &Value) -> Vec<(reqwest::Method, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, entry)| (method.to_uppercase().parse().unwrap(), path.clone(), entry))
    });
    all.collect()
}
