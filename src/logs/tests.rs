use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use http::HeaderValue;
use serde_json::{Value, json};

use super::*;
use crate::context::{self, RequestFacts};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The text of all lines that `work` logs.
fn logged(format: LogFormat, work: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let registry = tracing_subscriber::registry().with(lines(format, move || writer.clone())).with(EventsAlone);
    tracing::subscriber::with_default(registry, work);
    let bytes = captured.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn request() -> Arc<RequestFacts> {
    let request = RequestFacts::new(Some("DeductQuota".into()), HeaderValue::from_static("r \"1\""), 0xabc);
    request.note_charge_id("call-1");
    request.note_caller(&"edge".into(), "gateway");
    Arc::new(request)
}

#[test]
fn a_json_line_has_the_facts_of_its_request_beside_its_message() {
    let text = logged(LogFormat::Json, || {
        tracing::warn!(target: "t", number = 3, ratio = 0.5, is_so = true, text = "a\"b", debug = ?Some(1), "said \"so\"");
        context::within(&request(), || tracing::info!(rpc = "of the event", "below"));
    });
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [before, below] = &lines[..] else { panic!("{text}") };
    assert!(before["timestamp"].as_str().unwrap().ends_with('Z'), "{before}");
    assert_eq!((before["level"].as_str(), before["target"].as_str()), (Some("WARN"), Some("t")));
    assert_eq!(before["message"], "said \"so\"");
    let fields = json!({"message": "said \"so\"", "number": 3, "ratio": 0.5, "is_so": true, "text": "a\"b",
        "debug": "Some(1)"});
    assert_eq!(before["fields"], fields);
    assert_eq!(before.as_object().unwrap().len(), 5, "a line without a request names none: {before}");
    for (name, value) in [
        ("message", "below"),
        ("rpc", "DeductQuota"),
        ("request_id", "r \"1\""),
        ("trace_id", "00000000000000000000000000000abc"),
        ("charge_id", "call-1"),
        ("caller", "edge"),
    ] {
        assert_eq!(below[name], value, "{below}");
    }
    assert_eq!(below["fields"], json!({"message": "below", "rpc": "of the event"}));
}

#[test]
fn a_line_of_text_ends_with_the_facts_of_its_request() {
    let text = logged(LogFormat::Text, || {
        tracing::info!(code = 1, "before");
        context::within(&request(), || tracing::info!("below"));
    });
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("before code=1"), "{text}");
    let facts = r#"below rpc="DeductQuota" request_id="r \"1\"" trace_id="00000000000000000000000000000abc" charge_id="call-1" caller="edge""#;
    assert!(lines[1].ends_with(facts), "{text}");
}

#[test]
fn without_traces_no_span_is_made() {
    let text = logged(LogFormat::Text, || {
        let span = tracing::info_span!(target: "billing_service::spans", "rpc", user = "secret");
        assert!(span.is_disabled());
        span.in_scope(|| tracing::info!("within"));
    });
    assert!(!text.contains("secret"), "{text}");
}
