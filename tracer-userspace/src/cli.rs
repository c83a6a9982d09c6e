//! What can be typed. Values are checked here as far as that needs nothing but the value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use tracer_common::record::MAX_SNAPLEN;

use crate::agent::attach::AttachMode;
use crate::agent::bytes::CaptureBytes;
use crate::agent::metrics::groups::By;
use crate::capture::foreign::Place;

/// Where is my packet? Follows live packets through nodes, tunnels and NAT, by pod name.
///
/// Nothing is changed on their way: no tag, no mark, no configuration.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the packets between a pod and a target, hop by hop
    Follow(FollowArgs),
    /// Capture the packets between a pod and a target, at all their hops, into one file for Wireshark
    Capture(CaptureArgs),
    /// Tell what captures show: those of `tracer capture`, and those of tcpdump on several devices
    Read(ReadArgs),
    /// Observe this machine for a follow elsewhere: writes a stream for `tracer follow --from`
    Observe(ObserveArgs),
    /// Measure how long packets take from point to point on this machine, for Prometheus
    Metrics(MetricsArgs),
    /// Observe this node for those who may look: what the DaemonSet runs
    Agent(AgentArgs),
    /// List the observation points: devices, hooks, our place there and who else is on them
    Points(PointsArgs),
    /// Show which way packets would go between a pod and a target, from the nodes' own state, and what looks wrong
    Path(PathArgs),
    /// Say whether a follow will work: rights, agents, kernels, pods, hooks and clocks
    Doctor(DoctorArgs),
    /// Print a script that completes commands and flags on Tab
    Completion {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the definitions of PacketTrace and PacketPayload, for `kubectl apply -f -`
    Crd,
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Into this directory
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct FollowArgs {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub telling: TellingArgs,
}

#[derive(Debug, Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Write the capture (pcapng) to this file; `-` is stdout
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub write: PathBuf,
    /// Bytes of each packet: `headers` for none of its payload, or a number for the first so many, payload or not
    #[arg(long, value_name = "headers|BYTES", default_value = "headers", value_parser = snaplen)]
    pub snaplen: CaptureBytes,
    /// Begin a new file when one has this many bytes; files get numbers
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub rotate_bytes: Option<u64>,
    /// Begin a new file after this time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub rotate_every: Option<Duration>,
    /// Keep only this many files, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    /// Captures (pcapng, pcap; `-` is stdin). Before one that `tracer capture` has not made, say where it was taken:
    /// NODE/DEVICE=FILE, or NODE/NAMESPACE/POD/DEVICE=FILE for a device in a pod
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<Place>,
    /// Pods, Services and nodes: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` printed. Files of
    /// `tracer capture` bring the names that they need
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub inventory: Option<PathBuf>,
    /// How far the clocks of the captures may be apart: packets are waited for that long
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub skew: Duration,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    #[command(flatten)]
    pub telling: TellingArgs,
}

/// Which of the packets that are seen.
#[derive(Debug, Args)]
pub struct ChoiceArgs {
    /// Only packets of which this holds at one of their hops: an expression as for tcpdump (pcap-filter)
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// End after this many packets have been told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// How trajectories are told.
#[derive(Debug, Args)]
pub struct TellingArgs {
    /// How to tell it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Tell every packet by itself, hop by hop, instead of requests and answers as ladders
    #[arg(long)]
    pub packets: bool,
    /// Tell only the summary at the end
    #[arg(short, long)]
    pub quiet: bool,
    /// Colour the text
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
}

/// What is followed, and from where.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Observe this machine, without Kubernetes' help
    #[arg(long, requires = "inventory", conflicts_with_all = ["kubeconfig", "context"])]
    pub local: bool,
    /// Join what `tracer observe` wrote, or writes, here: a file, a FIFO, or a Unix socket; once for each machine
    #[arg(
        long,
        requires = "inventory",
        value_name = "PATH",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = ["local", "kubeconfig", "context"],
    )]
    pub from: Vec<PathBuf>,
    /// With --local and --from, pods, Services and nodes: what `kubectl get pods,services,endpointslices,nodes -A -o yaml`
    /// printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub inventory: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    #[command(flatten)]
    pub ending: EndingArgs,
    #[command(flatten)]
    pub hooks: HookArgs,
}

/// Which cluster, where neither --local nor --from is given.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// The cluster and who asks it, as for kubectl
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Where the agents are
    #[arg(long, value_name = "NAMESPACE", default_value = "tracer-system")]
    pub agents_namespace: String,
}

