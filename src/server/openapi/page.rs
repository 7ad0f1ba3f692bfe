//! The document as a page. It has no script and loads nothing, so it works offline and under a strict policy.

use std::{fmt::Write as _, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::server::html::Escaped;

const STYLE: &str = include_str!("page.css");

/// The policy of the page: nothing but its own style.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// Appends to a text. A write to a text does not fail.
macro_rules! add {
    ($page:expr, $($part:tt)*) => {{ let _ = writeln!($page, $($part)*); }};
}

/// The page of a document.
pub fn page(document: &Value) -> String {
    let (mut page, info) = (String::new(), &document["info"]);
    let title = Escaped(text(&info["title"]));
    add!(page, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">");
    add!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    add!(page, "<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>");
    add!(
        page,
        "<p>Version {}. The same as <a href=\"openapi.json\">OpenAPI 3.1</a>.</p>",
        Escaped(text(&info["version"]))
    );
    paragraphs(&mut page, text(&info["description"]));
    add!(page, "<nav aria-label=\"Routes and schemas\">");
    for tag in list(&document["tags"]) {
        add!(page, "<h2>{}</h2>\n<p>{}</p>\n<ul>", Escaped(text(&tag["name"])), Escaped(text(&tag["description"])));
        for (path, method, operation) in operations(document, text(&tag["name"])) {
            let id = Escaped(text(&operation["operationId"]));
            add!(page, "<li><a href=\"#{id}\">{id}</a> <code>{} {}</code></li>", method, Escaped(path));
        }
        add!(page, "</ul>");
    }
    add!(page, "</nav>\n<main>");
    for tag in list(&document["tags"]) {
        for (path, method, operation) in operations(document, text(&tag["name"])) {
            section(&mut page, document, (path, &method), operation);
        }
    }
    add!(page, "<h2>Schemas</h2>");
    for (name, schema) in members(&document["components"]["schemas"]) {
        let name = Escaped(name);
        add!(page, "<section id=\"schema-{name}\">\n<h3>{name}</h3>");
        paragraphs(&mut page, text(&schema["description"]));
        // An error names its reasons behind the schema of all errors.
        for part in std::iter::once(schema).chain(list(&schema["allOf"]).iter().skip(1)) {
            fields(&mut page, part);
        }
        add!(page, "</section>");
    }
    add!(page, "</main>\n</body>\n</html>");
    page
}

fn operations<'d>(document: &'d Value, tag: &'d str) -> impl Iterator<Item = (&'d str, String, &'d Value)> {
    let all = members(&document["paths"]).flat_map(|(path, methods)| {
        members(methods).map(move |(method, operation)| (path.as_str(), method.to_ascii_uppercase(), operation))
    });
    all.filter(move |(_, _, operation)| list(&operation["tags"]).iter().any(|of| of == tag))
}

fn section(page: &mut String, document: &Value, (path, method): (&str, &str), operation: &Value) {
    let id = Escaped(text(&operation["operationId"]));
    add!(page, "<section id=\"{id}\">\n<h3>{id}</h3>");
    add!(page, "<p><code><span class=\"method\">{method}</span> {}</code></p>", Escaped(path));
    let description = Some(text(&operation["description"])).filter(|text| !text.is_empty());
    paragraphs(page, description.unwrap_or(text(&operation["summary"])));
    proofs(page, operation);
    parameters(page, document, operation);
    for (kind, content) in members(&operation["requestBody"]["content"]) {
        add!(page, "<h4>Body</h4>\n<p>{} <code>{}</code></p>", type_of(&content["schema"]), Escaped(kind));
        examples(page, content);
    }
    add!(page, "<h4>Answers</h4>");
    for (status, answer) in members(&operation["responses"]) {
        add!(page, "<details>\n<summary><code>{status}</code> {}</summary>", Escaped(text(&answer["description"])));
        for (kind, content) in members(&answer["content"]) {
            add!(page, "<p>{} <code>{}</code></p>", type_of(&content["schema"]), Escaped(kind));
            examples(page, content);
        }
        add!(page, "</details>");
    }
    add!(page, "</section>");
}

