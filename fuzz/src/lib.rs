//! The bodies of the fuzz targets, one module for each. A body calls public functions of the service with the
//! bytes of the fuzzer, and panics if a promise is broken.
//!
//! The integration tests include these modules with `#[path]` and run them on `fuzz/corpus`.

pub mod config;
pub mod csv_field;
pub mod go_dsn;
pub mod grpc_frames;
pub mod json_body;
pub mod jwt;
pub mod page_token;
pub mod signature;