#[derive(Debug, Args)]
pub struct ObserveArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub ending: EndingArgs,
    #[command(flatten)]
    pub hooks: HookArgs,
    /// For `tracer capture --from`: bytes of each packet, as there
    #[arg(long, value_name = "headers|BYTES", value_parser = snaplen)]
    pub snaplen: Option<CaptureBytes>,
}

#[derive(Debug, Args)]
pub struct MetricsArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Where to serve /metrics: an address of loopback; port 0 takes any
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Measure one packet in so many: a power of two from 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = sample)]
    pub sample: u32,
    #[command(flatten)]
    pub legs: LegArgs,
    #[command(flatten)]
    pub ending: EndingArgs,
    #[command(flatten)]
    pub hooks: HookArgs,
}

/// Whose legs are told apart.
#[derive(Clone, Copy, Debug, Args)]
pub struct LegArgs {
    /// Tell the legs of each pod or workload as well, where legs are measured
    #[arg(long, value_enum, value_name = "WHAT")]
    pub by: Option<By>,
    /// With --by: of at most so many; others are counted as refused
    #[arg(long, value_name = "N", default_value_t = 100, requires = "by", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub by_most: u16,
}

impl LegArgs {
    /// What, and how many.
    #[must_use]
    pub fn groups(self) -> Option<(By, u16)> {
        self.by.map(|by| (by, self.by_most))
    }
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// This node, as Kubernetes calls it: the spec.nodeName of the agent's pod
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// Where to serve the API: an address of loopback; port 0 takes any
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = crate::serve::run::LISTEN)]
    pub listen: SocketAddr,
    /// Where to answer the kubelet's probes, /healthz and /readyz; port 0 takes any
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:4281")]
    pub probes: SocketAddr,
    /// Where to serve /metrics for Prometheus, which has no packet data; nowhere if not given
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// With --metrics: measure the legs of one packet in so many, a power of two, at all devices of the node and all the
    /// time
    #[arg(long, value_name = "N", requires = "metrics", value_parser = sample)]
    pub sample: Option<u32>,
    #[command(flatten)]
    pub legs: LegArgs,
    /// The cluster and who asks it; the pod's service account if not given
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How to attach: TCX at the head, legacy clsact filters, or the first where the kernel has it
    #[arg(long, value_enum, default_value_t)]
    pub attach: AttachMode,
    /// Size of the kernel's ring buffer, bytes: a power of two from 4096 on
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
    /// A further UDP port to look for VXLAN on, besides 4789 and 8472
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: Option<u16>,
    /// Log what the eBPF programs do (for developers; slow)
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t, hide_short_help = true)]
    pub program_log: ProgramLog,
}

/// Which way.
#[derive(Debug, Args)]
pub struct PathArgs {
    /// Look at this machine, without Kubernetes' help
    #[arg(long, requires = "inventory", conflicts_with_all = ["kubeconfig", "context"])]
    pub local: bool,
    /// With --local: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "local")]
    pub inventory: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// From whom: a pod ([NAMESPACE/]NAME), or anything else that `tracer follow --pod` takes
    #[arg(long, value_name = "TARGET")]
    pub pod: String,
    /// To whom, named in the same way
    #[arg(long, value_name = "TARGET")]
    pub to: String,
    /// Namespace of the pods and Services that are named without one
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Which port of a Service: a number, or its name; the first if not given
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Compare: pod/NAME with that pod's way to the same target, a file with the last packet in what
    /// `tracer follow --packets -o json` printed (`-` is stdin)
    #[arg(long, value_name = "pod/NAME|FILE")]
    pub diff: Option<String>,
    /// Say what says so, for each step
    #[arg(short, long)]
    pub verbose: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Colour the text
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
}

/// What is examined.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Examine this machine, not a cluster
    #[arg(long, requires = "inventory", conflicts_with_all = ["kubeconfig", "context"])]
    pub local: bool,
    /// With --local: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "local")]
    pub inventory: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The namespace whose pods are to be followed; the context's if not given
    #[arg(short, long)]
    pub namespace: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Colour the text
    #[arg(long, value_enum, default_value_t)]
    pub color: Color,
}

