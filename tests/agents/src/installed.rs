//! A cluster with tracer in it, and people who use it.

use std::process::Command;

use anyhow::Result;
use tracer_integration::{Follow, lab, program};
use tracer_lab::{Lab, Pod, Topology};

use crate::agent::Agent;
use crate::chart::Chart;
use crate::cluster::Cluster;

/// A lab as a cluster with an agent on each node.
pub struct Installed {
    pub lab: Lab,
    pub cluster: Cluster,
    pub agents: Vec<Agent>,
}

impl Installed {
    /// Two nodes, over VXLAN.
    ///
    /// # Errors
    /// Something of it cannot be started.
    pub fn new() -> Result<Self> {
        let lab = lab(Topology::RoutedVxlan)?;
        let cluster = Cluster::of(&lab)?;
        let nodes: Vec<_> = lab.nodes().iter().map(|node| node.name().to_owned()).collect();
        let mut installed = Self { lab, cluster, agents: Vec::new() };
        nodes.iter().try_for_each(|node| installed.start(node))?;
        Ok(installed)
    }

    /// As [`Installed::new`], with agents that have what the chart gives them and nothing else.
    ///
    /// # Errors
    /// As [`Installed::new`].
    pub fn by_chart(chart: &Chart) -> Result<Self> {
        let lab = lab(Topology::RoutedVxlan)?;
        let cluster = Cluster::of(&lab)?;
        cluster.api.allow_only("agent", &chart.rules("ClusterRole", "tracer-agent", &[])?);
        let mut agents = Vec::new();
        for node in lab.nodes() {
            let agent = Agent::start_with(&cluster, node.name(), &chart.capabilities()?)?;
            cluster.publish(&agent, node.name())?;
            agents.push(agent);
        }
        Ok(Self { lab, cluster, agents })
    }

    /// Starts an agent that a port-forward reaches.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self, node: &str) -> Result<()> {
        let agent = Agent::start(&self.cluster, node)?;
        self.cluster.publish(&agent, node)?;
        self.agents.push(agent);
        Ok(())
    }

    /// `tracer COMMAND ARGUMENTS` of a user.
    ///
    /// # Errors
    /// There is no program, or no kubeconfig.
    pub fn command(&self, user: &str, command: &str, arguments: &[&str]) -> Result<Command> {
        let mut run = Command::new(program()?);
        run.arg(command).args(arguments).arg("--kubeconfig").arg(self.cluster.kubeconfig(user)?);
        if command == "follow" {
            run.args(["-o", "json"]);
        }
        Ok(run)
    }

    /// A follow of a user, that follows.
    ///
    /// # Errors
    /// It does not.
    pub fn follow(&self, user: &str, arguments: &[&str]) -> Result<Follow> {
        Follow::start(&mut self.command(user, "follow", arguments)?)
    }

    /// Namespaces and names of all objects of a resource.
    #[must_use]
    pub fn names(&self, resource: &str) -> Vec<(String, String)> {
        self.cluster.api.names(resource)
    }
}

/// A request from one pod to another, answered.
///
/// # Panics
/// When it is not.
pub fn get(from: &Pod, to: &Pod, path: &str) {
    let answer = to.serve_http(80).and_then(|web| {
        let answer = from.curl(&format!("http://{}{path}", to.ipv4()));
        drop(web);
        answer
    });
    match answer {
        Ok(answer) => assert!(!answer.body.is_empty()),
        Err(error) => panic!("{error:#}"),
    }
}