fn proofs(page: &mut String, operation: &Value) {
    let alternatives: Vec<_> = list(&operation["security"])
        .iter()
        .map(|proof| members(proof).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" and "))
        .collect();
    if !alternatives.is_empty() {
        add!(page, "<p>Proof: {}.</p>", Escaped(&alternatives.join(", or ")));
    }
}

fn parameters(page: &mut String, document: &Value, operation: &Value) {
    let all = list(&operation["parameters"]);
    if all.is_empty() {
        return;
    }
    add!(
        page,
        "<h4>Parameters</h4>\n<table>\n<thead><tr><th>name</th><th>in</th><th>type</th><th>text</th></tr></thead>\n<tbody>"
    );
    for parameter in all {
        let parameter = resolved(document, parameter);
        row(page, (text(&parameter["name"]), Some(text(&parameter["in"]))), &parameter["schema"], parameter);
    }
    add!(page, "</tbody>\n</table>");
}

fn fields(page: &mut String, schema: &Value) {
    if schema["properties"].is_null() {
        return;
    }
    add!(page, "<table>\n<thead><tr><th>name</th><th>type</th><th>text</th></tr></thead>\n<tbody>");
    for (name, field) in members(&schema["properties"]) {
        row(page, (name, None), field, field);
    }
    add!(page, "</tbody>\n</table>");
}

fn row(page: &mut String, (name, place): (&str, Option<&str>), schema: &Value, described: &Value) {
    let place = place.map(|place| format!("<td>{place}</td>")).unwrap_or_default();
    let (kind, words) = (type_of(schema), Escaped(text(&described["description"])));
    add!(page, "<tr><td><code>{}</code></td>{place}<td>{kind}</td><td>{words}</td></tr>", Escaped(name));
}

/// The type of a schema with its bounds, as HTML.
fn type_of(schema: &Value) -> String {
    if let Some(name) = text(&schema["$ref"]).rsplit('/').next().filter(|name| !name.is_empty()) {
        let name = Escaped(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    if let Some(first) = list(&schema["allOf"]).first() {
        return type_of(first);
    }
    let mut words = match text(&schema["type"]) {
        "array" => format!("list of {}", type_of(&schema["items"])),
        kind => Escaped(kind).to_string(),
    };
    for keyword in [
        "format",
        "const",
        "enum",
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "pattern",
    ] {
        if let Some(value) = schema.get(keyword).filter(|_| keyword != "pattern" || schema["maxLength"] != 255) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(words, "<br>{keyword} <code>{}</code>", Escaped(&value));
        }
    }
    words
}

fn examples(page: &mut String, content: &Value) {
    for (_, example) in members(&content["examples"]) {
        let value = &example["value"];
        let value = value.as_str().map(str::to_owned).or_else(|| serde_json::to_string_pretty(value).ok());
        let summary = Escaped(text(&example["summary"]));
        add!(page, "<p>{summary}:</p>\n<pre tabindex=\"0\"><code>{}</code></pre>", Escaped(&value.unwrap_or_default()));
    }
}

fn paragraphs(page: &mut String, words: &str) {
    for paragraph in words.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
        add!(page, "<p>{}</p>", Escaped(paragraph));
    }
}

/// The value that a reference of the document names.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    let target = text(&value["$ref"]).strip_prefix('#').and_then(|pointer| document.pointer(pointer));
    target.unwrap_or(value)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        assert_eq!(Escaped("<a href='x'>\"&").to_string(), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
        let page = page(&serde_json::json!({
            "info": {"title": "<script>", "version": "1", "description": "<b>"},
            "tags": [{"name": "t", "description": "<i>"}],
            "paths": {"/<u>": {"get": {"operationId": "x", "tags": ["t"], "summary": "<s>", "responses": {}}}},
        }));
        for markup in ["<script", "<b>", "<i>", "<u>", "<s>"] {
            assert!(!page.contains(markup), "{markup}");
        }
    }
}
