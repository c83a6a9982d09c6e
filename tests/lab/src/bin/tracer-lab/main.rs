//! `tracer-lab`: the lab for people. `demo` shows tracer at work in it, `up` keeps it for your own experiments.

mod follow;
mod node;

use std::ffi::OsString;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt as _;
use tracer_lab::{Lab, Topology};

use crate::follow::Follow;

const USAGE: &str = "\
usage: tracer-lab demo [--topology NAME] [--service] [--ipv6] [--path] [-- ARGUMENT...]
       tracer-lab up [--topology NAME]
       tracer-lab node [--topology NAME] --node NAME --nic DEV --stream PATH --control PATH --directory PATH [--tick N]

  demo   Two nodes and their pods as network namespaces; a real curl goes from pod curl to pod httpbin on the other
         node while `tracer follow` tells each packet's way. --service: through the Service httpbin; --ipv6: over IPv6.
         --path: `tracer path` in its place, which needs no packets. What is behind -- goes to `tracer follow` or path. The program is TRACER_BIN, or the tracer beside this one.
  up     The same lab, with a web server in httpbin, until Enter is pressed: for experiments of your own.
  node   One node (--node NAME) with the device --nic DEV as its way to the other, which is on another machine;
         tracer observe there writes to --stream PATH, orders come from --control PATH, the inventory goes to
         --directory PATH, and --tick N sets the clock's rate (10000 is right). For cargo xtask vm.

topologies: ";

enum Task {
    Help,
    Demo { topology: Topology, service: bool, ipv6: bool, arguments: Vec<OsString> },
    Path { topology: Topology, service: bool, arguments: Vec<OsString> },
    Up { topology: Topology },
    Node(node::Options),
}

