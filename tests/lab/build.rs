//! Builds the stand-in programs that the lab loads.

fn main() -> anyhow::Result<()> {
    ebpf_build::build("tracer-lab-ebpf", "tracer-lab-ebpf")?;
    ebpf_build::build("tracer-lab-ebpf", "tracer-lab-foreign")?;
    Ok(())
}
