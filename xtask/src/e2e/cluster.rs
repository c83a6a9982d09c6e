//! kubectl, helm and tracer against one cluster, and what is installed there.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::process;

/// Of the agents.
pub(super) const AGENTS: &str = "tracer-e2e-system";
/// Of the pods.
pub(super) const PODS: &str = "tracer-e2e";
/// Of the Service, whose pods listen on 80.
pub(super) const SERVICE_PORT: u16 = 8000;
const RELEASE: &str = "tracer-e2e";
const CHART: &str = "deploy/helm/tracer";
/// What the chart brings and helm does not remove.
const DEFINITIONS: [&str; 2] = ["packettraces.tracer.dev", "packetpayloads.tracer.dev"];
/// How long pods may take to be ready: images have to be pulled.
const READY: &str = "300s";

/// As the cluster's nodes pull them.
pub(super) struct Images {
    pub(super) agent: String,
    pub(super) client: String,
    pub(super) server: String,
}

/// See the module.
pub(super) struct Cluster {
    tracer: PathBuf,
    helm: PathBuf,
    images: Images,
}

impl Cluster {
    /// # Errors
    /// There is no kubectl, or no cluster answers.
    pub(super) fn new(tracer: &Path, helm: PathBuf, images: Images) -> Result<Self> {
        let cluster = Self { tracer: tracer.to_owned(), helm, images };
        let nodes = cluster.nodes().context(
            "no cluster answers: kubectl must be in the PATH, and KUBECONFIG or ~/.kube/config name a cluster of which you \
             are an administrator",
        )?;
        ensure!(!nodes.is_empty(), "the cluster has no node");
        eprintln!("e2e: the cluster has {} nodes: {}", nodes.len(), nodes.join(", "));
        Ok(cluster)
    }

    /// # Errors
    /// Something is there that the removal at the end would take away.
    pub(super) fn must_be_without_tracer(&self) -> Result<()> {
        for definition in DEFINITIONS {
            ensure!(
                !self.has(&["crd", definition])?,
                "the cluster has {definition} already: what e2e installs would disturb it, and to remove it would end what \
                 is followed (kubectl delete crd {definition}, if nobody needs it)"
            );
        }
        for namespace in [AGENTS, PODS] {
            ensure!(
                !self.has(&["namespace", namespace])?,
                "the cluster has the namespace {namespace}: remove what an earlier run has left with\n{}",
                self.how_to_remove()
            );
        }
        Ok(())
    }

    /// Names of all nodes.
    pub(super) fn nodes(&self) -> Result<Vec<String>> {
        let text = self.read(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// # Errors
    /// An agent does not become ready; with what its pods say.
    pub(super) fn install(&self) -> Result<()> {
        self.kubectl(&["create", "namespace", AGENTS])?;
        let label = "pod-security.kubernetes.io/enforce=privileged";
        self.kubectl(&["label", "namespace", AGENTS, label])?;
        let mut install = Command::new(&self.helm);
        install.current_dir(ebpf_build::workspace_root());
        install.args(["install", RELEASE, CHART, "--namespace", AGENTS]);
        for (value, text) in image_values(&self.images.agent) {
            install.arg("--set-string").arg(format!("{value}={text}"));
        }
        process::run(&mut install)?;
        let timeout = format!("--timeout={READY}");
        let ready = self.kubectl(&["rollout", "status", "daemonset/tracer-agent", "-n", AGENTS, &timeout]);
        if ready.is_err() {
            self.tell(&["describe", "pods", "-n", AGENTS]);
            self.tell(&["logs", "-n", AGENTS, "-l", "app.kubernetes.io/name=tracer-agent", "--tail=20"]);
        }
        ready
    }

    /// The pods of the walks, on two nodes where there are two.
    ///
    /// # Errors
    /// They do not become ready; with what they say.
    pub(super) fn start_pods(&self) -> Result<()> {
        self.kubectl(&["create", "namespace", PODS])?;
        self.apply(&pods(&self.images))?;
        let timeout = format!("--timeout={READY}");
        let ready = self.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "-n", PODS, &timeout]);
        if ready.is_err() {
            self.tell(&["describe", "pods", "-n", PODS]);
        }
        ready
    }

    /// A request from inside the pod `curl`.
    ///
    /// # Errors
    /// It is not answered.
    pub(super) fn curl(&self, url: &str) -> Result<()> {
        let arguments = ["exec", "-n", PODS, "curl", "--", "curl", "-sS", "-o", "/dev/null", "-m", "10", url];
        self.read(&arguments).map(drop)
    }

    /// A field of a pod.
    ///
    /// # Errors
    /// There is no such pod.
    pub(super) fn of_pod(&self, pod: &str, field: &str) -> Result<String> {
        self.read(&["get", "pod", pod, "-n", PODS, "-o", &format!("jsonpath={{{field}}}")])
    }

