//! What the running kernel can do, found by asking it: versions say little, distributions add and leave out.

use std::fmt;
use std::io;
use std::path::Path;

use aya::maps::MapType;
use aya::sys::{SyscallError, is_map_supported};
use serde::ser::{Serialize, SerializeMap, Serializer};
use thiserror::Error;

use super::bpf;
use super::btf::{Btf, Types};
use super::drop_reasons;

/// Where the kernel shows its types.
pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What tracer uses where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    RingBuffer,
    /// The kernel's own types, in [`KERNEL_BTF`].
    KernelBtf,
    /// The kernel says why it drops a packet: a reason among the arguments of the tracepoint `kfree_skb`.
    DropReasons,
    Tcx,
    /// The pairs of devices that run programs where a packet is transmitted into them.
    Netkit,
}

impl Feature {
    pub const ALL: [Self; 5] =
        [Self::RingBuffer, Self::KernelBtf, Self::DropReasons, Self::Tcx, Self::Netkit];

    /// As JSON names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RingBuffer => "ring_buffer",
            Self::KernelBtf => "kernel_btf",
            Self::DropReasons => "drop_reasons",
            Self::Tcx => "tcx",
            Self::Netkit => "netkit",
        }
    }

    /// What its absence means for a user, as one line: what, since when, which consequence, what to do.
    #[must_use]
    pub const fn absence(self) -> &'static str {
        match self {
            Self::RingBuffer => {
                "no BPF ring buffer (Linux 5.8): tracer cannot run here; use a node with a newer kernel"
            }
            Self::KernelBtf => {
                "no BTF (/sys/kernel/btf/vmlinux is missing): packets are followed without it, but the kernel's drop \
                 reasons cannot be read; use a kernel built with CONFIG_DEBUG_INFO_BTF, as distributions' are"
            }
            Self::DropReasons => {
                "no drop reasons (Linux 5.17): the kernel does not tell why it drops a packet; look at the counters \
                 of the place behind the last hop (nstat, nft, iptables -L -v)"
            }
            Self::Tcx => {
                "no TCX (Linux 6.6): legacy clsact filters are used; adding a clsact qdisc to a device can cost a \
                 packet, and what a killed tracer leaves is removed by the next start only"
            }
            Self::Netkit => {
                "no netkit (Linux 6.7, CONFIG_NETKIT): nothing is missed, for no pod can have such a device here"
            }
        }
    }
}

/// The running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Such as `6.12.95`.
    pub release: String,
    /// By place in [`Feature::ALL`].
    features: [bool; Feature::ALL.len()],
}

/// What could not be found out.
#[derive(Debug, Error)]
pub enum KernelError {
    #[error("whether it has the BPF ring buffer")]
    Map(#[from] SyscallError),
    #[error("whether it has {}: {source}", what.name())]
    Attach { what: Feature, source: io::Error },
}

impl Kernel {
    /// Asks the running kernel.
    ///
    /// # Errors
    /// [`KernelError`], for instance without the capability to ask.
    pub fn probe() -> Result<Self, KernelError> {
        // Only what is said depends on it: not to be allowed to read it is no reason to stop.
        let btf = kernel_btf(Path::new(KERNEL_BTF)).unwrap_or_else(|error| {
            tracing::warn!("{KERNEL_BTF}: {error}; counts as not there");
            None
        });
        let mut kernel = Self { release: release(), features: Default::default() };
        for (has, feature) in kernel.features.iter_mut().zip(Feature::ALL) {
            let knows = |attach_type| {
                bpf::knows(attach_type).map_err(|source| KernelError::Attach { what: feature, source })
            };
            *has = match feature {
                Feature::RingBuffer => is_map_supported(MapType::RingBuf)?,
                Feature::KernelBtf => btf.is_some(),
                Feature::DropReasons => btf.as_deref().is_some_and(has_drop_reasons),
                Feature::Tcx => knows(bpf::TCX_INGRESS)?,
                Feature::Netkit => knows(bpf::NETKIT_PEER)?,
            };
        }
        Ok(kernel)
    }

    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        Feature::ALL.into_iter().zip(self.features).any(|(one, has)| one == feature && has)
    }

    /// What it has not.
    pub fn lacks(&self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().zip(self.features).filter(|(_, has)| !has).map(|(feature, _)| feature)
    }
}

/// For people: the release, and a line for each absence.
impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.release)?;
        if self.lacks().next().is_none() {
            return write!(f, " has all that tracer uses");
        }
        self.lacks().try_for_each(|feature| write!(f, "\n  {}", feature.absence()))
    }
}

/// For machines: `release`, and each feature's name with true or false.
impl Serialize for Kernel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.features.len()))?;
        map.serialize_entry("release", &self.release)?;
        for (feature, has) in Feature::ALL.into_iter().zip(self.features) {
            map.serialize_entry(feature.name(), &has)?;
        }
        map.end()
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `None` if the kernel was built without.
pub(super) fn kernel_btf(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn has_drop_reasons(btf: &[u8]) -> bool {
    let Some(btf) = Btf::read(btf) else { return false };
    let types = Types::of(&btf);
    let has = types.tracepoint_argument(drop_reasons::TRACEPOINT, drop_reasons::REASONS).is_some();
    if let (false, Some(kind)) = (has, types.unknown_kind()) {
        tracing::warn!(
            "{KERNEL_BTF} has types of kind {kind}, which this tracer does not know, and cannot be read on from there: \
             drop reasons count as not there, but the kernel may have them; use a newer tracer"
        );
    }
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Kernel {
        /// A kernel that another test makes up.
        pub(crate) fn made_up(release: &str, has: impl Fn(Feature) -> bool) -> Self {
            Self { release: release.to_owned(), features: Feature::ALL.map(has) }
        }
    }

    fn kernel(has: impl Fn(Feature) -> bool) -> Kernel {
        Kernel::made_up("5.10.223", has)
    }

    #[test]
    fn text_has_a_line_for_each_absence_and_none_for_what_is_there() {
        let old = kernel(|feature| !matches!(feature, Feature::Tcx | Feature::DropReasons));
        let text = old.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "kernel 5.10.223");
        assert!(lines[1].starts_with("  no drop reasons (Linux 5.17): "), "{text}");
        assert!(lines[2].starts_with("  no TCX (Linux 6.6): legacy clsact filters are used"), "{text}");
        assert_eq!(kernel(|_| true).to_string(), "kernel 5.10.223 has all that tracer uses");
    }

    #[test]
    fn json_names_every_feature() {
        let json = serde_json::to_value(kernel(|feature| feature == Feature::RingBuffer)).unwrap();
        let expected = serde_json::json!({
            "release": "5.10.223", "ring_buffer": true, "kernel_btf": false, "drop_reasons": false,
            "tcx": false, "netkit": false,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_kernel_without_btf_is_no_error() {
        assert_eq!(kernel_btf(Path::new("/nonexistent/btf")).unwrap(), None);
        assert!(!has_drop_reasons(b""));
    }
}
