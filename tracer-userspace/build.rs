//! Builds the eBPF programs, which the binary embeds, and the types of messages in streams and capture files.

use anyhow::Context as _;

/// What `tracer observe` writes, and what `tracer capture` puts beside packets. Compiled in this process: no protoc is
/// needed.
const STREAM: &str = "proto/stream.proto";
const CAPTURE: &str = "proto/capture.proto";
/// What `tracer agent` answers.
const AGENT: &str = "proto/agent.proto";

fn main() -> anyhow::Result<()> {
    let mut config = prost_build::Config::new();
    // Seldom, and twice as large as what is common.
    config.boxed(".tracer.stream.v1.Message.kind.drop").boxed(".tracer.capture.v1.Note.kind.drop");
    compile(STREAM, &mut config)?;
    compile(CAPTURE, config.extern_path(".tracer.stream.v1", "crate::stream::wire"))?;
    compile_service(AGENT)?;
    ebpf_build::build("tracer-ebpf", "tracer-ebpf")?;
    ebpf_build::build("tracer-ebpf", "tracer-entry")?;
    Ok(())
}

fn compile(proto: &str, config: &mut prost_build::Config) -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed={proto}");
    let files = protox::compile([proto], ["proto"]).with_context(|| format!("cannot compile {proto}"))?;
    config.compile_fds(files).with_context(|| format!("cannot make types from {proto}"))
}

fn compile_service(proto: &str) -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed={proto}");
    let files = protox::compile([proto], ["proto"]).with_context(|| format!("cannot compile {proto}"))?;
    tonic_prost_build::configure()
        .extern_path(".tracer.stream.v1", "crate::stream::wire")
        .compile_fds(files)
        .with_context(|| format!("cannot make a service from {proto}"))
}
