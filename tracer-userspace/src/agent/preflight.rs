//! Whether this process may and this kernel can, before anything is touched.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::host::kernel::{Feature, Kernel};

/// A capability that we need: number in `linux/capability.h`, name, what for.
struct Capability {
    bit: u32,
    name: &'static str,
    purpose: &'static str,
}

const NET_ADMIN: Capability =
    Capability { bit: 12, name: "CAP_NET_ADMIN", purpose: "to attach programs to devices" };
const SYS_ADMIN: Capability = Capability {
    bit: 21,
    name: "CAP_SYS_ADMIN",
    purpose: "to enter the network namespaces of pods and to load eBPF programs",
};
/// Only by their processes are containers' namespaces found, and others' may be looked at with this alone.
const SYS_PTRACE: Capability = Capability {
    bit: 19,
    name: "CAP_SYS_PTRACE",
    purpose: "to find the network namespaces of pods by their processes",
};

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "missing {}: run as root (sudo), or give the process these capabilities", missing.join(" and ")
    )]
    Capabilities { missing: Vec<String> },
    #[error(
        "kernel {release} has no BPF ring buffer (it came with Linux 5.8): tracer cannot run here; \
         use a node with a newer kernel"
    )]
    NoRingBuffer { release: String },
    #[error("cannot tell what this kernel offers: {0}")]
    Probe(String),
}

/// Checks capabilities and kernel; gives what the kernel can do.
///
/// # Errors
/// [`PreflightError`] when tracer cannot work at all.
pub fn check() -> Result<Kernel, PreflightError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| PreflightError::Probe(format!("/proc/self/status: {error}")))?;
    let missing = missing_capabilities(effective_capabilities(&status).unwrap_or(0));
    if !missing.is_empty() {
        return Err(PreflightError::Capabilities { missing });
    }
    raise_limits();
    let kernel =
        Kernel::probe().map_err(|error| PreflightError::Probe(super::programs::source_chain(&error)))?;
    if !kernel.has(Feature::RingBuffer) {
        return Err(PreflightError::NoRingBuffer { release: kernel.release });
    }
    Ok(kernel)
}

fn missing_capabilities(effective: u64) -> Vec<String> {
    [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]
        .iter()
        .filter(|capability| effective & (1 << capability.bit) == 0)
        .map(|capability| format!("{} ({})", capability.name, capability.purpose))
        .collect()
}

/// The mask behind `CapEff:` in `/proc/<pid>/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Before Linux 5.11 maps count against RLIMIT_MEMLOCK, whose default is too small for a ring buffer. Descriptors
/// are needed by the dozen for each namespace. Where a limit may not be raised and is needed, what fails says so.
fn raise_limits() {
    let unlimited = Rlimit { current: None, maximum: None };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let descriptors = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named_with_its_purpose() {
        let missing = missing_capabilities(1 << NET_ADMIN.bit | 1 << SYS_PTRACE.bit);
        assert_eq!(missing.len(), 1);
        assert!(missing[0].starts_with("CAP_SYS_ADMIN (to enter"), "{missing:?}");
        assert!(missing_capabilities(u64::MAX).is_empty());
    }

    #[test]
    fn the_effective_set_is_read_from_the_status_file() {
        let status = "Name:\ttracer\nCapInh:\t0000000000000000\nCapEff:\t0000000000201000\n";
        assert_eq!(effective_capabilities(status), Some(0x20_1000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
