//! Who makes a PacketTrace and reads its records.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tracer::kubernetes::secret::Secret;
use tracer::serve::client::{AgentConnection, AgentError, Observed};
use tracer::serve::request::TraceKey;
use tracer::stream::{Hello, Sighted, Told};
use tracer::trajectory::model::ObservationPoint;
use tracer_integration::patient;
use tracer_lab::Pod;

use crate::SOON;
use crate::cluster::{Cluster, TRACES};

/// A trace that somebody has asked for.
pub struct TraceAsked {
    pub key: TraceKey,
    pub secret: Secret,
}

/// So many seconds from now, as the object has it.
#[must_use]
pub fn expires_in(seconds: i64) -> String {
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now + seconds).map(|time| time.to_string()).unwrap_or_default()
}

impl TraceAsked {
    /// Makes one for a pod of the lab, whoever it talks to; `change` may ask for anything else.
    ///
    /// # Errors
    /// The object is none.
    pub fn make(cluster: &Cluster, name: &str, pod: &Pod, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let secret = Secret::new().map_err(anyhow::Error::msg)?;
        let mut object = json!({
            "apiVersion": "tracer.dev/v1alpha1", "kind": "PacketTrace",
            "metadata": { "name": name, "namespace": pod.namespace() },
            "spec": {
                "follows": pod.label(), "client": "a test",
                "pods": [{ "name": pod.name(), "uid": pod.uid() }],
                "expires": expires_in(300), "secretSha256": secret.hash().to_string(),
            },
        });
        change(&mut object);
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        cluster.api.put(object)?;
        let made = cluster.api.get(TRACES, &namespace, name).context("the trace was not kept")?;
        let uid = made["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(Self { key: TraceKey { namespace, name: name.to_owned(), uid }, secret })
    }

    /// Asks an agent for the records, again while it has not heard of the trace or not armed it.
    ///
    /// # Errors
    /// It refuses, for as long as may be waited for.
    pub fn observe(&self, address: SocketAddr) -> Result<Records, AgentError> {
        Records::of(address, self, patient(SOON))
    }

    /// Asks once.
    ///
    /// # Errors
    /// It refuses.
    pub fn observe_at_once(&self, address: SocketAddr) -> Result<Records, AgentError> {
        Records::of(address, self, Duration::ZERO)
    }
}

/// The records that an agent gives.
pub struct Records {
    runtime: Runtime,
    observed: Observed,
    pub hello: Hello,
    pub points: BTreeMap<u32, ObservationPoint>,
    pub sightings: Vec<Sighted>,
    /// Why it ended.
    pub end: Option<String>,
}

impl Records {
    fn of(address: SocketAddr, asked: &TraceAsked, patience: Duration) -> Result<Self, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| AgentError::Lost(error.to_string()))?;
        let (observed, hello) = runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + patience;
            let mut agent = AgentConnection::to(address).await?;
            let mut observed = loop {
                match agent.observe(&asked.key, &asked.secret).await {
                    Err(AgentError::NotYet(_) | AgentError::Refused(_))
                        if tokio::time::Instant::now() < deadline =>
                    {
                        // sleep: asks again, with a deadline.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => break other?,
                }
            };
            match observed.next().await? {
                Some(Told::Hello(hello)) => Ok((observed, hello)),
                other => Err(AgentError::Lost(format!("it begins with {other:?}"))),
            }
        })?;
        Ok(Self { runtime, observed, hello, points: BTreeMap::new(), sightings: Vec::new(), end: None })
    }

    /// Reads until this holds.
    ///
    /// # Errors
    /// It does not, in time; with what came.
    pub fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = tokio::time::Instant::now() + patient(SOON);
        while !holds(self) {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let next = self.runtime.block_on(async { timeout(left, self.observed.next()).await });
            match next {
                Ok(Ok(Some(told))) => self.take(told),
                Ok(Ok(None)) => bail!("{what}: the stream ended ({:?}); {}", self.end, self.came()),
                Ok(Err(error)) => bail!("{what}: {error}; {}", self.came()),
                Err(_) => bail!("{what}: not in time; {}", self.came()),
            }
        }
        Ok(())
    }

    /// Reads to the end, and gives its reason.
    ///
    /// # Errors
    /// It does not end in order, in time.
    pub fn wait_for_end(&mut self) -> Result<String> {
        self.wait_until("the end", |records| records.end.is_some())?;
        Ok(self.end.clone().unwrap_or_default())
    }

    /// "node device direction" of each point.
    #[must_use]
    pub fn places(&self) -> Vec<String> {
        let place =
            |point: &ObservationPoint| format!("{} {} {:?}", point.node, point.device, point.direction);
        self.points.values().map(place).collect()
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Point { point, .. } => drop(self.points.insert(point.id.0, *point)),
            Told::PointGone(id) => drop(self.points.remove(&id)),
            Told::Sightings(sightings) => self.sightings.extend(sightings),
            Told::End { reason } => self.end = Some(reason),
            Told::Hello(_) | Told::Drop(_) | Told::Counts(_) | Told::Heartbeat(_) => {}
        }
    }

    fn came(&self) -> String {
        format!(
            "{} points and {} sightings came: {:?}",
            self.points.len(),
            self.sightings.len(),
            self.places()
        )
    }
}
