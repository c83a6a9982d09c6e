//! Connecting to a cluster as kubectl does, single objects, and what a refusal means to an operator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tracer_manifest::{Kind, Object};

use crate::app::Failure;

/// How long a connection to the API server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster, and as whom: as kubectl's flags of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

/// A cluster that can be asked. Nothing has been asked yet.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// The context's namespace, or "default".
    pub namespace: String,
    /// For messages.
    pub server: String,
}

impl Cluster {
    /// From the kubeconfig that is named, `KUBECONFIG`, `~/.kube/config`, or in a pod its service account.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub async fn connect(access: &Access) -> Result<Self, Failure> {
        let mut config = load(access).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let (namespace, server) = (config.default_namespace.clone(), config.cluster_url.to_string());
        let client = Client::try_from(config).map_err(|error| {
            Failure::Failed(format!("cannot use the cluster {server}: {}", chain(&error)))
        })?;
        Ok(Self { client, namespace, server })
    }
}

async fn load(access: &Access) -> Result<Config, Failure> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let unusable = |path: Option<&Path>, error: &dyn std::error::Error| {
        let place = path.map_or_else(|| "the kubeconfig".to_owned(), |path| path.display().to_string());
        Failure::Failed(format!("cannot use {place}: {}; does kubectl work with it?", chain(error)))
    };
    if let Some(path) = &access.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(Some(path), &error))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        return config.map_err(|error| unusable(Some(path), &error));
    }
    if access.context.is_some() {
        return Config::from_kubeconfig(&options).await.map_err(|error| unusable(None, &error));
    }
    Config::infer().await.map_err(|error| {
        Failure::Failed(format!(
            "no cluster to ask: {}; give --kubeconfig, set KUBECONFIG, or run in a pod with a service account",
            chain(&error)
        ))
    })
}

/// What was tried, for the message when it fails.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// As RBAC has it: get, list, watch, create, patch, delete.
    pub verb: &'a str,
    /// As RBAC has it: "pods", "packettraces.tracer.dev", "pods/portforward".
    pub resource: &'a str,
    /// `None`: in all of them, or it has none.
    pub namespace: Option<&'a str>,
}

impl Attempt<'_> {
    /// That it may not be done, with the line that proves it.
    #[must_use]
    pub fn forbidden(&self) -> String {
        let Self { verb, resource, namespace } = self;
        let flag = namespace.map_or_else(|| "-A".to_owned(), |namespace| format!("-n {namespace}"));
        format!(
            "you may not {verb} {resource} {} (kubectl auth can-i {verb} {resource} {flag})",
            self.place()
        )
    }

    fn place(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("in namespace {namespace}"),
            None => "in the whole cluster".to_owned(),
        }
    }

    /// A failed attempt for an operator: for a lack of rights with the line that proves it.
    #[must_use]
    pub fn explain(&self, error: &kube::Error) -> String {
        let Self { verb, resource, .. } = self;
        let place = self.place();
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                format!("{}: {}", self.forbidden(), status.message)
            }
            kube::Error::Api(status) if status.code == 401 => format!(
                "the API server does not know who you are: {}; has your login expired?",
                status.message
            ),
            error => format!("cannot {verb} {resource} {place}: {}", chain(error)),
        }
    }
}

/// Gives an object; `None` if there is none of this name.
///
/// # Errors
/// What the API server says.
pub async fn get(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Object>, kube::Error> {
    let resource = resource_of(kind);
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = api.get_opt(name).await?;
    found.map(|object| read(kind, &object)).transpose().map_err(kube::Error::SerdeError)
}

/// How the API server calls a kind.
#[must_use]
pub fn resource_of(kind: Kind) -> ApiResource {
    match kind {
        Kind::Pod => ApiResource::erase::<core::Pod>(&()),
        Kind::Service => ApiResource::erase::<core::Service>(&()),
        Kind::EndpointSlice => ApiResource::erase::<discovery::EndpointSlice>(&()),
        Kind::Node => ApiResource::erase::<core::Node>(&()),
    }
}

/// What tracer reads of an object.
pub(super) fn read(kind: Kind, object: &DynamicObject) -> Result<Object, serde_json::Error> {
    Object::from_json(kind, serde_json::to_value(object)?)
}

/// An error with all its causes, of which one often says what the others only wrap.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_lack_of_rights_names_verb_resource_and_namespace_and_the_command_that_proves_it() {
        let status = Status::failure("packettraces.tracer.dev is forbidden", "Forbidden").with_code(403);
        let error = kube::Error::Api(status.boxed());
        let attempt =
            Attempt { verb: "create", resource: "packettraces.tracer.dev", namespace: Some("shop") };
        let said = attempt.explain(&error);
        assert!(said.starts_with("you may not create packettraces.tracer.dev in namespace shop"), "{said}");
        assert!(said.contains("kubectl auth can-i create packettraces.tracer.dev -n shop"), "{said}");
        let everywhere = Attempt { namespace: None, ..attempt }.explain(&error);
        assert!(everywhere.contains("can-i create packettraces.tracer.dev -A"), "{everywhere}");
    }
}
