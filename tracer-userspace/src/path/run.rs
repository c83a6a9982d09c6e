//! `tracer path`, on this machine and by a cluster's agents.

use std::fs;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path as FilePath;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::compare::{last_trajectory, with_path, with_trajectory};
use super::facts::{Half, Question};
use super::findings::{Level, findings};
use super::look::look;
use super::text::{self, Style};
use super::ways::{End, Endpoint, Path, ServiceEnd};
use crate::agent::preflight;
use crate::app::{Failure, notice, wants_color};
use crate::cli::{Format, PathArgs, SelectionArgs};
use crate::follow::cluster::read_names;
use crate::follow::run::runtime;
use crate::follow::select::{EndKind, Selection};
use crate::follow::wanted::resolve;
use crate::inventory::{Inventory, PodEntry, ServiceEntry, ServicePort};
use crate::kubernetes::agents::Agents;
use crate::kubernetes::cluster::{Access, Cluster};
use crate::node::site::{Names, Site};

/// How long an agent may take.
const ANSWER: Duration = Duration::from_secs(20);

/// What is asked of two nodes.
#[derive(Debug)]
struct Asked {
    from: End,
    to: End,
    service: Option<ServiceEnd>,
    near: Question,
    far: Question,
    notes: Vec<String>,
}

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
        let (near, far) = match self {
            Self::Machine { site, kernel, .. } => {
                let of = |question: &Question, end: &End| half_here(site, kernel, question, end);
                (of(&asked.near, &asked.from), of(&asked.far, &asked.to))
            }
            Self::Cluster { agents, runtime, .. } => runtime.block_on(async {
                let found = agents.find().await?;
                let of = |question: Question, end: End| {
                    let (agents, found) = (agents.clone(), found.clone());
                    async move { half_of_agent(&agents, &found, question, end).await }
                };
                Ok::<_, Failure>(tokio::join!(
                    of(asked.near.clone(), asked.from.clone()),
                    of(asked.far.clone(), asked.to.clone())
                ))
            })?,
        };
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
            return Err(Failure::Failed(format!(
                "nothing of the way is visible:\n  - {}",
                notes.join("\n  - ")
            )));
        }
        notes.dedup();
        Ok(Path::of(from, to, service, near, far, notes))
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
    found: &std::collections::BTreeMap<String, String>,
    question: Question,
    end: End,
) -> Result<Half, String> {
    let Some(node) = &end.node else {
        return Err(format!("{} is outside of the cluster: what is behind it cannot be seen", words(&end)));
    };
    let namespace = &agents.namespace;
    let Some(pod) = found.get(node) else {
        return Err(format!(
            "node {node} has no agent (kubectl get pods -n {namespace} -o wide): its half of the way is not visible"
        ));
    };
    let asked = async { agents.connect(pod).await?.look(&question).await };
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

/// The way to a Service that has no endpoints, which no follow can have; `None` where that is not what was asked for.
fn ask_of_nobody(inventory: &Inventory, asked: &SelectionArgs) -> Option<Result<Asked, Failure>> {
    let name = asked.to.as_deref()?.strip_prefix("svc/")?;
    let own = SelectionArgs { to: None, ports: Vec::new(), ..asked.clone() };
    let selection = match resolve(inventory, &own) {
        Ok(selection) => selection,
        Err(failure) => return Some(Err(failure)),
    };
    let pod = selection.a.pods.first().and_then(|pod| inventory.pods().find(|entry| entry.pod == *pod));
    let namespace =
        asked.namespace.as_deref().or(pod.map(|entry| entry.pod.namespace.as_str())).unwrap_or("default");
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    let entry = inventory.service(namespace, name)?;
    let port = entry.ports.first();
    let own = addresses(pod, &selection.a.addresses);
    let (own, ip) = own
        .into_iter()
        .find_map(|own| Some((own, entry.addresses().find(|ip| ip.is_ipv4() == own.is_ipv4())?)))?;
    let service = service_end(inventory, entry, port, ip);
    let near = Question { own, addressed: ip, target: ip, port: port.map(numbers) };
    let far = Question { own: ip, addressed: own, target: own, port: None };
    let to = End { ip, pod: None, node: None };
    Some(Ok(Asked { from: end_at(inventory, own), to, service: Some(service), near, far, notes: Vec::new() }))
}

/// One pod at each end, both by addresses of one family.
fn ask(inventory: &Inventory, selection: &Selection) -> Result<Asked, Failure> {
    let mut notes = selection.notes.clone();
    let b = selection.b.as_ref().ok_or_else(|| Failure::Usage("--to: whom to?".to_owned()))?;
    let mut one_of = |end: &crate::follow::select::End| {
        let pod = end.pods.first()?;
        if end.pods.len() > 1 && end.kind == EndKind::Pod {
            let (name, count) = (&pod.name, end.pods.len());
            notes.push(format!(
                "{} is {count} pods; this is the way of the first, {}/{name}",
                end.name, pod.namespace
            ));
        }
        inventory.pods().find(|entry| entry.pod == *pod)
    };
    let own = addresses(one_of(&selection.a), &selection.a.addresses);
    let service = service_of(inventory, b, selection);
    let target_pod = one_of(b).filter(|_| service.is_none());
    let family = |address: &IpAddr| address.is_ipv4();
    for own in own {
        let addressed = match &service {
            Some((entry, _)) => entry.addresses().find(|address| family(address) == family(&own)),
            None => addresses(target_pod, &b.addresses)
                .into_iter()
                .find(|address| family(address) == family(&own)),
        };
        let Some(addressed) = addressed else { continue };
        let port = service.as_ref().and_then(|(_, port)| *port).map(numbers);
        let service = service.as_ref().map(|(entry, port)| service_end(inventory, entry, *port, addressed));
        let chosen = service.as_ref().and_then(|service| service.endpoints.first());
        let target = chosen.map_or(addressed, |endpoint| endpoint.ip);
        if let Some(service) = service.as_ref().filter(|service| service.endpoints.len() > 1) {
            let count = service.endpoints.len();
            notes.push(format!(
                "{} has {count} endpoints; this is the way to the first, {target}",
                service.name
            ));
        }
        let near = Question { own, addressed, target, port };
        let far = Question { own: target, addressed: own, target: own, port: None };
        return Ok(Asked {
            from: end_at(inventory, own),
            to: end_at(inventory, target),
            service,
            near,
            far,
            notes,
        });
    }
    Err(Failure::Failed(format!(
        "{} and {} have no addresses of one family: the one has IPv4, the other IPv6",
        selection.a.name, b.name
    )))
}

/// Of the one pod, else of whatever it is; IPv4 first.
fn addresses(pod: Option<&PodEntry>, all: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses = pod.map_or_else(|| all.to_vec(), |entry| entry.addresses.clone());
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

fn end_at(inventory: &Inventory, ip: IpAddr) -> End {
    if let Some(entry) = inventory.pod_at(ip).filter(|entry| !entry.host_network) {
        let pod = Some(format!("{}/{}", entry.pod.namespace, entry.pod.name));
        return End { ip, pod, node: Some(entry.node.to_string()) };
    }
    let node = inventory.nodes().find(|node| inventory.node_addresses(&node.name).contains(&ip));
    End { ip, pod: None, node: node.map(|node| node.name.to_string()) }
}

/// The Service that is addressed, and its port.
fn service_of<'a>(
    inventory: &'a Inventory,
    end: &crate::follow::select::End,
    selection: &Selection,
) -> Option<(&'a ServiceEntry, Option<&'a ServicePort>)> {
    let entry = match end.kind {
        EndKind::Service => {
            let (namespace, name) = end.name.strip_prefix("svc/")?.split_once('/')?;
            inventory.service(namespace, name)
        }
        EndKind::Address => end.addresses.first().and_then(|address| inventory.service_at(*address)),
        EndKind::Pod | EndKind::Node => None,
    }?;
    // What was asked for, else its only or first port.
    let asked = entry.ports.iter().find(|port| selection.ports.contains(&port.port));
    let port = asked.or(entry.ports.first());
    // A headless one has no address of its own: DNS gives its endpoints'.
    entry.addresses().next().map(|_| (entry, port))
}

fn numbers(port: &ServicePort) -> (u16, u8) {
    (port.port, port.protocol)
}

fn service_end(
    inventory: &Inventory,
    entry: &ServiceEntry,
    port: Option<&ServicePort>,
    ip: IpAddr,
) -> ServiceEnd {
    let mut endpoints = Vec::new();
    for slice in inventory.slices(&entry.service) {
        let target = slice
            .ports
            .iter()
            .find(|target| Some(&target.name) == port.map(|port| &port.name))
            .map(|target| target.port);
        for address in slice.addresses.iter().filter(|address| address.is_ipv4() == ip.is_ipv4()) {
            let ready = !slice.not_ready.contains(address);
            endpoints.push(Endpoint { ip: *address, port: target, ready });
        }
    }
    endpoints.sort_by_key(|endpoint| !endpoint.ready);
    let name = format!("{}/{}", entry.service.namespace, entry.service.name);
    ServiceEnd { name, ip, port: port.map(|port| port.port), endpoints }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "apiVersion: v1\nkind: List\nitems:
- {apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: 10.135.0.11}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: curl, namespace: default, uid: u1}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.153}}
- {apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: default, uid: u2}, spec: {nodeName: node-1, containers: []},
   status: {phase: Running, podIP: 10.244.0.33}}
