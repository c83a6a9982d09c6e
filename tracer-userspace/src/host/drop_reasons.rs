//! What the running kernel's BTF says of the drops that it tells: the names of its reasons, and where the structures
//! keep what the program on drops reads. Both move from kernel to kernel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tracer_common::kernel::{KernelLayout, NO_ARGUMENT, NO_REASON};

use super::btf::{Btf, Types};
use super::kernel::{KERNEL_BTF, kernel_btf};

/// The tracepoint that tells of drops.
pub const TRACEPOINT: &str = "kfree_skb";
/// The kernel's enumeration of reasons.
pub(super) const REASONS: &str = "skb_drop_reason";
/// What its names begin with, mostly.
const PREFIX: &str = "SKB_DROP_REASON_";
/// The upper half of a reason: which part of the kernel has numbered it. Zero is the core, whose names are known.
const SUBSYSTEM_SHIFT: u32 = 16;

/// Why drops cannot be had of a kernel that has reasons.
#[derive(Debug, thiserror::Error)]
pub enum DropReasonsError {
    #[error("{KERNEL_BTF}: {0}")]
    Io(#[from] std::io::Error),
    #[error("{KERNEL_BTF} is not there or cannot be understood")]
    NoBtf,
    #[error("the kernel's BTF does not say where {what} is{}", hint(*.unknown_kind))]
    Missing { what: String, unknown_kind: Option<u32> },
}

fn hint(unknown_kind: Option<u32>) -> String {
    unknown_kind.map_or_else(String::new, |kind| {
        format!(" (it has types of kind {kind}, which this tracer does not know, so that it cannot read on)")
    })
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropReasons {
    pub layout: KernelLayout,
    names: HashMap<u32, Arc<str>>,
}

impl DropReasons {
    /// Of the running kernel.
    ///
    /// # Errors
    /// [`DropReasonsError`].
    pub fn of_this_kernel() -> Result<Self, DropReasonsError> {
        let bytes = kernel_btf(Path::new(KERNEL_BTF))?.ok_or(DropReasonsError::NoBtf)?;
        let btf = Btf::read(&bytes).ok_or(DropReasonsError::NoBtf)?;
        Self::from_types(&Types::of(&btf))
    }

    fn from_types(types: &Types<'_>) -> Result<Self, DropReasonsError> {
        let missing = |what: String| DropReasonsError::Missing { what, unknown_kind: types.unknown_kind() };
        let offset = |structure: &str, path: &[&str]| {
            types
                .member_offset(structure, path)
                .ok_or_else(|| missing(format!("{} in struct {structure}", path.join("."))))
        };
        let enumerators = types.enumerators(REASONS).ok_or_else(|| missing(format!("enum {REASONS}")))?;
        let number = |name: &str| {
            enumerators.iter().find(|(_, known)| known == name).map_or(NO_REASON, |(number, _)| *number)
        };
        let reason_argument = types
            .tracepoint_argument(TRACEPOINT, REASONS)
            .and_then(|place| u32::try_from(place).ok())
            .ok_or_else(|| missing(format!("the reason among the arguments of {TRACEPOINT}")))?;
        let socket_argument = types
            .tracepoint_pointer(TRACEPOINT, "sock")
            .and_then(|place| u32::try_from(place).ok())
            .unwrap_or(NO_ARGUMENT);
        let layout = KernelLayout {
            skb_head: offset("sk_buff", &["head"])?,
            skb_tail: offset("sk_buff", &["tail"])?,
            skb_end: offset("sk_buff", &["end"])?,
            skb_data_len: offset("sk_buff", &["data_len"])?,
            skb_network_header: offset("sk_buff", &["network_header"])?,
            skb_dev: offset("sk_buff", &["dev"])?,
            skb_sk: offset("sk_buff", &["sk"])?,
            skb_refdst: offset("sk_buff", &["_skb_refdst"])?,
            shared_gso_size: offset("skb_shared_info", &["gso_size"])?,
            shared_gso_segs: offset("skb_shared_info", &["gso_segs"])?,
            device_ifindex: offset("net_device", &["ifindex"])?,
            device_net: offset("net_device", &["nd_net", "net"])?,
            route_dev: offset("dst_entry", &["dev"])?,
            sock_net: offset("sock", &["__sk_common", "skc_net", "net"])?,
            net_inum: offset("net", &["ns", "inum"])?,
            reason_argument,
            socket_argument,
            reason_not_dropped: number("SKB_NOT_DROPPED_YET"),
            reason_consumed: number("SKB_CONSUMED"),
        };
        Ok(Self { layout, names: names(enumerators) })
    }

    /// The kernel's name of a reason without its prefix, such as `NETFILTER_DROP`; `REASON_n` for a number that this
    /// kernel's own BTF has no name for, as a module's are.
    #[must_use]
    pub fn name(&self, reason: u32) -> Arc<str> {
        self.names.get(&reason).cloned().unwrap_or_else(|| format!("REASON_{reason}").into())
    }
}

fn names(enumerators: Vec<(u32, String)>) -> HashMap<u32, Arc<str>> {
    let is_reason = |number: u32, name: &str| number >> SUBSYSTEM_SHIFT == 0 && name != "SKB_DROP_REASON_MAX";
    enumerators
        .into_iter()
        .filter(|(number, name)| is_reason(*number, name))
        .map(|(number, name)| {
            let name = name.strip_prefix(PREFIX).unwrap_or(&name);
            (number, name.strip_prefix("SKB_").unwrap_or(name).into())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::kernel::has_drop_reasons;

    fn owned(pairs: &[(u32, &str)]) -> Vec<(u32, String)> {
        pairs.iter().map(|(number, name)| (*number, (*name).to_owned())).collect()
    }

    fn reasons(pairs: &[(u32, &str)]) -> DropReasons {
        DropReasons { layout: KernelLayout::default(), names: names(owned(pairs)) }
    }

    impl DropReasons {
        /// Of a kernel that another test makes up: numbers and names without prefix.
        pub(crate) fn made_up(pairs: &[(u32, &str)]) -> Self {
            reasons(pairs)
        }
    }

    #[test]
    fn a_reason_has_the_kernels_name_without_its_prefix() {
        let reasons = reasons(&[(2, "SKB_DROP_REASON_NOT_SPECIFIED"), (9, "SKB_DROP_REASON_NETFILTER_DROP")]);
        assert_eq!(&*reasons.name(9), "NETFILTER_DROP");
        assert_eq!(&*reasons.name(2), "NOT_SPECIFIED");
    }

    #[test]
    fn what_only_ends_or_masks_the_enumeration_is_no_reasons_name() {
        let reasons = reasons(&[(130, "SKB_DROP_REASON_MAX"), (0xffff_0000, "SKB_DROP_REASON_SUBSYS_MASK")]);
        assert_eq!(&*reasons.name(130), "REASON_130");
        assert_eq!(&*reasons.name(0xffff_0000), "REASON_4294901760");
        assert_eq!(&*reasons.name(3 << 16 | 1), "REASON_196609");
    }

    #[test]
    fn this_kernel_where_it_has_reasons_names_the_usual_ones() {
        let bytes = kernel_btf(Path::new(KERNEL_BTF)).unwrap().unwrap_or_default();
        if !has_drop_reasons(&bytes) {
            return;
        }
        let reasons = DropReasons::of_this_kernel().unwrap();
        let names: Vec<&str> = reasons.names.values().map(|name| &**name).collect();
        assert!(names.contains(&"NETFILTER_DROP"), "{names:?}");
        assert!(names.contains(&"NO_SOCKET"), "{names:?}");
        let argument = reasons.layout.socket_argument;
        assert!(argument == NO_ARGUMENT || argument == 3, "{argument}");
    }

    #[test]
    fn what_the_btf_does_not_say_is_named_with_the_reason_why() {
        let error =
            DropReasonsError::Missing { what: "head in struct sk_buff".to_owned(), unknown_kind: Some(23) };
        assert_eq!(
            error.to_string(),
            "the kernel's BTF does not say where head in struct sk_buff is (it has types of kind 23, which this tracer \
             does not know, so that it cannot read on)"
        );
    }
}
