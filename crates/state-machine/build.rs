//! Compiles the commands and stored values.

use std::io;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/state.proto"], ["proto"]).map_err(io::Error::other)?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)
}
