//! Compiles `proto/` to Rust: messages and services (prost, tonic), the proto3 JSON form of the
//! billing contract (pbjson), and the descriptor set for gRPC reflection. protox takes the place of
//! protoc, so the build needs only the Rust toolchain.

use std::{env, error::Error, fs, path::PathBuf};

const RATE_LIMIT: &str = "envoy/service/ratelimit/v3/rls.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let billing = compile(&["billing/v1/billing.proto"])?;
    // Encoded by protox, because prost's types would drop the HTTP rules.
    let encoded = compile(&["billing/v1/billing.proto", RATE_LIMIT])?.encode_file_descriptor_set();
    fs::write(out.join("billing_descriptor.bin"), &encoded)?;

    tonic_prost_build::configure()
        .codec_path("crate::service::codec::BoundedCodec")
        // Required for the extern_path below; otherwise prost-types takes the path.
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::service::timestamp::Timestamp")
        .compile_fds_with_config(billing.file_descriptor_set(), named())?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .emit_fields()
        .ignore_unknown_fields()
        .build(&[".billing.v1"])?;

    // The packages of Envoy refer to each other, so they need the tree of modules of an include file.
    tonic_prost_build::configure()
        .codec_path("crate::service::codec::BoundedCodec")
        .include_file("envoy.rs")
        .compile_fds(compile(&[RATE_LIMIT])?.file_descriptor_set())?;

    // Compiled separately, because reflection must not list the services of payment-service.
    let payment = compile(&["payment/v1/payment.proto"])?;
    tonic_prost_build::configure().compile_fds(payment.file_descriptor_set())?;
    Ok(())
}

/// Messages that know their names: the JSON of a request is read by the descriptor of its
/// message.
fn named() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    config
}

fn compile(files: &[&str]) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    Ok(compiler)
}