fn main() -> ExitCode {
    let task = match parse(lexopt::Parser::from_env()) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("error: {error}\n\n{}", usage());
            return ExitCode::from(2);
        }
    };
    let result = match task {
        Task::Help => {
            println!("{}", usage());
            Ok(())
        }
        Task::Demo { topology, service, ipv6, arguments } => demo(topology, service, ipv6, &arguments),
        Task::Path { topology, service, arguments } => path(topology, service, &arguments),
        Task::Up { topology } => up(topology),
        Task::Node(options) => node::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn usage() -> String {
    format!("{USAGE}{}", Topology::ALL.map(Topology::name).join(", "))
}

fn parse(mut parser: lexopt::Parser) -> Result<Task, lexopt::Error> {
    let command = match parser.next()? {
        Some(Value(command)) => command.string()?,
        Some(Long("help") | Short('h')) | None => return Ok(Task::Help),
        Some(other) => return Err(other.unexpected()),
    };
    let mut topology = Topology::RoutedVxlan;
    let (mut service, mut ipv6) = (false, false);
    let mut path = false;
    let mut arguments = Vec::new();
    let (mut node, mut nic, mut tick) = (String::new(), String::new(), None);
    let (mut stream, mut control, mut directory) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("topology") => topology = parser.value()?.parse()?,
            Long("service") if command == "demo" => service = true,
            Long("path") if command == "demo" => path = true,
            Long("ipv6") if command == "demo" => ipv6 = true,
            Long("node") if command == "node" => node = parser.value()?.string()?,
            Long("nic") if command == "node" => nic = parser.value()?.string()?,
            Long("stream") if command == "node" => stream = parser.value()?.into(),
            Long("control") if command == "node" => control = parser.value()?.into(),
            Long("directory") if command == "node" => directory = parser.value()?.into(),
            Long("tick") if command == "node" => tick = Some(parser.value()?.parse()?),
            Long("help") | Short('h') => return Ok(Task::Help),
            Value(first) if command == "demo" => {
                arguments.push(first);
                arguments.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    match command.as_str() {
        "demo" if path => Ok(Task::Path { topology, service, arguments }),
        "demo" => Ok(Task::Demo { topology, service, ipv6, arguments }),
        "up" => Ok(Task::Up { topology }),
        "node" => Ok(Task::Node(node::Options { topology, node, nic, stream, control, directory, tick })),
        other => Err(format!("no such command: {other}").into()),
    }
}

fn demo(topology: Topology, service: bool, ipv6: bool, arguments: &[OsString]) -> Result<()> {
    let tracer = tracer_program()?;
    let lab = Lab::build(topology)?;
    let (client, server) = (lab.pod("curl"), lab.pod("httpbin"));
    let _web = server.serve_http(80)?;
    let directory = PrivateDirectory::create()?;
    let inventory = lab.write_inventory(directory.path())?;
    let family = usize::from(ipv6);
    let (target, address) = if service {
        let service = lab.service("httpbin");
        let port = service.ports.first().context("the lab's Service has no port")?.port;
        ("svc/httpbin", SocketAddr::new(service.cluster_ips()[family], port))
    } else {
        ("httpbin", SocketAddr::new(server.ips()[family], 80))
    };
    let url = format!("http://{address}/");

    println!("$ tracer follow --local --inventory cluster.yaml --pod curl --to {target}");
    let mut follow = Command::new(&tracer);
    follow.args(["follow", "--local", "--pod", "curl", "--to", target, "--inventory"]);
    let mut follow = Follow::start(follow.arg(&inventory).args(arguments))?;
    follow.until_ready()?;
    println!("$ kubectl exec curl -- curl {url}\n");
    let answer = client.curl(&url)?;
    follow.until_quiet();
    follow.end()?;
    println!("\ncurl got HTTP {} with {} bytes.", answer.status, answer.body.len());
    Ok(())
}

/// The reference walks, each by one command.
fn path(topology: Topology, service: bool, arguments: &[OsString]) -> Result<()> {
    let tracer = tracer_program()?;
    let lab = Lab::build(topology)?;
    let directory = PrivateDirectory::create()?;
    let inventory = lab.write_inventory(directory.path())?;
    // A node asks for its neighbours' MAC addresses when it first sends to them.
    lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1)?;
    let target = if service { "svc/httpbin" } else { "httpbin" };
    println!("$ tracer path --local --inventory cluster.yaml --pod curl --to {target}");
    let mut path = Command::new(&tracer);
    path.args(["path", "--local", "--pod", "curl", "--to", target, "--inventory"]).arg(&inventory);
    let status =
        path.args(arguments).status().with_context(|| format!("cannot start {}", tracer.display()))?;
    anyhow::ensure!(status.success(), "tracer path ended with {status}");
    Ok(())
}

fn up(topology: Topology) -> Result<()> {
    let lab = Lab::build(topology)?;
    let _web = lab.pod("httpbin").serve_http(80)?;
    let directory = PrivateDirectory::create()?;
    let inventory = lab.write_inventory(directory.path())?;
    println!("topology {}, inventory {}", topology.name(), inventory.display());
    for node in lab.nodes() {
        println!("  node {:<16} {}", node.name(), node.netns().path().display());
    }
    for pod in lab.pods() {
        println!("  pod  {:<16} {}  {}", pod.name(), pod.netns().path().display(), pod.ipv4());
    }
    println!(
        "try:\n  tracer follow --local --inventory {} --pod curl --to httpbin\n  ip netns exec {} curl http://{}/\n\
         Enter ends it.",
        inventory.display(),
        lab.pod("curl").netns().name(),
        lab.pod("httpbin").ipv4(),
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read from the terminal")?;
    Ok(())
}

pub(crate) fn tracer_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRACER_BIN") {
        return Ok(PathBuf::from(path));
    }
    let beside = std::env::current_exe()?.with_file_name("tracer");
    if beside.exists() {
        return Ok(beside);
    }
    bail!(
        "there is no {} (build it: cargo build --release -p tracer), and TRACER_BIN names no other",
        beside.display()
    )
}

/// A directory that nobody else can write to, removed at the end.
pub(crate) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    pub(crate) fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("tracer-lab-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
