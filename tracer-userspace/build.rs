//! Builds the eBPF programs, which the binary embeds.

fn main() -> anyhow::Result<()> {
    ebpf_build::build("tracer-ebpf", "tracer-ebpf")?;
    ebpf_build::build("tracer-ebpf", "tracer-entry")?;
    Ok(())
}
