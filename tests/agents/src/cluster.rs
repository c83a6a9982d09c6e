//! The lab's objects in the double.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracer::serve::run::LISTEN;
use tracer_api_double::ApiDouble;
use tracer_integration::patient;
use tracer_lab::Lab;

use crate::SOON;
use crate::agent::Agent;

/// The resource as RBAC has it.
pub(crate) const TRACES: &str = "packettraces.tracer.dev";

/// See the module.
pub struct Cluster {
    pub api: ApiDouble,
    directory: TempDir,
}

impl Cluster {
    /// With everything that the lab has now.
    ///
    /// # Errors
    /// The double cannot be started.
    pub fn of(lab: &Lab) -> Result<Self> {
        let cluster = Self {
            api: ApiDouble::start()?,
            directory: tempfile::tempdir().context("cannot make a directory for kubeconfigs")?,
        };
        cluster.update(lab)?;
        Ok(cluster)
    }

    /// Makes it as the lab has become: pods that are gone are deleted.
    ///
    /// # Errors
    /// The lab's objects cannot be read.
    pub fn update(&self, lab: &Lab) -> Result<()> {
        let path = lab.write_inventory(self.directory.path())?;
        let list: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        let objects = list["items"].as_array().context("the lab's inventory is no list")?;
        let mut pods = BTreeSet::new();
        for object in objects {
            if object["kind"] == "Pod" {
                pods.insert(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
            self.api.put(object.clone())?;
        }
        for (namespace, name) in self.api.names("pods") {
            if namespace != "tracer-system" && !pods.contains(&name) {
                self.api.remove("pods", &namespace, &name);
            }
        }
        Ok(())
    }

    /// Says that a controller has made a pod, and how it is labelled.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn label(&self, pod: &str, owner: &Value, labels: Value) -> Result<()> {
        let mut object = self.api.get("pods", "default", pod).context("no such pod")?;
        object["metadata"]["ownerReferences"] = json!([owner]);
        object["metadata"]["labels"] = labels;
        self.api.put(object)
    }

    /// Makes an agent reachable as the DaemonSet's are: by a port-forward to its pod.
    ///
    /// # Errors
    /// The pod is none.
    pub fn publish(&self, agent: &Agent, node: &str) -> Result<()> {
        let name = format!("tracer-agent-{node}");
        self.api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "tracer-system", "labels": { "app.kubernetes.io/name": "tracer-agent" },
            },
            "spec": { "nodeName": node, "hostNetwork": true }, "status": { "phase": "Running" },
        }))?;
        self.api.forward("tracer-system", &name, LISTEN.port(), agent.address);
        Ok(())
    }

    /// A kubeconfig's file for a user.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(format!("{user}.kubeconfig"));
        self.api.write_kubeconfig(user, &path)?;
        Ok(path)
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until an agent says this of a trace; gives its message.
    ///
    /// # Errors
    /// It does not, in time.
    pub fn wait_for_state(&self, namespace: &str, name: &str, node: &str, state: &str) -> Result<String> {
        let deadline = Instant::now() + patient(SOON);
        loop {
            let trace = self.api.get(TRACES, namespace, name);
            let agent = trace.as_ref().map_or(&Value::Null, |trace| &trace["status"]["agents"][node]);
            if agent["state"] == state {
                return Ok(agent["message"].as_str().unwrap_or_default().to_owned());
            }
            if Instant::now() > deadline {
                bail!(
                    "the agent of {node} did not say {state} of {namespace}/{name}; the trace is {trace:?}"
                );
            }
            // sleep: looks again, with a deadline.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
