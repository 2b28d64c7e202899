//! The generated messages and gRPC services, one module per file in `proto/`.

#![allow(
    missing_docs,
    clippy::all,
    reason = "generated; the .proto files carry the documentation"
)]

include!(concat!(env!("OUT_DIR"), "/protos.rs"));

pub use abide::*;
