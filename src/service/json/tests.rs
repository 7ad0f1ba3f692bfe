use serde_json::json;

use super::{fields::MAX_MEMBERS, *};
use crate::biz::values::error::Error;
use crate::service::proto::{AdjustBalanceRequest, BatchDeductQuotaRequest, DeductQuotaRequest, Usage};

fn read<M: prost::Name + DeserializeOwned>(body: &str) -> std::result::Result<(M, Vec<String>), String> {
    let read = message(body.as_bytes(), descriptor::<M>().unwrap(), Fills::default(), None);
    let read = read.map_err(|error| error.to_string())?;
    Ok((read.message, read.unknown.names().to_vec()))
}

#[test]
fn a_member_that_comes_twice_is_named_at_any_depth() {
    for (body, member) in [
        (r#"{"user_id":"u","user_id":"u"}"#, "user_id"),
        (r#"{"user_id":"u","userId":"u"}"#, "user_id"),
        (r#"{"userId":null,"user_id":"u"}"#, "user_id"),
        (r#"{"amount":1,"amount":100}"#, "amount"),
        (r#"{"usage":{"inputTokens":1,"input_tokens":1}}"#, "usage.input_tokens"),
        (r#"{"note":1,"note":2}"#, "note"),
    ] {
        let error = if member == "amount" {
            read::<AdjustBalanceRequest>(body).err()
        } else {
            read::<DeductQuotaRequest>(body).err()
        };
        assert_eq!(error.unwrap(), format!("{member}: comes twice"), "{body}");
    }
    let batch = r#"{"items":[{"count":1},{"count":1,"usage":{"output_tokens":1},"count":2}]}"#;
    assert_eq!(read::<BatchDeductQuotaRequest>(batch).unwrap_err(), "items[1].count: comes twice");
    let twins = r#"{"items":[{"count":1},{"count":1}]}"#;
    assert!(read::<BatchDeductQuotaRequest>(twins).is_ok(), "equal members of two items are two members");
}

#[test]
fn members_get_the_names_of_the_fields_and_null_is_absent() {
    let body = r#"{"userId":"u","count":1.0,"cost":"5e-1","model":null,"usage":{"inputTokens":"1e1"}}"#;
    let (message, unknown) = read::<DeductQuotaRequest>(body).unwrap();
    let usage = Some(Usage { input_tokens: 10, ..Default::default() });
    assert_eq!(message, DeductQuotaRequest { user_id: "u".into(), count: 1, cost: 0.5, usage, ..Default::default() });
    let nulls = r#"{"userId":null,"count":null,"cost":null,"model":null,"usage":null}"#;
    assert_eq!(read::<DeductQuotaRequest>(nulls).unwrap().0, DeductQuotaRequest::default());
    assert_eq!(read::<BatchDeductQuotaRequest>(r#"{"items":null}"#).unwrap().0, BatchDeductQuotaRequest::default());
    let item = read::<BatchDeductQuotaRequest>(r#"{"items":[{},null]}"#).unwrap_err();
    assert_eq!(item, "items[1]: has the wrong type or is out of range");
    assert!(unknown.is_empty());
}

#[test]
fn numbers_in_texts_are_numbers_of_json() {
    for bad in ["+1", "01", " 1", "1 ", "", "1.5", "1e99", "one"] {
        let body = json!({"items": [{"count": bad}]}).to_string();
        let error = read::<BatchDeductQuotaRequest>(&body).unwrap_err();
        assert_eq!(error, "items[0].count: has the wrong type or is out of range", "{bad}");
    }
    for bad in ["+1", "01", " 1", "1.", ".5", "inf", "nan", ""] {
        let body = json!({"cost": bad}).to_string();
        let error = read::<DeductQuotaRequest>(&body).unwrap_err();
        assert_eq!(error, "cost: has the wrong type or is out of range", "{bad}");
    }
}

#[test]
fn unknown_members_are_named_once_and_left_out() {
    let body = r#"{"traceID":"t","usage":{"tokens":{"a":1,"b":[{"c":1}]}},"user_id":"u"}"#;
    let (message, unknown) = read::<DeductQuotaRequest>(body).unwrap();
    let usage = Some(Usage::default());
    assert_eq!(message, DeductQuotaRequest { user_id: "u".into(), usage, ..Default::default() });
    assert_eq!(unknown, ["traceID", "usage.tokens"]);
    let (_, unknown) = read::<BatchDeductQuotaRequest>(r#"{"items":[{},{"Count":1}]}"#).unwrap();
    assert_eq!(unknown, ["items[1].Count"]);
}

#[test]
fn unknown_names_are_kept_within_bounds() {
    let members: Vec<String> = (0..100).map(|i| format!("\"{i:0>200}\":1")).collect();
    let (_, unknown) = read::<DeductQuotaRequest>(&format!("{{{}}}", members.join(","))).unwrap();
    assert_eq!((unknown.len(), unknown[0].len()), (8, 64));
}

#[test]
fn a_body_that_is_no_object_or_too_deep_is_refused() {
    let deep = format!("{{\"note\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    for (body, why) in [
        ("[]", "must be a JSON object"),
        ("1", "must be a JSON object"),
        ("{} {}", "is not JSON: trailing characters"),
        (r#"{"user_id":"u""#, "is not JSON: EOF"),
        (&deep, "is not JSON: recursion limit exceeded"),
    ] {
        let error = read::<DeductQuotaRequest>(body).unwrap_err();
        assert!(error.starts_with(&format!("body: {why}")), "{error}");
    }
}

#[test]
fn a_value_of_another_type_is_named_and_not_gathered() {
    for (body, field) in [
        (r#"{"user_id":5}"#, "user_id"),
        (r#"{"userId":{"a":[1]}}"#, "user_id"),
        (r#"{"count":{"a":1}}"#, "count"),
        (r#"{"count":[1]}"#, "count"),
        (r#"{"count":2147483648}"#, "count"),
        (r#"{"usage":"x"}"#, "usage"),
        (r#"{"usage":[]}"#, "usage"),
        (r#"{"usage":{"input_tokens":true}}"#, "usage.input_tokens"),
    ] {
        let error = read::<DeductQuotaRequest>(body).unwrap_err();
        assert_eq!(error, format!("{field}: has the wrong type or is out of range"), "{body}");
    }
    for (body, field) in
        [(r#"{"items":{}}"#, "items"), (r#"{"items":[[]]}"#, "items[0]"), (r#"{"items":[1]}"#, "items[0]")]
    {
        let error = read::<BatchDeductQuotaRequest>(body).unwrap_err();
        assert_eq!(error, format!("{field}: has the wrong type or is out of range"), "{body}");
    }
}

#[test]
fn members_and_items_are_bounded_also_where_they_are_unknown() {
    let list = |items: usize| vec!["{}"; items].join(",");
    for (body, is_read) in [
        (format!("{{\"items\":[{}]}}", list(MAX_MEMBERS - 1)), true),
        (format!("{{\"items\":[{}]}}", list(MAX_MEMBERS)), false),
        (format!("{{\"note\":[{}]}}", list(MAX_MEMBERS - 1)), true),
        (format!("{{\"note\":[{}]}}", list(MAX_MEMBERS)), false),
        (format!("{{\"note\":[{}]}}", vec![r#"{"a":1}"#; MAX_MEMBERS / 2].join(",")), false),
    ] {
        let read = read::<BatchDeductQuotaRequest>(&body);
        assert_eq!(read.is_ok(), is_read, "{:?}", read.err());
    }
}

#[test]
fn a_message_takes_its_memory_from_the_budget() {
    let budget = BodyBudget::new({
        let left = std::sync::atomic::AtomicUsize::new(100_000);
        move |bytes| {
            let less = |left: usize| left.checked_sub(bytes);
            left.fetch_update(std::sync::atomic::Ordering::SeqCst, std::sync::atomic::Ordering::SeqCst, less).is_ok()
        }
    });
    let read = |items: usize| {
        let body = format!("{{\"items\":[{}]}}", vec!["{}"; items].join(","));
        let descriptor = descriptor::<BatchDeductQuotaRequest>().unwrap();
        message::<BatchDeductQuotaRequest>(body.as_bytes(), descriptor, Fills::default(), Some(&budget))
    };
    assert_eq!(read(100).unwrap().message.items.len(), 100);
    assert!(matches!(read(1_000), Err(Error::Overloaded(_))));
}

#[test]
fn fields_from_other_sources_complete_the_message_and_contradict_nothing() {
    let read = |body: &str| {
        let mut fills = Fills::default();
        fills.add("user_id", Source::Path("u".into()));
        fills.add("trace_id", Source::Header(Ok(Some("t".into()))));
        fills.add("model", Source::Header(Err(Invalid::new("model", "differs").into())));
        let descriptor = descriptor::<DeductQuotaRequest>().unwrap();
        let read = message::<DeductQuotaRequest>(body.as_bytes(), descriptor, fills, None);
        read.map(|read| (read.message, read.fills)).map_err(|error| error.to_string())
    };
    for (body, trace_id) in [
        (r#"{"model":"m"}"#, "t"),
        (r#"{"model":"m","trace_id":""}"#, "t"),
        (r#"{"traceId":null,"userId":"u","model":"m"}"#, "t"),
        (r#"{"traceId":"own","model":"m"}"#, "own"),
    ] {
        let (message, fills) = read(body).unwrap();
        assert_eq!((message.user_id.as_str(), message.trace_id.as_str()), ("u", trace_id), "{body}");
        assert_eq!(fills.value("trace_id"), Some(trace_id));
    }
    assert_eq!(read(r#"{"user_id":"v","model":"m"}"#).unwrap_err(), "user_id: is given twice with different values");
    assert_eq!(read(r#"{"user_id":1,"model":"m"}"#).unwrap_err(), "user_id: has the wrong type or is out of range");
    for body in ["{}", r#"{"model":""}"#] {
        assert_eq!(read(body).unwrap_err(), "model: differs", "{body}");
    }
}
