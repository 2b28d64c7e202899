//! Compiles the wire messages.

use std::io;

fn main() -> io::Result<()> {
    let file = "proto/service_protocol.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["proto"]).map_err(io::Error::other)?;
    // Payloads and keys are passed on as they came: a field of bytes is a slice of the frame.
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)
}
