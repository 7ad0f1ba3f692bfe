//! CountTokens over both protocols.

use billing_service::{
    biz::metering::tokens::{Encoding, MAX_BYTES, MAX_MESSAGES},
    service::proto::{ChatMessage, CountTokensReply, CountTokensRequest},
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{CORPUS, vocabulary};
use crate::harness::{Service, Sqlite, code_of};

const PATH: &str = "/internal/v1/billing/tokens/count";

async fn count(service: &Service, request: CountTokensRequest) -> Result<CountTokensReply, Status> {
    service.internal.clone().count_tokens(request).await.map(|reply| reply.into_inner())
}

fn text(model: &str, text: impl Into<String>) -> CountTokensRequest {
    CountTokensRequest { model: model.into(), text: Some(text.into()), messages: Vec::new() }
}

fn message(role: &str, content: &str, name: &str) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into(), name: name.into() }
}

#[tokio::test]
async fn both_protocols_have_the_counts_of_tiktoken() {
    let service = Service::start(Sqlite).await;
    for reference in CORPUS.iter().step_by(7) {
        for (model, encoding) in [("gpt-4o-mini", Encoding::O200kBase), ("gpt-4-turbo", Encoding::Cl100kBase)] {
            let tokens = i32::try_from(reference.tokens(encoding)).unwrap();
            let reply = count(&service, text(model, &reference.text)).await.unwrap();
            assert_eq!((reply.tokens, reply.encoding.as_str()), (tokens, encoding.name()), "{:?}", reference.text);
            let body = json!({"model": model, "text": reference.text});
            let (status, reply) = service.post(PATH, body.to_string()).await;
            assert_eq!((status, reply), (200, json!({"tokens": tokens, "encoding": encoding.name()})));
        }
    }
}

#[tokio::test]
async fn an_unknown_model_has_the_default_encoding() {
    let service = Service::start(Sqlite).await;
    for (model, encoding) in [
        ("", "o200k_base"),
        ("claude-sonnet-4", "o200k_base"),
        ("gpt-oss-20b", "o200k_harmony"),
        ("gpt-4", "cl100k_base"),
    ] {
        assert_eq!(count(&service, text(model, "hi")).await.unwrap().encoding, encoding, "{model}");
    }
}

#[tokio::test]
async fn a_chat_counts_its_strings_and_its_overhead() {
    let service = Service::start(Sqlite).await;
    let chat = |messages: Vec<ChatMessage>| CountTokensRequest { model: "gpt-4o".into(), text: None, messages };
    // Each of these words is one token.
    let one = count(&service, chat(vec![message("user", "hello", "")])).await.unwrap();
    assert_eq!(one.tokens, 3 + 1 + 1 + 3);
    let named = count(&service, chat(vec![message("user", "hello", "anna"), message("system", "", "")])).await.unwrap();
    let name = i32::try_from(vocabulary(Encoding::O200kBase).count("anna")).unwrap();
    assert_eq!(named.tokens, (3 + 1 + 1 + 1 + name) + (3 + 1) + 3);
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello <|im_end|>"}]});
    let special = i32::try_from(vocabulary(Encoding::O200kBase).count("hello <|im_end|>")).unwrap();
    assert_eq!(service.post(PATH, body.to_string()).await.1["tokens"], 3 + 1 + special + 3);
}

#[tokio::test]
async fn bad_requests_are_refused_by_field() {
    let service = Service::start_with(Sqlite, &[("server.limits.body_bytes", "16777216")]).await;
    let chat = |messages| CountTokensRequest { model: String::new(), text: None, messages };
    let long = "a ".repeat(MAX_BYTES / 2);
    for (request, field) in [
        (text("é", "x"), "model"),
        (text(&"m".repeat(129), "x"), "model"),
        (CountTokensRequest::default(), "text"),
        (CountTokensRequest { messages: vec![message("user", "", "")], ..text("", "") }, "messages"),
        (text("", format!("{long}b")), "text"),
        (chat(vec![message("user", &long, "")]), "messages"),
        (chat(vec![message("user", "", ""); MAX_MESSAGES + 1]), "messages"),
        (chat(vec![message("user", "", ""), message("", "x", "")]), "messages[1].role"),
    ] {
        let refused = count(&service, request).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()), "{field}");
        assert!(refused.message().starts_with(&format!("{field}: ")), "{field}: {}", refused.message());
    }
    for (body, field) in [
        (json!({}), "text"),
        (json!({"text": 7}), "text"),
        (json!({"messages": []}), "text"),
        (json!({"messages": [{"role": "user", "content": ["x"]}]}), "messages[0].content"),
        (json!({"messages": [null]}), "messages[0]"),
        (json!({"text": "", "messages": [{"role": "user"}]}), "messages"),
    ] {
        let (status, reply) = service.post(PATH, body.to_string()).await;
        assert_eq!((status, &reply["metadata"]["field"]), (400, &json!(field)), "{body}: {reply}");
    }
    let within = count(&service, text("", long)).await.unwrap();
    assert!(within.tokens > 1_000_000, "{within:?}");
}

#[tokio::test]
async fn tokens_are_not_counted_on_the_public_port() {
    let service = Service::start(Sqlite).await;
    let url = format!("http://{}{PATH}", service.app.http_addr);
    let reply = service.http.post(url).body(r#"{"text":"x"}"#).send().await.unwrap();
    assert_eq!(reply.status(), 404);
    assert!(reply.json::<Value>().await.is_ok());
}
