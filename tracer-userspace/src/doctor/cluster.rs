//! Asking the API server and every agent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use tokio::time::{Instant, timeout};

use super::findings::{Clock, Finding, NodeAnswer, of_clocks, of_node, of_rights};
use crate::app::{Failure, notice};
use crate::cli::DoctorArgs;
use crate::kubernetes::agents::Agents;
use crate::kubernetes::cluster::{Access, Attempt, Cluster};
use crate::kubernetes::packet_trace::PacketTrace;
use crate::kubernetes::rights::{self, Place};
use crate::serve::client::AgentError;

/// How long an agent may take to answer: it looks over its node.
const ANSWER: Duration = Duration::from_secs(20);

/// Finds what there is to find.
///
/// # Errors
/// The cluster cannot be asked at all.
pub(super) async fn examine(args: &DoctorArgs) -> Result<Vec<Finding>, Failure> {
    let access =
        Access { kubeconfig: args.cluster.kubeconfig.clone(), context: args.cluster.context.clone() };
    let cluster = Cluster::connect(&access).await?;
    notice(&format!("note: asking {} and the agents of its nodes", cluster.server));
    let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
    let agents = Agents { cluster: cluster.clone(), namespace: args.cluster.agents_namespace.clone() };
    let mut findings = examine_rights(&cluster, &namespace, &agents.namespace).await?;
    findings.push(examine_definition(&cluster, &namespace).await);
    match nodes(&cluster).await {
        Err(why) => findings.push(Finding::problem("nodes", why)),
        Ok(nodes) => findings.extend(examine_nodes(&agents, nodes).await),
    }
    Ok(findings)
}

async fn examine_rights(cluster: &Cluster, namespace: &str, agents: &str) -> Result<Vec<Finding>, Failure> {
    let mut asked = Vec::new();
    for right in rights::of_people() {
        let place = match right.place {
            Place::Cluster => None,
            Place::Followed => Some(namespace),
            Place::Agents => Some(agents),
        };
        let attempt = Attempt { verb: right.verb, resource: right.resource, namespace: place };
        let may = rights::may(&cluster.client, attempt).await.map_err(|error| {
            let resource = "selfsubjectaccessreviews.authorization.k8s.io";
            Failure::Failed(Attempt { verb: "create", resource, namespace: None }.explain(&error))
        })?;
        asked.push((right, attempt, may));
    }
    Ok(of_rights(namespace, &asked))
}

/// Whether the cluster knows PacketTraces.
async fn examine_definition(cluster: &Cluster, namespace: &str) -> Finding {
    let traces: Api<PacketTrace> = Api::namespaced(cluster.client.clone(), namespace);
    match traces.list(&ListParams::default().limit(1)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Finding::problem(
            "packettraces",
            "the cluster does not know PacketTraces: is tracer installed? (tracer crd | kubectl apply -f -)"
                .to_owned(),
        ),
        // Whether they may be listed is of no matter.
        _ => Finding::good("packettraces", format!("known to the API server {}", cluster.server)),
    }
}

async fn nodes(cluster: &Cluster) -> Result<Vec<String>, String> {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let attempt = Attempt { verb: "list", resource: "nodes", namespace: None };
    let listed = api.list(&ListParams::default()).await.map_err(|error| attempt.explain(&error))?;
    Ok(listed.items.into_iter().filter_map(|node| node.metadata.name).collect())
}

async fn examine_nodes(agents: &Agents, nodes: Vec<String>) -> Vec<Finding> {
    let found = match agents.find().await {
        Ok(found) => found,
        Err(failure) => return vec![Finding::problem("agents", failure.to_string())],
    };
    let answers = join_all(nodes.iter().map(|node| ask(agents, &found, node))).await;
    let mut findings = Vec::new();
    for (node, answer) in nodes.iter().zip(&answers) {
        findings.extend(of_node(node, answer));
    }
    let told = nodes.iter().zip(&answers);
    let clocks: Vec<_> =
        told.filter_map(|(node, answer)| Some((&**node, answer.as_ref().ok()?.clock?))).collect();
    findings.extend(of_clocks(&clocks));
    findings
}

async fn ask(agents: &Agents, found: &BTreeMap<String, String>, node: &str) -> Result<NodeAnswer, String> {
    let namespace = &agents.namespace;
    let Some(pod) = found.get(node) else {
        return Err(format!(
            "no agent there (kubectl get pods -n {namespace} -o wide): its hops are not visible"
        ));
    };
    let why = match timeout(ANSWER, describe(agents, pod)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("did not answer within {} s", ANSWER.as_secs()),
    };
    Err(format!("the agent there (pod {namespace}/{pod}) {why}: its hops are not visible"))
}

async fn describe(agents: &Agents, pod: &str) -> Result<NodeAnswer, AgentError> {
    let mut connection = agents.connect(pod).await?;
    // The first call opens the connection; the second shows the clock better.
    connection.describe().await?;
    let (before, wall) = (Instant::now(), SystemTime::now());
    let description = connection.describe().await?;
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let asked_ns = wall.duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
    let clock = Clock::between(asked_ns, nanoseconds(before.elapsed()), description.wall_ns);
    Ok(NodeAnswer { description, clock: Some(clock) })
}
