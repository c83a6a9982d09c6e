//! Builds the programs that tracer is measured beside.

fn main() -> anyhow::Result<()> {
    ebpf_build::build("tracer-lab-ebpf", "tracer-lab-least")?;
    Ok(())
}
