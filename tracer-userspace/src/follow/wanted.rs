//! What was typed as a selection, and a selection as what each stage needs of it.

use std::sync::Arc;

use super::select::{End, EndKind, Followed, Request, Selection, select};
use crate::agent::filters::FollowFilter;
use crate::app::Failure;
use crate::cli::SelectionArgs;
use crate::inventory::Inventory;
use crate::trajectory::correlate::FollowScope;
use crate::trajectory::model::{PodRef, ServiceRef};

/// What the user asked for, in the inventory's terms.
pub(crate) fn resolve(inventory: &Inventory, args: &SelectionArgs) -> Result<Selection, Failure> {
    let request = Request {
        namespace: args.namespace.clone(),
        followed: match (&args.pod, &args.selector) {
            (_, Some(labels)) => Followed::Labelled(labels.clone()),
            (pod, None) => Followed::Named(pod.clone().unwrap_or_default()),
        },
        to: args.to.clone(),
        ports: args.ports.clone(),
        protocol: args.protocol.clone(),
    };
    select(inventory, &request).map_err(|error| {
        if error.is_usage() { Failure::Usage(error.to_string()) } else { Failure::Failed(error.to_string()) }
    })
}

pub(super) fn ends_of(selection: &Selection) -> impl Iterator<Item = &End> {
    [Some(&selection.a), selection.b.as_ref()].into_iter().flatten()
}

pub(super) fn pods_of(selection: &Selection) -> impl Iterator<Item = &Arc<PodRef>> {
    ends_of(selection).flat_map(|end| &end.pods)
}

/// The kernel's filter for a selection.
pub(super) fn filter_of(selection: &Selection) -> FollowFilter {
    let Selection { a, b, translated, protocol, ports, .. } = selection;
    FollowFilter {
        a: a.addresses.iter().chain(&translated.a).copied().collect(),
        b: b.as_ref().map(|end| end.addresses.iter().chain(&translated.b).copied().collect()),
        protocols: protocol.iter().copied().collect(),
        ports: ports.iter().chain(&translated.ports).copied().collect(),
        capture: None,
    }
}

/// What the correlator reports of what the kernel records: the kernel also takes what NAT may have rewritten.
pub(super) fn scope_of(selection: &Selection) -> FollowScope {
    FollowScope {
        a: selection.a.addresses.iter().copied().collect(),
        b: selection.b.as_ref().map(|end| end.addresses.iter().copied().collect()),
        ports: selection.ports.iter().copied().collect(),
        service: selection.b.as_ref().and_then(service_of),
    }
}

/// The Service that an end is, from its name `svc/NAMESPACE/NAME`.
fn service_of(end: &End) -> Option<ServiceRef> {
    let (namespace, name) = end.name.strip_prefix("svc/")?.split_once('/')?;
    (end.kind == EndKind::Service)
        .then(|| ServiceRef { namespace: namespace.to_owned(), name: name.to_owned() })
}
