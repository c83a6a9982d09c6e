//! What `tracer metrics` serves is what packets really did: every chosen packet is accounted for, leg by leg.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tracer_integration::{Tracer, kernel_version, lab};
use tracer_lab::{Fault, Flood, Topology};

/// `tracer metrics`, which serves when this exists.
struct Metrics {
    process: Child,
    url: String,
}

impl Metrics {
    fn start(tracer: &Tracer, sample: &str) -> Self {
        let mut command = tracer.command("metrics", &["--listen", "127.0.0.1:0", "--sample", sample]);
        if let Ok(attach) = std::env::var("TRACER_ATTACH") {
            command.args(["--attach", &attach]);
        }
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let mut said = Vec::new();
        let mut url = None;
        for line in stderr.lines() {
            let line = line.unwrap();
            if line.starts_with("measuring ") {
                url = line.split("; ").find(|part| part.starts_with("http://")).map(str::to_owned);
                break;
            }
            said.push(line);
        }
        if let Some(url) = url {
            return Self { process, url };
        }
        let status = process.wait().unwrap();
        panic!("it ended before it measured ({status}): {said:?}");
    }

    fn scrape(&self) -> String {
        let output = Command::new("curl").args(["-sS", "--fail", &self.url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::INT).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

/// The value of the series whose line begins with `series`.
fn value(text: &str, series: &str) -> u64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn every_packet_at_a_hook_is_measured_or_counted_as_not_and_every_leg_is_told() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let metrics = Metrics::start(&tracer, "1");

    curl.ping(httpbin.ipv4().into(), 10).unwrap();

    let text = metrics.scrape();
    metrics.stop();
    let outcome = |name: &str| value(&text, &format!("tracer_sampling_packets_total{{outcome=\"{name}\"}}"));
    let leg = |from: &str, to: &str| {
        value(&text, &format!("tracer_leg_latency_seconds_count{{from=\"{from}\",to=\"{to}\"}}"))
    };
    // Ten requests and ten replies, each from a pod to a NIC and from a NIC to a pod.
    assert!(leg("pod_interface_egress", "pod_peer_ingress") >= 20, "{text}");
    assert!(leg("tunnel_egress", "nic_egress") >= 20, "{text}");
    assert!(leg("nic_ingress", "tunnel_ingress") >= 20, "{text}");
    assert!(leg("pod_peer_egress", "pod_interface_ingress") >= 20, "{text}");
    assert_eq!(sum(&text, "tracer_leg_latency_seconds_count"), outcome("leg"), "{text}");
    for lost in ["truncated", "refused", "internal", "unknown_point"] {
        assert_eq!(outcome(lost), 0, "{lost} in\n{text}");
    }
    let measured = sum(&text, "tracer_sampling_packets_total");
    let at_hooks = |name: &str| value(&text, &format!("tracer_hook_packets_total{{outcome=\"{name}\"}}"));
    assert_eq!(measured, at_hooks("filtered"), "{text}");
    assert_eq!(at_hooks("recorded"), 0, "metrics make no records");
}

#[test]
fn what_the_kernel_drops_is_counted_by_reason_and_by_the_device_where_it_did() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let node = lab.node_of(&curl).name().to_owned();
    let _fault = lab.inject(&node, Fault::DropRule { port: 9001 }).unwrap();
    let metrics = Metrics::start(&tracer, "64");
    let flood = Flood { packets: 50, payload: 100, rate: None };

    curl.udp_flood(SocketAddr::new(httpbin.ipv4().into(), 9001), flood).unwrap();

    let text = metrics.scrape();
    metrics.stop();
    if kernel_version() < (5, 17) {
        assert!(!text.contains("tracer_drops"), "this kernel gives no reasons\n{text}");
        return;
    }
    let series = format!("tracer_drops_total{{node=\"{node}\",role=\"pod_peer\",reason=\"NETFILTER_DROP\"}}");
    assert_eq!(value(&text, &series), 50, "{text}");
    assert_eq!(value(&text, "tracer_drops_untold_total"), 0, "{text}");
}
