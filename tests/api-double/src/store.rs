//! Objects, their versions, and the history of changes. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

/// Kinds that there are: apiVersion, kind, resource as RBAC has it, whether it is in namespaces.
const KINDS: [(&str, &str, &str, bool); 6] = [
    ("v1", "Pod", "pods", true),
    ("v1", "Service", "services", true),
    ("v1", "Node", "nodes", false),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices.discovery.k8s.io", true),
    ("tracer.dev/v1alpha1", "PacketTrace", "packettraces.tracer.dev", true),
    ("tracer.dev/v1alpha1", "PacketPayload", "packetpayloads.tracer.dev", true),
];

/// One change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: &'static str,
    /// ADDED, MODIFIED, DELETED.
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

type Key = (&'static str, String, String);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<Change>,
    /// Changes up to this are forgotten.
    forgotten: u64,
}

/// What a resource is called in objects: apiVersion, kind.
pub(crate) fn kind_of(resource: &str) -> Option<(&'static str, &'static str)> {
    KINDS.iter().find(|(_, _, known, _)| *known == resource).map(|(version, kind, ..)| (*version, *kind))
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Adds or replaces, filling in what the API server does.
    pub(crate) fn put(&mut self, mut object: Value) -> Result<Value> {
        let key = key_of(&object)?;
        let known = self.objects.get(&key);
        let metadata = object["metadata"].as_object_mut().into_iter().next();
        let Some(metadata) = metadata else { bail!("an object without metadata") };
        self.version += 1;
        metadata.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        if !metadata.contains_key("uid") {
            let uid = known.map_or_else(
                || json!(format!("00000000-0000-4000-8000-{:012x}", self.version)),
                |known| known["metadata"]["uid"].clone(),
            );
            metadata.insert("uid".to_owned(), uid);
        }
        if !metadata.contains_key("creationTimestamp") {
            metadata.insert("creationTimestamp".to_owned(), json!(jiff::Timestamp::now().to_string()));
        }
        let generation = known.map_or(1, |known| {
            let before = known["metadata"]["generation"].as_u64().unwrap_or(1);
            if known["spec"] == object["spec"] { before } else { before + 1 }
        });
        object["metadata"]["generation"] = json!(generation);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push(Change { version: self.version, resource: key.0, kind, object: object.clone() });
        self.objects.insert(key, object.clone());
        Ok(object)
    }

    /// As a client does: an object that there is cannot be made.
    pub(crate) fn create(
        &mut self,
        resource: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, &'static str> {
        if !object["metadata"].is_object() {
            return Err("Invalid");
        }
        object["metadata"]["namespace"] = json!(namespace);
        if let (None, Some(prefix)) =
            (object["metadata"]["name"].as_str(), object["metadata"]["generateName"].as_str())
        {
            object["metadata"]["name"] = json!(format!("{prefix}{:05x}", self.version + 1));
        }
        for given in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            object["metadata"].as_object_mut().map(|metadata| metadata.remove(given));
        }
        // What a client says of the status counts for nothing.
        object.as_object_mut().map(|object| object.remove("status"));
        let key = key_of(&object).map_err(|_| "Invalid")?;
        if key.0 != resource {
            return Err("BadRequest");
        }
        if self.objects.contains_key(&key) {
            return Err("AlreadyExists");
        }
        self.put(object).map_err(|_| "Invalid")
    }

    /// A merge patch (RFC 7386) of everything but the status, or of the status alone.
    pub(crate) fn patch(&mut self, key: (&str, &str, &str), of_status: bool, patch: &Value) -> Option<Value> {
        let known = self.get(key.0, key.1, key.2)?.clone();
        let mut patched = known.clone();
        merge(&mut patched, patch);
        let (metadata, status) = (known["metadata"].clone(), known["status"].clone());
        if of_status {
            let status = patched["status"].clone();
            patched = known;
            patched["status"] = status;
        } else if status.is_null() {
            patched.as_object_mut().map(|object| object.remove("status"));
        } else {
            patched["status"] = status;
        }
        for kept in ["name", "namespace", "uid", "creationTimestamp"] {
            patched["metadata"][kept] = metadata[kept].clone();
        }
        self.put(patched).ok()
    }

    /// With what it owns, as the garbage collector does.
    pub(crate) fn remove(&mut self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let removed = self.remove_alone(self.find(resource, namespace, name)?)?;
        let uid = &removed["metadata"]["uid"];
        let is_owned = |object: &Value| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == *uid))
        };
        let owned = self.objects.iter().filter(|(_, object)| is_owned(object));
        let owned: Vec<Key> = owned.map(|(key, _)| key.clone()).collect();
        for (resource, namespace, name) in owned {
            self.remove(resource, &namespace, &name);
        }
        Some(removed)
    }

    fn remove_alone(&mut self, key: Key) -> Option<Value> {
        let mut object = self.objects.remove(&key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change {
            version: self.version,
            resource: key.0,
            kind: "DELETED",
            object: object.clone(),
        });
        Some(object)
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&self.find(resource, namespace, name)?)
    }

    pub(crate) fn list(&self, resource: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let of_it = self.objects.iter().filter(|((known, ..), _)| *known == resource);
        of_it.map(|(_, object)| object).filter(|object| wanted(object)).cloned().collect()
    }

    /// Changes after a version; `None` if some of them are forgotten.
    pub(crate) fn since(&self, version: u64, resource: &str) -> Option<Vec<Change>> {
        if version < self.forgotten {
            return None;
        }
        let later =
            self.history.iter().filter(|change| change.version > version && change.resource == resource);
        Some(later.cloned().collect())
    }

    pub(crate) fn forget_history(&mut self) {
        // So that a client that has seen everything must begin anew as well.
        self.version += 1;
        self.forgotten = self.version;
        self.history.clear();
    }

    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Key> {
        let (_, _, resource, is_namespaced) = KINDS.iter().find(|(_, _, known, _)| *known == resource)?;
        let namespace = if *is_namespaced { namespace } else { "" };
        Some((resource, namespace.to_owned(), name.to_owned()))
    }
}

