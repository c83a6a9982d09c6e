//! `tracer path`, on this machine and by a cluster's agents.

use std::fs;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::path::Path as FilePath;

use serde_json::json;
use tokio::runtime::Runtime;

use super::ask::{Asked, ask, ask_of_nobody};
use super::compare::{last_trajectory, with_path, with_trajectory};
use super::findings::{Level, findings};
use super::halves::{path_here, path_of_agents};
use super::text::{self, Style};
use super::ways::Path;
use crate::agent::preflight;
use crate::app::{Failure, notice, wants_color};
use crate::cli::{Format, PathArgs, SelectionArgs};
use crate::follow::cluster::read_names;
use crate::follow::run::runtime;
use crate::follow::wanted::resolve;
use crate::kubernetes::agents::Agents;
use crate::kubernetes::cluster::{Access, Cluster};
use crate::node::site::{Names, Site};

/// Prints the way.
///
/// # Errors
/// [`Failure`], also where something is wrong with the way.
pub fn run(args: &PathArgs) -> Result<(), Failure> {
    let mut seeker = Seeker::open(args)?;
    let path = seeker.path(&args.pod)?;
    let found = seeker.names().with(|inventory| findings(&path, inventory));
    let mut out = BufWriter::new(io::stdout().lock());
    let style = Style { evidence: args.verbose, color: wants_color(args.color) };
    let compared = match &args.diff {
        Some(with) => Some(seeker.compare(&path, with)?),
        None => None,
    };
    match args.output {
        Format::Json => {
            let line = json!({
                "schema": "tracer.path/v1",
                "from": path.from, "to": path.to, "service": path.service,
                "there": path.there, "back": path.back,
                "findings": found, "notes": path.notes,
                "near": path.near, "far": path.far,
                "difference": compared.as_ref().map(Compared::value),
            });
            writeln!(out, "{line}")?;
        }
        Format::Text => {
            text::write(&mut out, &path, &found, style)?;
            if let Some(compared) = &compared {
                compared.write(&mut out)?;
            }
        }
    }
    out.flush()?;
    let problems = found.iter().filter(|finding| finding.level == Level::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 problem on this way".to_owned())),
        _ => Err(Failure::Failed(format!("{problems} problems on this way"))),
    }
}

/// Where halves come from.
enum Seeker<'a> {
    Machine { args: &'a PathArgs, site: Box<Site>, kernel: String },
    Cluster { args: &'a PathArgs, names: Names, agents: Box<Agents>, namespace: String, runtime: Runtime },
}

impl<'a> Seeker<'a> {
    fn open(args: &'a PathArgs) -> Result<Self, Failure> {
        if let Some(inventory) = &args.inventory {
            let kernel = preflight::check().map_err(|error| Failure::Failed(error.to_string()))?;
            let site = Box::new(Site::open(inventory.clone())?);
            return Ok(Self::Machine { args, site, kernel: kernel.release });
        }
        let runtime = runtime()?;
        let (names, agents, namespace) = runtime.block_on(async {
            let access =
                Access { kubeconfig: args.cluster.kubeconfig.clone(), context: args.cluster.context.clone() };
            let cluster = Cluster::connect(&access).await?;
            notice(&format!("note: asking {} and the agents of both nodes", cluster.server));
            let (names, _) = read_names(&cluster).await?;
            let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
            let agents = Box::new(Agents { cluster, namespace: args.cluster.agents_namespace.clone() });
            Ok::<_, Failure>((names, agents, namespace))
        })?;
        Ok(Self::Cluster { args, names, agents, namespace, runtime })
    }

    fn args(&self) -> &'a PathArgs {
        match self {
            Self::Machine { args, .. } | Self::Cluster { args, .. } => args,
        }
    }

    fn names(&self) -> &Names {
        match self {
            Self::Machine { site, .. } => site.names(),
            Self::Cluster { names, .. } => names,
        }
    }

    /// The way from a pod to the target that was asked for.
    fn path(&mut self, pod: &str) -> Result<Path, Failure> {
        let asked = self.ask(pod)?;
        match self {
            Self::Machine { site, kernel, .. } => path_here(site, kernel, asked),
            Self::Cluster { agents, runtime, .. } => runtime.block_on(path_of_agents(agents, asked)),
        }
    }

    fn ask(&self, pod: &str) -> Result<Asked, Failure> {
        let args = self.args();
        let namespace = match self {
            Self::Machine { .. } => args.namespace.clone(),
            Self::Cluster { namespace, .. } => Some(namespace.clone()),
        };
        let selection = SelectionArgs {
            pod: Some(pod.to_owned()),
            selector: None,
            to: Some(args.to.clone()),
            namespace,
            ports: args.port.iter().cloned().collect(),
            protocol: None,
        };
        self.names().with(|inventory| match resolve(inventory, &selection) {
            Ok(selection) => ask(inventory, &selection),
            Err(failure) => ask_of_nobody(inventory, &selection).unwrap_or(Err(failure)),
        })
    }

    fn compare(&mut self, path: &Path, with: &str) -> Result<Compared, Failure> {
        if let Some(pod) = with.strip_prefix("pod/") {
            let other = self.path(pod)?;
            let name = |path: &Path| path.from.pod.clone().unwrap_or_else(|| path.from.ip.to_string());
            return Ok(Compared::Paths {
                names: [name(path), name(&other)],
                differences: with_path(path, &other),
            });
        }
        let lines = read(FilePath::new(with))?;
        let Some((trajectory, goes_there)) = last_trajectory(path, &lines) else {
            return Err(Failure::Failed(format!(
                "{with} has no trajectory between {} and {}: it should be what `tracer follow --packets -o json` printed of \
                 them",
                path.from.ip, path.to.ip
            )));
        };
        let steps = if goes_there { &path.there } else { &path.back };
        let id = trajectory["id"].as_u64().unwrap_or_default();
        let way = if goes_there { "there" } else { "back" };
        let title =
            format!("packet {id}, {way}, beside the way (- expected and not seen, + seen and not expected)");
        Ok(Compared::Packet { title, lines: with_trajectory(steps, &trajectory) })
    }
}

/// What `--diff` has shown.
enum Compared {
    Packet { title: String, lines: Vec<super::compare::Line> },
    Paths { names: [String; 2], differences: Vec<super::compare::Difference> },
}

impl Compared {
    fn value(&self) -> serde_json::Value {
        match self {
            Self::Packet { lines, .. } => json!({ "hooks": lines }),
            Self::Paths { names, differences } => json!({ "pods": names, "differences": differences }),
        }
    }

    fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        match self {
            Self::Packet { title, lines } => text::write_comparison(out, lines, title),
            Self::Paths { names, differences } => {
                text::write_differences(out, [&names[0], &names[1]], differences)
            }
        }
    }
}

fn read(path: &FilePath) -> Result<String, Failure> {
    let explain = |error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
    if path == FilePath::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map_err(explain)?;
        return Ok(text);
    }
    fs::read_to_string(path).map_err(explain)
}
