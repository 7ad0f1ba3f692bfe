//! Frames of HTTP/2 by hand, so that they may be broken.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    damage::{damage, happens, noise, one_of},
    request::Request,
};
use crate::harness::caller::Dice;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Types of frames, the last two of which no version has.
const TYPES: usize = 12;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// A connection with a request, and something that the protocol does not allow.
pub fn broken(dice: &mut Dice, request: &Request) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut head = head(dice, request);
    match dice.below(8) {
        0 => bytes.extend(noise(dice, 400)),
        1 => {
            damage(dice, &mut head);
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
        }
        2 => {
            let (first, rest) = head.split_at(dice.below(head.len()));
            bytes.extend(frame(HEADERS, 0, 1, first));
            // A continuation of another stream, or too early an end.
            bytes.extend(frame(CONTINUATION, END_HEADERS, one_of(dice, &[&1_u32, &3, &0]).to_owned(), rest));
        }
        3 => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &head));
            bytes.extend(frame(
                DATA,
                END_STREAM | PADDED,
                1,
                &[&[255], &request.body[..request.body.len().min(20)]].concat(),
            ));
        }
        4 => {
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &head));
            let window = one_of(dice, &[&0_u32, &0x7fff_ffff]).to_be_bytes();
            bytes.extend(frame(WINDOW_UPDATE, 0, dice.below(2) as u32, &window));
            bytes.extend(frame(DATA, END_STREAM, 1, &request.body[..request.body.len().min(16_000)]));
        }
        5 => {
            for stream in 0..dice.below(50) as u32 {
                bytes.extend(frame(HEADERS, END_HEADERS, 2 * stream + 1, &head));
                bytes.extend(frame(RST_STREAM, 0, 2 * stream + 1, &[0, 0, 0, 8]));
            }
        }
        6 => {
            let kind = one_of(dice, &[&SETTINGS, &PING, &GOAWAY, &RST_STREAM, &DATA]).to_owned();
            let (flags, stream) = (dice.below(256) as u8, dice.below(4) as u32);
            bytes.extend(frame(kind, flags, stream, &noise(dice, 30)));
        }
        _ => {
            for _ in 0..dice.below(20) {
                let (kind, flags, stream) = (dice.below(TYPES) as u8, dice.below(256) as u8, dice.below(8) as u32);
                let payload = if happens(dice, 50) { head.clone() } else { noise(dice, 60) };
                bytes.extend(frame(kind, flags, stream, &payload));
            }
        }
    }
    if happens(dice, 10) {
        damage(dice, &mut bytes);
    }
    bytes
}

/// The header block of a request, sometimes with pseudo-headers that are missing, doubled or late.
fn head(dice: &mut Dice, request: &Request) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        (":method", request.method.as_bytes()),
        (":scheme", b"http"),
        (":authority", b"b"),
        (":path", request.path.as_bytes()),
    ];
    fields.extend(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
    match dice.below(6) {
        0 => drop(fields.remove(dice.below(4))),
        1 => fields.push(fields[dice.below(4)]),
        2 => fields.push(("connection", b"close")),
        3 => fields.push(("X-Upper", b"x")),
        4 => fields.push((":unknown", b"x")),
        _ => fields.push(("x", b"a\r\nb\0")),
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal without indexing, with a new name.
        block.push(0);
        text(name.as_bytes(), &mut block);
        text(value, &mut block);
    }
    // One frame has 16,384 bytes at the most.
    block.truncate(16_000);
    block
}

/// A text of HPACK: its length in seven bits and more, and its bytes.
fn text(bytes: &[u8], block: &mut Vec<u8>) {
    const SEVEN_BITS: usize = 127;
    if bytes.len() < SEVEN_BITS {
        block.push(bytes.len() as u8);
    } else {
        block.push(SEVEN_BITS as u8);
        let mut rest = bytes.len() - SEVEN_BITS;
        while rest >= 128 {
            block.push(rest as u8 | 128);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend(bytes);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Writes the bytes, and reads until the server closes.
pub async fn send(addr: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The server may close while it is still being written to.
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.shutdown().await;
    }
    let mut answer = [0; 4_096];
    while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
}
