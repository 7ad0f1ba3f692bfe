//! The generated messages and services of `proto/payment/v1`.

#![allow(clippy::all, missing_docs, reason = "generated code; its lints depend on the generators")]
tonic::include_proto!("payment.v1");
