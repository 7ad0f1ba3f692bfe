//! JSON bodies and query parameters of REST. A body that is accepted is JSON, and the message that it becomes
//! is read again as the same message.

use std::fmt::Debug;

use billing_service::service::{
    json::{self, Fills},
    proto::{
        AdjustBalanceRequest, BatchDeductQuotaRequest, CheckQuotaRequest, CommitReservationRequest, CountTokensRequest,
        DeductQuotaRequest, InitializeUserRequest, ListRecordsRequest, RechargeCallbackRequest, RechargeRequest,
        ReleaseReservationRequest, ReserveQuotaRequest, SetAccountStatusRequest, SetApiKeyQuotaRequest,
        SetUserLimitsRequest,
    },
};
use prost::{Message, Name};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// The input is the number of a message, and a body or `name=value` of a query.
pub fn run(data: &[u8]) {
    let Some((number, body)) = data.split_first() else { return };
    match number % 16 {
        0 => check::<DeductQuotaRequest>(body),
        1 => check::<BatchDeductQuotaRequest>(body),
        2 => check::<CheckQuotaRequest>(body),
        3 => check::<ReserveQuotaRequest>(body),
        4 => check::<CommitReservationRequest>(body),
        5 => check::<ReleaseReservationRequest>(body),
        6 => check::<RechargeRequest>(body),
        7 => check::<RechargeCallbackRequest>(body),
        8 => check::<AdjustBalanceRequest>(body),
        9 => check::<SetUserLimitsRequest>(body),
        10 => check::<SetApiKeyQuotaRequest>(body),
        11 => check::<SetAccountStatusRequest>(body),
        12 => check::<InitializeUserRequest>(body),
        13 => check::<CountTokensRequest>(body),
        14 => check::<ListRecordsRequest>(body),
        _ => check_query::<ListRecordsRequest>(body),
    }
}

fn check<M: Message + Name + Default + Debug + Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(message) = read::<M>(body) else { return };
    serde_json::from_slice::<serde::de::IgnoredAny>(body).expect("an accepted body is JSON");
    // The encoded bytes are compared, because a NaN is not equal to itself.
    let encoded = message.encode_to_vec();
    let written = serde_json::to_value(&message).expect("every message can be written");
    // The generated writer has no text for numbers that are not finite. No reply has such a number.
    if !has_null(&written) {
        let again = read::<M>(written.to_string().as_bytes()).expect("every written message can be read");
        assert_eq!(again.encode_to_vec(), encoded, "{message:?} became {again:?}");
    }
    // The generated reader is more lenient. If it accepts the body too, both must read the same.
    if let Ok(generated) = serde_json::from_slice::<M>(body) {
        assert_eq!(generated.encode_to_vec(), encoded, "{message:?} or {generated:?}");
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

fn read<M: Name + DeserializeOwned>(body: &[u8]) -> Result<M, String> {
    let descriptor = json::descriptor::<M>().expect("every message has a descriptor");
    let read = json::message(body, descriptor, Fills::default(), None).map_err(|error| error.to_string())?;
    Ok(read.message)
}

fn check_query<M: Name + DeserializeOwned>(pair: &[u8]) {
    let Some((name, text)) = std::str::from_utf8(pair).ok().and_then(|pair| pair.split_once('=')) else { return };
    let descriptor = json::descriptor::<M>().expect("every message has a descriptor");
    let Ok(Some((field, value))) = json::parameter(&descriptor, name, text) else { return };
    assert!(descriptor.get_field_by_name(&field).is_some(), "{name:?} became {field:?}");
    if value != Value::Null {
        let _ = json::object::<M>(Map::from_iter([(field, value)]), descriptor, Fills::default());
    }
}
