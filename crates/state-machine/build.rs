//! Compiles the commands and stored values.

use std::io;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/state.proto"], ["proto"]).map_err(io::Error::other)?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // What few invocations have must not make every command and message larger.
    for rare in [
        "Invoke.flow",
        "Invoke.trace",
        "Invoke.invoked_by_target",
        "Invoke.producer",
        "Invocation.flow",
        "Invocation.trace",
        "Invocation.invoked_by_target",
        "Invocation.last_failure",
        "Operate.deployment",
        "Operate.last_failure",
    ] {
        config.boxed(format!(".abide.state.{rare}"));
    }
    config.compile_fds(files)
}
