use serde_json::json;

use super::*;
use crate::service::proto::{AdjustBalanceRequest, BatchDeductQuotaRequest, DeductQuotaRequest};

fn read<M: prost::Name>(body: &str) -> std::result::Result<(Value, Vec<String>), String> {
    let mut unknown = UnknownNames::default();
    let fields =
        object(body.as_bytes(), &descriptor::<M>().unwrap(), &mut unknown).map_err(|error| error.to_string())?;
    Ok((Value::Object(fields), unknown.names().to_vec()))
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
        let error =
            if member == "amount" { read::<AdjustBalanceRequest>(body) } else { read::<DeductQuotaRequest>(body) };
        assert_eq!(error.unwrap_err(), format!("{member}: comes twice"), "{body}");
    }
    let batch = r#"{"items":[{"count":1},{"count":1,"usage":{"output_tokens":1},"count":2}]}"#;
    assert_eq!(read::<BatchDeductQuotaRequest>(batch).unwrap_err(), "items[1].count: comes twice");
    let twins = r#"{"items":[{"count":1},{"count":1}]}"#;
    assert!(read::<BatchDeductQuotaRequest>(twins).is_ok(), "equal members of two items are two members");
}

#[test]
fn members_get_the_names_of_the_fields_and_null_is_absent() {
    let body = r#"{"userId":"u","count":1.0,"cost":"5e-1","model":null,"usage":{"inputTokens":"1e1"}}"#;
    let (fields, unknown) = read::<DeductQuotaRequest>(body).unwrap();
    assert_eq!(fields, json!({"user_id": "u", "count": 1, "cost": "5e-1", "usage": {"input_tokens": 10}}));
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
    let (fields, unknown) = read::<DeductQuotaRequest>(body).unwrap();
    assert_eq!(fields, json!({"user_id": "u", "usage": {}}));
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
    let deep = format!("{{\"usage\":{}1{}}}", "[".repeat(200), "]".repeat(200));
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
