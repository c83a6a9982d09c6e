//! Where the halves of a way come from: this machine, or the agents of both nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use super::ask::Asked;
use super::facts::{Half, Question};
use super::look::look;
use super::ways::{End, Path};
use crate::app::Failure;
use crate::kubernetes::agents::Agents;
use crate::node::site::Site;

/// How long an agent may take.
const ANSWER: Duration = Duration::from_secs(20);

/// The way, as far as it is on this machine.
///
/// # Errors
/// Neither end is here.
pub fn path_here(site: &Site, kernel: &str, asked: Asked) -> Result<Path, Failure> {
    let near = half_here(site, kernel, &asked.near, &asked.from);
    let far = half_here(site, kernel, &asked.far, &asked.to);
    joined(asked, near, far)
}

/// The way, as the agents of its nodes tell it.
///
/// # Errors
/// None of them can be asked.
pub async fn path_of_agents(agents: &Agents, asked: Asked) -> Result<Path, Failure> {
    let found = agents.find().await?;
    let (near, far) = tokio::join!(
        half_of_agent(agents, &found, &asked.near, &asked.from),
        half_of_agent(agents, &found, &asked.far, &asked.to)
    );
    joined(asked, near, far)
}

/// With one half the other is a note.
fn joined(asked: Asked, near: Result<Half, String>, far: Result<Half, String>) -> Result<Path, Failure> {
    let Asked { from, to, service, mut notes, .. } = asked;
    let mut take = |half: Result<Half, String>| match half {
        Ok(half) => {
            notes.extend(half.problems.iter().map(|problem| format!("node {}: {problem}", half.node)));
            Some(half)
        }
        Err(why) => {
            notes.push(why);
            None
        }
    };
    let (near, far) = (take(near), take(far));
    if near.is_none() && far.is_none() {
        return Err(Failure::Failed(format!("nothing of the way is visible:\n  - {}", notes.join("\n  - "))));
    }
    notes.dedup();
    Ok(Path::of(from, to, service, near, far, notes))
}

fn half_here(site: &Site, kernel: &str, question: &Question, end: &End) -> Result<Half, String> {
    look(site.survey(), kernel, question).map_err(|error| match &end.node {
        Some(node) => {
            format!("{}, on node {node}: {error}; run tracer there, or without --local by agents", words(end))
        }
        None => format!("{}: {error}: what is behind it cannot be seen", words(end)),
    })
}

async fn half_of_agent(
    agents: &Agents,
    found: &BTreeMap<String, String>,
    question: &Question,
    end: &End,
) -> Result<Half, String> {
    let Some(node) = &end.node else {
        return Err(format!("{} is outside of the cluster: what is behind it cannot be seen", words(end)));
    };
    let namespace = &agents.namespace;
    let Some(pod) = found.get(node) else {
        return Err(format!(
            "node {node} has no agent (kubectl get pods -n {namespace} -o wide): its half of the way is not visible"
        ));
    };
    let asked = async { agents.connect(pod).await?.look(question).await };
    match timeout(ANSWER, asked).await {
        Ok(Ok(half)) => Ok(half),
        Ok(Err(error)) => Err(format!("the agent of node {node} (pod {namespace}/{pod}) {error}")),
        Err(_) => Err(format!(
            "the agent of node {node} (pod {namespace}/{pod}) did not answer within {} s",
            ANSWER.as_secs()
        )),
    }
}

fn words(end: &End) -> String {
    end.pod.as_ref().map_or_else(|| end.ip.to_string(), |pod| format!("pod {pod}"))
}
