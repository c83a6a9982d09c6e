//! What the chart gives: the plain manifests that are made from it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tracer_api_double::Rule;

/// The objects of `deploy/manifests/tracer.yaml`.
pub struct Chart {
    objects: Vec<Value>,
}

impl Chart {
    /// Reads it.
    ///
    /// # Errors
    /// It is not there, or not YAML.
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/tracer.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let documents = text.split("\n---").map(serde_saphyr::from_str::<Value>);
        let objects: Result<Vec<Value>, _> = documents.collect();
        Ok(Self { objects: objects.context("the manifests are no YAML")? })
    }

    /// Capabilities that the agent's container has, as `setpriv` takes them.
    ///
    /// # Errors
    /// There is no DaemonSet, or it does not drop all others.
    pub fn capabilities(&self) -> Result<String> {
        let daemon = self.object("DaemonSet", "tracer-agent")?;
        let of_it = &daemon["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"];
        anyhow::ensure!(of_it["drop"] == serde_json::json!(["ALL"]), "not all others are dropped");
        let names = of_it["add"].as_array().context("nothing is added")?;
        let names = names.iter().filter_map(Value::as_str).map(|name| format!(",+{}", name.to_lowercase()));
        Ok(format!("-all{}", names.collect::<String>()))
    }

    /// The rules of a Role or ClusterRole, in these namespaces; in all if there are none.
    ///
    /// # Errors
    /// There is no such role.
    pub fn rules(&self, kind: &str, name: &str, namespaces: &'static [&'static str]) -> Result<Vec<Rule>> {
        let role = self.object(kind, name)?;
        let mut rules = Vec::new();
        for rule in role["rules"].as_array().context("a role without rules")? {
            let group = match rule["apiGroups"][0].as_str() {
                None | Some("") => String::new(),
                Some(group) => format!(".{group}"),
            };
            let resources = words(&rule["resources"], |resource| match resource.split_once('/') {
                Some((resource, subresource)) => format!("{resource}{group}/{subresource}"),
                None => format!("{resource}{group}"),
            });
            rules.push(Rule { verbs: words(&rule["verbs"], ToOwned::to_owned), resources, namespaces });
        }
        Ok(rules)
    }

    fn object(&self, kind: &str, name: &str) -> Result<&Value> {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.objects.iter().find(is_it).with_context(|| format!("the chart has no {kind} {name}"))
    }
}

/// For as long as the test runs.
fn words(list: &Value, change: impl Fn(&str) -> String) -> &'static [&'static str] {
    let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.map(|word| &*change(word).leak()).collect::<Vec<_>>().leak()
}
