//! The routes of REST with their messages and comments: the rpcs of the descriptors, and the exports.

use std::collections::HashMap;

use anyhow::Context;
use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use crate::service::{proto::DESCRIPTORS, routes::rest_rpc};

const PACKAGE: &str = "billing.v1";

/// The descriptors of the contract.
pub struct Contract {
    pool: DescriptorPool,
    /// By the path of the element in its file, which is one for all of the contract.
    comments: HashMap<Vec<i32>, String>,
}

/// One route.
pub struct Operation {
    /// The rpc, or the name of the export in logs and in the access table.
    pub rpc: String,
    pub method: Method,
    pub path: String,
    pub request: MessageDescriptor,
    /// Fields of the message that must be absent.
    pub absent: &'static [&'static str],
    pub reply: Reply,
    /// Its comment.
    pub text: String,
}

/// The body of a good answer.
pub enum Reply {
    Json(MessageDescriptor),
    Csv,
}

/// The fields of a list that an export of all its entries refuses.
const PAGES: [&str; 3] = ["page", "page_size", "page_token"];

/// A route that no rpc has: its path, the message of its query, and its comment. All are CSV.
const EXPORTS: [(&str, &str, &str); 7] = [
    ("/api/v1/billing/records.csv", "ListRecordsRequest", "All records that match the filters, newest first, as CSV."),
    (
        "/api/v1/billing/statement.csv",
        "GetStatementRequest",
        "The statement of a month as CSV: the opening balance, the lines, and the closing balance.",
    ),
    (
        "/internal/v1/billing/statements.csv",
        "ExportStatementsRequest",
        "The statement of every user for a month as CSV, a line each.",
    ),
    (
        "/internal/v1/billing/records.csv",
        "ExportBooksRequest",
        "The consumption records of every user as CSV, by user and time.",
    ),
    (
        "/internal/v1/billing/recharges.csv",
        "ExportBooksRequest",
        "The top-up orders of every user as CSV, by user and order.",
    ),
    (
        "/internal/v1/billing/recharge-refunds.csv",
        "ExportBooksRequest",
        "The refunds and chargebacks of top-ups of every user as CSV, by user and refund.",
    ),
    (
        "/internal/v1/billing/adjustments.csv",
        "ExportBooksRequest",
        "The credits and debits of every user as CSV, by user and adjustment.",
    ),
];

impl Contract {
    /// # Errors
    /// The descriptors are not readable, which is a defect.
    pub fn read() -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS)?;
        let mut comments = HashMap::new();
        for file in pool.files().filter(|file| file.package_name() == PACKAGE) {
            let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
            comments.extend(locations.filter_map(|location| {
                let comment = location.leading_comments.as_deref()?;
                Some((location.path.clone(), plain(comment)))
            }));
        }
        Ok(Self { pool, comments })
    }

    /// All routes, by rpc in the order of the contract, and the exports behind them.
    ///
    /// # Errors
    /// A message or an option is missing, which is a defect.
    pub fn operations(&self) -> anyhow::Result<Vec<Operation>> {
        let http = self.pool.get_extension_by_name("google.api.http").context("no google.api.http")?;
        let services: Vec<_> = self.pool.services().filter(|service| service.package_name() == PACKAGE).collect();
        let methods = services.iter().flat_map(|service| service.methods());
        let mut operations: Vec<_> = methods.flat_map(|method| self.of_rpc(&method, &http)).collect();
        for (path, message, text) in EXPORTS {
            let request = self.message(message)?;
            let rpc = rest_rpc(&Method::GET, path).with_context(|| format!("no name of {path}"))?.to_owned();
            let (path, text) = (path.to_owned(), text.to_owned());
            let (method, reply) = (Method::GET, Reply::Csv);
            operations.push(Operation { rpc, method, path, request, absent: &PAGES, reply, text });
        }
        Ok(operations)
    }

    /// # Errors
    /// The contract has no message of the name, which is a defect.
    pub fn message(&self, name: &str) -> anyhow::Result<MessageDescriptor> {
        let name = format!("{PACKAGE}.{name}");
        self.pool.get_message_by_name(&name).with_context(|| format!("no message {name}"))
    }

    fn of_rpc(&self, method: &MethodDescriptor, http: &ExtensionDescriptor) -> Vec<Operation> {
        let options = method.options();
        let rule = options.has_extension(http).then(|| options.get_extension(http));
        let routes = rule.as_deref().and_then(Value::as_message).map(routes).unwrap_or_default();
        let operation = |(verb, path)| Operation {
            rpc: method.name().to_owned(),
            method: verb,
            path,
            request: method.input(),
            absent: &[],
            reply: Reply::Json(method.output()),
            text: self.comment(method.path()),
        };
        routes.into_iter().map(operation).collect()
    }

    pub fn comment_of_message(&self, message: &MessageDescriptor) -> String {
        self.comment(message.path())
    }

    pub fn comment_of_field(&self, field: &FieldDescriptor) -> String {
        self.comment(field.path())
    }

    fn comment(&self, path: &[i32]) -> String {
        self.comments.get(path).cloned().unwrap_or_default()
    }
}

/// The methods and paths of a google.api.http rule.
fn routes(rule: &DynamicMessage) -> Vec<(Method, String)> {
    let mut found = Vec::new();
    for (field, value) in rule.fields() {
        match (field.name(), value) {
            ("get", Value::String(path)) => found.push((Method::GET, path.clone())),
            ("post", Value::String(path)) => found.push((Method::POST, path.clone())),
            ("delete", Value::String(path)) => found.push((Method::DELETE, path.clone())),
            ("additional_bindings", Value::List(more)) => {
                found.extend(more.iter().filter_map(Value::as_message).flat_map(routes));
            }
            _ => {}
        }
    }
    found
}

/// The text of a comment: its lines joined, and its paragraphs apart.
fn plain(comment: &str) -> String {
    let paragraphs = comment.trim().split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_keeps_its_paragraphs() {
        assert_eq!(plain(" One\n two.\n\n Three.\n"), "One two.\n\nThree.");
    }

    #[test]
    fn every_rpc_has_a_comment() {
        for operation in Contract::read().unwrap().operations().unwrap() {
            assert!(operation.text.ends_with('.'), "{} {:?}", operation.rpc, operation.text);
        }
    }
}