- {apiVersion: v1, kind: Service, metadata: {name: dns, namespace: default}, spec: {clusterIP: 10.96.0.10,
   ports: [{name: udp, protocol: UDP, port: 53}, {name: tcp, protocol: TCP, port: 9153}]}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
   metadata: {name: dns-1, namespace: default, labels: {kubernetes.io/service-name: dns}},
   endpoints: [{addresses: [10.244.0.33]}], ports: [{name: udp, protocol: UDP, port: 1053}, {name: tcp, protocol: TCP, port: 9153}]}
";

    fn asked(port: Option<&str>) -> Asked {
        let names = Names::none();
        names.add(CLUSTER, 0).unwrap();
        let selection = SelectionArgs {
            pod: Some("curl".to_owned()),
            selector: None,
            to: Some("svc/dns".to_owned()),
            namespace: None,
            ports: port.map(str::to_owned).into_iter().collect(),
            protocol: None,
        };
        names.with(|inventory| ask(inventory, &resolve(inventory, &selection).unwrap()).unwrap())
    }

    #[test]
    fn a_service_is_asked_for_by_its_ports_number_and_protocol() {
        let first = asked(None);
        assert_eq!(first.near.port, Some((53, 17)));
        assert_eq!(first.service.unwrap().endpoints[0].port, Some(1053));
        assert_eq!(asked(Some("9153")).near.port, Some((9153, 6)));
    }
}
