//! Builds the eBPF programs, which the binary embeds, and the types of the stream's messages.

use anyhow::Context as _;

/// What `tracer observe` writes. Compiled in this process: no protoc is needed.
const PROTO: &str = "proto/stream.proto";

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"]).with_context(|| format!("cannot compile {PROTO}"))?;
    prost_build::compile_fds(files).with_context(|| format!("cannot make types from {PROTO}"))?;
    ebpf_build::build("tracer-ebpf", "tracer-ebpf")?;
    ebpf_build::build("tracer-ebpf", "tracer-entry")?;
    Ok(())
}
