//! Programs that belong to neither tracer nor the topology: what another tool or a CNI might have attached.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::PerCpuArray;
use aya::programs::links::FdLink;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};

use crate::netns::Netns;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-lab-foreign"));

/// Which way packets pass a device, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// What to attach, and what it does with packets.
#[derive(Clone, Debug)]
pub struct Foreign {
    pub hook: ForeignHook,
    pub verdict: ForeignVerdict,
}

/// Where a foreign program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignHook {
    /// The tail of the TCX programs (Cilium since 1.16).
    TcxTail,
    /// A clsact filter at prio 1, handle 1 (Cilium's legacy loader).
    Clsact,
}

/// What a foreign program returns.
#[derive(Clone, Debug)]
pub enum ForeignVerdict {
    /// `TCX_NEXT`, and nothing else: not even a count.
    Next,
    /// `TC_ACT_OK`: the packet goes on, and no later program sees it.
    Ok,
    /// `TC_ACT_SHOT`.
    Drop,
    /// Packets to `destination` leave by `device` at once (`bpf_redirect_neigh`), past the node's stack; `OK` for
    /// all others.
    Redirect { destination: IpAddr, device: String },
}

/// An attached foreign program. Dropping it detaches it.
pub struct ForeignProgram {
    name: &'static str,
    id: u32,
    ebpf: Ebpf,
    netns: Netns,
    link: Option<Link>,
}

enum Link {
    Tcx { _link: FdLink },
    Clsact { _link: SchedClassifierLink },
}

impl ForeignProgram {
    /// The program is named like Cilium's: `cil_from_container` at ingress, `cil_to_container` at egress; `no_op` where
    /// it does nothing.
    pub(crate) fn attach(
        netns: &Netns,
        device: &str,
        direction: Direction,
        foreign: &Foreign,
    ) -> Result<Self> {
        let (action, destination, out) = match &foreign.verdict {
            ForeignVerdict::Next | ForeignVerdict::Ok => (0i32, [0u32; 4], 0),
            ForeignVerdict::Drop => (2, [0; 4], 0),
            ForeignVerdict::Redirect { destination, device } => {
                (7, address_words(*destination), netns.ifindex(device)?)
            }
        };
        let (name, hook) = match direction {
            Direction::Ingress => ("cil_from_container", TcAttachType::Ingress),
            Direction::Egress => ("cil_to_container", TcAttachType::Egress),
        };
        let name = if matches!(foreign.verdict, ForeignVerdict::Next) { "no_op" } else { name };
        let mut ebpf = EbpfLoader::new()
            .override_global("ACTION", &action, true)
            .override_global("REDIRECT_DESTINATION", &destination, true)
            .override_global("REDIRECT_IFINDEX", &out, true)
            .load(OBJECT)
            .context("cannot load the foreign program")?;
        let (id, link) =
            netns.run(|| attach_in_netns(&mut ebpf, name, device, hook, foreign.hook))?.with_context(
                || format!("cannot attach a foreign program to {device} {direction:?} of {}", netns.name()),
            )?;
        Ok(Self { name, id, ebpf, netns: netns.clone(), link: Some(link) })
    }

    /// The program's name, at full length.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
    }

    /// The kernel's id of the program.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many packets the program has seen.
    ///
    /// # Errors
    /// When its map cannot be read.
    pub fn packets(&self) -> Result<u64> {
        self.counter(0)
    }

    /// How many of them it redirected.
    ///
    /// # Errors
    /// When its map cannot be read.
    pub fn redirected(&self) -> Result<u64> {
        self.counter(1)
    }

    fn counter(&self, index: u32) -> Result<u64> {
        let map = self.ebpf.map("foreign_packets").context("the program has no map foreign_packets")?;
        let packets = PerCpuArray::<_, u64>::try_from(map)?;
        Ok(packets.get(&index, 0).context("cannot read foreign_packets")?.iter().sum())
    }
}

impl Drop for ForeignProgram {
    fn drop(&mut self) {
        // A clsact filter is removed by a netlink request, which must come from its own namespace. When that is
        // gone, so is the filter.
        let link = self.link.take();
        let _ = self.netns.run(move || drop(link));
    }
}

fn attach_in_netns(
    ebpf: &mut Ebpf,
    name: &str,
    device: &str,
    hook: TcAttachType,
    kind: ForeignHook,
) -> Result<(u32, Link)> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).context("the object lacks the program")?.try_into()?;
    program.load().context("the kernel refuses the program")?;
    let id = program.info()?.id();
    let options = match kind {
        ForeignHook::TcxTail => TcAttachOptions::TcxOrder(LinkOrder::last()),
        ForeignHook::Clsact => {
            match tc::qdisc_add_clsact(device) {
                Ok(()) => {}
                // Another program brought it.
                Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error).context("cannot add clsact"),
            }
            TcAttachOptions::Netlink(NlOptions { priority: 1, handle: TcHandle::new(0, 1), classid: None })
        }
    };
    let id_of_link = program.attach_with_options(device, hook, options)?;
    let link = program.take_link(id_of_link)?;
    let link = match kind {
        ForeignHook::TcxTail => Link::Tcx { _link: link.try_into()? },
        ForeignHook::Clsact => Link::Clsact { _link: link },
    };
    Ok((id, link))
}

/// The address as the program compares it: words in network order, IPv4 in the first.
fn address_words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [u32::from(address).to_be(), 0, 0, 0],
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            [96, 64, 32, 0].map(|shift: u32| ((bits >> shift) as u32).to_be())
        }
    }
}
