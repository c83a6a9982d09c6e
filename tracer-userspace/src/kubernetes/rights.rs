//! What people need to be allowed, as RBAC has it: the roles of the chart give it, `tracer doctor` asks for it.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};

use super::cluster::Attempt;

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In all namespaces: names are not only the followed pod's.
    Cluster,
    /// In the followed pod's namespace.
    Followed,
    /// In the agents' namespace.
    Agents,
}

/// What a right is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Follow,
    /// `tracer capture --snaplen BYTES`.
    Payload,
}

/// A right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    pub verb: &'static str,
    /// "pods", "pods/portforward", "packettraces.tracer.dev".
    pub resource: &'static str,
    pub place: Place,
    pub purpose: Purpose,
}

/// All that people need.
pub fn of_people() -> impl Iterator<Item = Right> {
    const NAMES: [&str; 4] = ["pods", "services", "nodes", "endpointslices.discovery.k8s.io"];
    let right = |verb, resource, place, purpose| Right { verb, resource, place, purpose };
    let names = NAMES.into_iter().flat_map(move |resource| {
        ["list", "watch"].map(|verb| right(verb, resource, Place::Cluster, Purpose::Follow))
    });
    let traces = ["create", "patch", "delete"]
        .map(|verb| right(verb, "packettraces.tracer.dev", Place::Followed, Purpose::Follow));
    let agents = [
        right("list", "pods", Place::Agents, Purpose::Follow),
        // By WebSocket it begins as a GET, by SPDY as a POST.
        right("get", "pods/portforward", Place::Agents, Purpose::Follow),
        right("create", "pods/portforward", Place::Agents, Purpose::Follow),
        right("create", "packetpayloads.tracer.dev", Place::Followed, Purpose::Payload),
    ];
    names.chain(traces).chain(agents)
}

/// Whether whoever asks may do it.
///
/// # Errors
/// The API server does not say.
pub async fn may(client: &Client, attempt: Attempt<'_>) -> Result<bool, kube::Error> {
    let (resource, subresource) = match attempt.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (attempt.resource, None),
    };
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: attempt.namespace.map(ToOwned::to_owned),
                verb: Some(attempt.verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource,
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let reviewed = api.create(&PostParams::default(), &review).await?;
    Ok(reviewed.status.is_some_and(|status| status.allowed))
}