#[derive(Debug, Args)]
pub struct EndingArgs {
    /// End after this time, such as 10s, 500ms or 2m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// Where and how to attach on this machine; elsewhere its agent or `tracer observe` decides.
#[derive(Debug, Args)]
pub struct HookArgs {
    /// Only this node's devices and pods, where several nodes are on this machine; may be given several times
    #[arg(long = "node", requires = "local", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// How to attach: TCX at the head, legacy clsact filters, or the first where the kernel has it
    #[arg(long, requires = "local", value_enum, default_value_t)]
    pub attach: AttachMode,
    /// Size of the kernel's ring buffer, bytes: a power of two from 4096 on
    #[arg(long, requires = "local", value_name = "BYTES", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
    /// A further UDP port to look for VXLAN on, besides 4789 and 8472
    #[arg(long, requires = "local", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: Option<u16>,
    /// Log what the eBPF programs do, to stderr (for developers; slow)
    #[arg(
        long,
        requires = "local",
        value_enum,
        value_name = "LEVEL",
        default_value_t,
        hide_short_help = true
    )]
    pub program_log: ProgramLog,
}

#[derive(Debug, Args)]
pub struct PointsArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Only the points of a follow of this pod
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub pod: Option<String>,
    /// The other end of that follow
    #[arg(long, value_name = "TARGET", requires = "pod")]
    pub to: Option<String>,
    /// Namespace of the pods and Services that are named without one
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Where names and packets come from.
#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Observe this machine, without Kubernetes' help (the only way in this version)
    #[arg(long, required = true)]
    pub local: bool,
    #[command(flatten)]
    pub inventory: InventoryArgs,
}

/// Where names come from.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// Pods, Services and nodes: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub inventory: PathBuf,
}

/// Whose packets.
#[derive(Clone, Debug, Args)]
pub struct SelectionArgs {
    /// Whom to follow: a pod ([NAMESPACE/]NAME), all of deploy/NAME, sts/, ds/, rs/ or job/NAME, those behind
    /// svc/NAME, node/NAME, or an IP address
    #[arg(long, value_name = "TARGET", required_unless_present = "selector")]
    pub pod: Option<String>,
    /// Instead of --pod: all pods of the namespace with these labels, as kubectl takes them
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "pod")]
    pub selector: Option<String>,
    /// The other end, named like --pod, or any IP address; everything if not given
    #[arg(long, value_name = "TARGET")]
    pub to: Option<String>,
    /// Namespace of the pods and Services that are named without one
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only packets from or to this port: a number, or a name of the Service's (its target ports are included)
    #[arg(long = "port", value_name = "PORT")]
    pub ports: Vec<String>,
    /// Only this protocol: tcp, udp, icmp, icmpv6, sctp, or its number
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// Levels of aya-log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgramLog {
    #[default]
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| format!("'{text}' is no time: use a number and a unit, such as 10s"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("'{text}' is not longer than nothing")),
    }
}

fn sample(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(rate) if rate.is_power_of_two() && rate <= 1 << 16 => Ok(rate),
        _ => Err("one packet in 1, 2, 4, ... 65536 can be measured".to_owned()),
    }
}

fn snaplen(text: &str) -> Result<CaptureBytes, String> {
    if text == "headers" {
        return Ok(CaptureBytes::Headers);
    }
    match text.parse::<u32>() {
        Ok(bytes) if bytes > 0 && bytes as usize <= MAX_SNAPLEN => Ok(CaptureBytes::Most(bytes)),
        _ => Err(format!("'headers', or a number from 1 to {MAX_SNAPLEN}")),
    }
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes >= 4096 && bytes.is_power_of_two() && bytes <= 1 << 30 => Ok(bytes),
        _ => Err("the kernel takes a power of two from 4096 to 1073741824".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "10", "0s", "-5s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sample_is_one_in_a_power_of_two() {
        assert_eq!((sample("1"), sample("64")), (Ok(1), Ok(64)));
        for wrong in ["0", "3", "131072", "-1", "1/64"] {
            assert!(sample(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_packet_is_captured_up_to_its_payload_or_to_a_number_of_bytes() {
        assert_eq!(snaplen("headers"), Ok(CaptureBytes::Headers));
        assert_eq!(snaplen("96"), Ok(CaptureBytes::Most(96)));
        for wrong in ["0", "-1", "16385", "262144", "all"] {
            assert!(snaplen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_ring_is_a_power_of_two_of_at_least_a_page() {
        assert_eq!(ring_bytes("4096"), Ok(4096));
        for wrong in ["0", "4095", "5000", "-1", "x"] {
            assert!(ring_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