fn key_of(object: &Value) -> Result<Key> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let found = KINDS.iter().find(|(known, of, ..)| *known == version && *of == kind);
    let Some((_, _, resource, is_namespaced)) = found else { bail!("no such kind: {version} {kind}") };
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    ensure!(!name.is_empty(), "a {kind} without a name");
    let namespace = match (is_namespaced, namespace.is_empty()) {
        (false, _) => String::new(),
        (true, true) => "default".to_owned(),
        (true, false) => namespace,
    };
    Ok((resource, namespace, name))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        if change.is_null() {
            target.as_object_mut().map(|object| object.remove(name));
        } else {
            merge(&mut target[name.as_str()], change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(ports: &[u16]) -> Value {
        json!({ "apiVersion": "tracer.dev/v1alpha1", "kind": "PacketTrace",
            "metadata": { "name": "a", "namespace": "shop" }, "spec": { "ports": ports } })
    }

    const TRACES: &str = "packettraces.tracer.dev";

    #[test]
    fn a_status_is_patched_alone_and_only_a_changed_spec_is_another_generation() {
        let mut store = Store::default();
        store.put(trace(&[80])).unwrap();
        let key = (TRACES, "shop", "a");
        let both =
            json!({ "spec": { "ports": [443] }, "status": { "agents": { "n1": { "state": "Armed" } } } });
        let patched = store.patch(key, true, &both).unwrap();
        assert_eq!(
            (&patched["spec"]["ports"], &patched["metadata"]["generation"]),
            (&json!([80]), &json!(1))
        );
        let other = json!({ "status": { "agents": { "n2": { "state": "Armed" } } } });
        assert_eq!(store.patch(key, true, &other).unwrap()["status"]["agents"].as_object().unwrap().len(), 2);
        let patched = store.patch(key, false, &both).unwrap();
        assert_eq!(
            (&patched["spec"]["ports"], &patched["metadata"]["generation"]),
            (&json!([443]), &json!(2))
        );
        assert_eq!(patched["status"]["agents"].as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_watch_goes_on_where_it_was_unless_that_is_forgotten() {
        let mut store = Store::default();
        store.put(trace(&[80])).unwrap();
        let version = store.version();
        store.put(trace(&[81])).unwrap();
        store.remove(TRACES, "shop", "a");
        let kinds: Vec<_> = store.since(version, TRACES).unwrap().iter().map(|change| change.kind).collect();
        assert_eq!(kinds, ["MODIFIED", "DELETED"]);
        assert!(store.since(version, "pods").unwrap().is_empty());
        store.forget_history();
        assert!(store.since(version, TRACES).is_none());
        assert!(store.since(store.version(), TRACES).unwrap().is_empty());
    }

    #[test]
    fn what_a_client_makes_is_in_its_namespace_and_has_no_status() {
        let mut store = Store::default();
        let mut asked = trace(&[80]);
        asked["metadata"] = json!({ "generateName": "curl-", "uid": "mine" });
        asked["status"] = json!({ "agents": {} });
        let made = store.create(TRACES, "bank", asked.clone()).unwrap();
        assert_eq!(made["metadata"]["namespace"], "bank");
        assert!(made["metadata"]["name"].as_str().unwrap().starts_with("curl-"));
        assert_ne!(made["metadata"]["uid"], "mine");
        assert!(made["status"].is_null());
        assert_eq!(store.create("pods", "bank", asked), Err("BadRequest"));
    }
}
