//! Requests at the byte level: members of JSON, types and encodings of bodies, and gRPC on HTTP/1.1.

mod bodies;
mod grpc;
mod members;

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
