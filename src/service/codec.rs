//! The codec of gRPC messages: that of tonic, with bounds. A large message is decoded beside the other
//! requests of its thread, within a number of members, and with its memory from the budget of its request.

use std::{fmt, marker::PhantomData};

use prost::{
    Message,
    bytes::Buf,
    encoding::{DecodeContext, decode_key, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

use super::body::{BodyBudget, MAX_INLINE, beside_worker_if};

/// Most members and items of a message: a chat to count has 10,000 messages.
const MAX_MEMBERS: usize = 20_000;
/// Most members of a message that is decoded on the thread of its request.
const MAX_INLINE_MEMBERS: usize = 256;
/// Bytes of a message that can't have more.
const FEW_BYTES: usize = 2 * MAX_INLINE_MEMBERS;
/// The memory of an item of a list, in bytes: the largest message that is an item has less.
const ITEM_BYTES: usize = 512;

pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(PhantomData)
    }
}

pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let is_large = buffer.remaining() > FEW_BYTES && check(buffer.chunk())?;
        beside_worker_if(is_large, || U::decode(buffer).map(Some).map_err(undecodable))
    }
}

/// Checks the bounds of a message before it is built. Returns whether it is large.
fn check(message: &[u8]) -> Result<bool, Status> {
    let members = members(message).map_err(undecodable)?;
    if members <= MAX_INLINE_MEMBERS && message.len() <= MAX_INLINE {
        return Ok(false);
    }
    if members > MAX_MEMBERS {
        return Err(Status::out_of_range(format!("has more than {MAX_MEMBERS} members and items")));
    }
    if BodyBudget::current().is_some_and(|budget| !budget.take(message.len() + members * ITEM_BYTES)) {
        return Err(Status::resource_exhausted("too many bodies are being read"));
    }
    Ok(true)
}

/// The members of a message, each item of a list on its own. Lists stand in the message itself alone.
fn members(mut message: &[u8]) -> Result<usize, prost::DecodeError> {
    let mut members = 0;
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message)?;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        members += 1;
    }
    Ok(members)
}

fn undecodable(error: impl fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::proto::{BatchDeductQuotaRequest, DeductQuotaRequest};

    fn batch(items: usize) -> Vec<u8> {
        BatchDeductQuotaRequest { items: vec![DeductQuotaRequest::default(); items] }.encode_to_vec()
    }

    #[test]
    fn a_message_has_a_bounded_number_of_items() {
        assert!(check(&batch(MAX_MEMBERS)).is_ok());
        assert_eq!(check(&batch(MAX_MEMBERS + 1)).unwrap_err().code(), tonic::Code::OutOfRange);
        assert_eq!(check(b"\x0a\x05ab").unwrap_err().code(), tonic::Code::Internal);
    }

    #[tokio::test]
    async fn a_message_takes_its_memory_from_the_budget_of_its_request() {
        let budget = BodyBudget::new(|bytes| bytes < 300 * ITEM_BYTES + 1_000);
        let checks = async {
            assert_eq!(check(&batch(100)).ok(), Some(false));
            assert_eq!(check(&batch(300)).ok(), Some(true));
            assert_eq!(check(&batch(1_000)).unwrap_err().code(), tonic::Code::ResourceExhausted);
        };
        BodyBudget::scope(Some(budget), checks).await;
    }
}
