//! Builds the stand-ins for a CNI's eBPF programs, which the lab embeds.

fn main() -> anyhow::Result<()> {
    ebpf_build::build("tracer-lab-ebpf", "tracer-lab-ebpf").map(drop)
}
