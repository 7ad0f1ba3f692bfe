//! Compiles `proto/` to Rust: messages and services (prost, tonic), their proto3
//! JSON form (pbjson) and the descriptor set that reflection serves. protox is
//! the protoc, so a machine needs nothing but the Rust toolchain.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(["billing/v1/billing.proto"], ["proto"])?;
    let encoded = descriptors.encode_to_vec();
    fs::write(out.join("billing_descriptor.bin"), &encoded)?;

    tonic_prost_build::configure()
        // Without this the path below is taken already, by prost-types.
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::service::timestamp::Timestamp")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .emit_fields()
        .ignore_unknown_fields()
        .build(&[".billing.v1"])?;
    Ok(())
}