    /// A field of a Service.
    ///
    /// # Errors
    /// There is no such Service.
    pub(super) fn of_service(&self, service: &str, field: &str) -> Result<String> {
        self.read(&["get", "service", service, "-n", PODS, "-o", &format!("jsonpath={{{field}}}")])
    }

    /// `tracer COMMAND ARGUMENTS` for the cluster's pods.
    pub(super) fn tracer(&self, command: &str, arguments: &[&str]) -> Command {
        let mut tracer = Command::new(&self.tracer);
        tracer.arg(command).args(["--agents-namespace", AGENTS, "-n", PODS]).args(arguments);
        tracer
    }

    /// tracer itself, for what needs no cluster.
    pub(super) fn program(&self) -> &Path {
        &self.tracer
    }

    /// Takes away all that was installed; goes on where something fails.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn remove(&self) -> Result<()> {
        let mut uninstall = Command::new(&self.helm);
        uninstall.args(["uninstall", RELEASE, "--namespace", AGENTS, "--ignore-not-found", "--wait"]);
        let mut failed = Vec::new();
        let mut take = |result: Result<()>| failed.extend(result.err().map(|error| format!("{error:#}")));
        take(process::run(&mut uninstall));
        for namespace in [PODS, AGENTS] {
            take(self.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s"]));
        }
        for definition in DEFINITIONS {
            take(self.kubectl(&["delete", "crd", definition, "--ignore-not-found", "--timeout=60s"]));
        }
        if !failed.is_empty() {
            bail!(
                "not everything could be removed: {}; by hand:\n{}",
                failed.join("; "),
                self.how_to_remove()
            );
        }
        Ok(())
    }

    /// For people.
    pub(super) fn how_to_remove(&self) -> String {
        format!(
            "  {} uninstall {RELEASE} -n {AGENTS}\n  kubectl delete namespace {PODS} {AGENTS}\n  kubectl delete crd {}",
            self.helm.display(),
            DEFINITIONS.join(" ")
        )
    }

    fn has(&self, what: &[&str]) -> Result<bool> {
        Ok(!self.read(&[&["get"], what, &["--ignore-not-found", "-o", "name"]].concat())?.is_empty())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        process::run(Command::new("kubectl").args(arguments))
    }

    /// For people who look into a failure; what it says of itself is enough.
    fn tell(&self, arguments: &[&str]) {
        if let Err(error) = self.kubectl(arguments) {
            eprintln!("e2e: {error:#}");
        }
    }

    fn read(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = Command::new("kubectl");
        let output = kubectl.args(arguments).output().context("cannot start kubectl")?;
        if !output.status.success() {
            bail!("{}: {}", process::shown(&kubectl), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn apply(&self, objects: &Value) -> Result<()> {
        let mut apply = Command::new("kubectl");
        let mut child = apply
            .args(["apply", "-n", PODS, "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        child.stdin.take().context("no stdin")?.write_all(&serde_json::to_vec(objects)?)?;
        ensure!(child.wait()?.success(), "kubectl apply failed");
        Ok(())
    }
}

/// The chart's values for an image.
fn image_values(image: &str) -> Vec<(&'static str, &str)> {
    if let Some((repository, digest)) = image.split_once('@') {
        return vec![("image.repository", repository), ("image.digest", digest)];
    }
    // A colon before the last slash is a registry's port.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => {
            vec![("image.repository", repository), ("image.tag", tag)]
        }
        _ => vec![("image.repository", image)],
    }
}

/// `curl`, `httpbin` and its Service.
fn pods(images: &Images) -> Value {
    let pod = |name: &str, container: Value, spec: Value| {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": { "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false },
        });
        if let (Some(all), Some(more)) = (pod["spec"].as_object_mut(), spec.as_object()) {
            all.extend(more.clone());
        }
        pod["spec"]["containers"] = json!([container]);
        pod
    };
    let server = json!({ "name": "httpbin", "image": images.server, "imagePullPolicy": "IfNotPresent",
        "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 } });
    let client = json!({ "name": "curl", "image": images.client, "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "86400"] });
    // Apart if that can be had.
    let apart = json!({ "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "httpbin" } } },
    }] } } });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "httpbin" },
        "spec": { "selector": { "app": "httpbin" }, "ports": [{ "port": SERVICE_PORT, "targetPort": 80 }] },
    });
    let items = [pod("httpbin", server, json!({})), pod("curl", client, apart), service];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_tag_or_digest_and_a_registry_may_have_a_port() {
        for (image, values) in [
            ("tracer", vec![("image.repository", "tracer")]),
            ("localhost:5000/tracer", vec![("image.repository", "localhost:5000/tracer")]),
            (
                "quay.io/a/tracer:0.1.0",
                vec![("image.repository", "quay.io/a/tracer"), ("image.tag", "0.1.0")],
            ),
            ("a/tracer@sha256:00", vec![("image.repository", "a/tracer"), ("image.digest", "sha256:00")]),
        ] {
            assert_eq!(image_values(image), values, "{image}");
        }
    }
}
