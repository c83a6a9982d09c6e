//! A real Prometheus scrapes agents under load, with the alerts of the chart: what the dashboard asks for is there.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tracer_agents::{Agent, Cluster};
use tracer_integration::{kernel_version, lab, patient, wait_until};
use tracer_lab::{Fault, Flood, Topology};

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/helm/tracer/files");
const SOON: Duration = Duration::from_secs(60);

/// Killed when dropped.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes these all the time.
    fn start(targets: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let configuration = json!({
            "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s" },
            "rule_files": [format!("{FILES}/alerts.yaml")],
            "scrape_configs": [{ "job_name": "tracer", "static_configs": [{ "targets": targets }] }],
        });
        let file = directory.path().join("prometheus.json");
        // JSON is YAML.
        fs::write(&file, configuration.to_string()).unwrap();
        // Free a moment ago; who takes it meanwhile makes the start fail.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let prometheus = Self { process, address, _directory: directory };
        wait_until(SOON, "Prometheus answers", || prometheus.ask("/-/ready", &[]).ok());
        prometheus
    }

    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--get"]);
        for (name, value) in parameters {
            command.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let output = command.arg(format!("http://{}{path}", self.address)).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A line of JSON for each panel of the dashboard: what it shows of the time until now.
    fn panels(&self, time: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let (begin, end) = ((now - time).as_secs_f64().to_string(), now.as_secs_f64().to_string());
        let mut text = String::new();
        for (panel, expressions) in panels() {
            let answers: Vec<Value> = expressions
                .iter()
                .map(|expression| {
                    let asked =
                        [("query", expression.as_str()), ("start", &begin), ("end", &end), ("step", "1")];
                    let answer = self.ask("/api/v1/query_range", &asked).unwrap();
                    serde_json::from_str::<Value>(&answer).unwrap()["data"]["result"].clone()
                })
                .collect();
            let unit = &panel["fieldConfig"]["defaults"]["unit"];
            let line =
                json!({ "title": panel["title"], "type": panel["type"], "unit": unit, "answers": answers });
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    /// The series that a query gives.
    fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.ask("/api/v1/query", &[("query", expression)]);
        let answer = answer.unwrap_or_else(|error| panic!("{expression}: {error}"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Panels of the dashboard and what they ask for, as Grafana would.
fn panels() -> Vec<(Value, Vec<String>)> {
    let text = fs::read_to_string(Path::new(FILES).join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let expression = |target: &Value| {
        let mut expression = target["expr"].as_str().unwrap().replace("$__rate_interval", "10s");
        for variable in ["$node", "$from", "$to"] {
            expression = expression.replace(variable, ".*");
        }
        expression
    };
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let asked = |panel: &Value| panel["targets"].as_array().unwrap().iter().map(expression).collect();
    panels.map(|panel| (panel.clone(), asked(panel))).collect()
}

/// Each of their queries, with the panel's title.
fn queries() -> Vec<(String, String)> {
    let panels = panels().into_iter();
    let queries = panels.flat_map(|(panel, asked)| {
        let title = panel["title"].as_str().unwrap().to_owned();
        asked.into_iter().map(move |expression| (title.clone(), expression))
    });
    queries.collect()
}

/// What only some installations have: legs of pods or of workloads, drops where the kernel gives reasons, the programs'
/// run time where the kernel is told to count it.
fn is_not_here(expression: &str) -> bool {
    expression.contains("tracer_pod_leg")
        || expression.contains("tracer_program_run")
        || (expression.contains("tracer_drops") && kernel_version() < (5, 17))
}

#[test]
fn prometheus_scrapes_agents_under_load_and_every_panel_of_the_dashboard_has_data() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let cluster = Cluster::of(&lab).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let options = ["--metrics", "127.0.0.1:0", "--sample", "1", "--by", "workload"];
    let agents: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| Agent::start_with_options(&cluster, node.name(), &options).unwrap())
        .collect();
    let targets: Vec<String> = agents
        .iter()
        .map(|agent| {
            let line = agent.wait_for_log("metrics are served").unwrap();
            line.split_whitespace().find_map(|word| word.strip_prefix("metrics=")).unwrap().to_owned()
        })
        .collect();
    let _fault = lab.inject(lab.node_of(&curl).name(), Fault::DropRule { port: 9001 }).unwrap();
    let prometheus = Prometheus::start(&targets);
    let dropped = SocketAddr::new(httpbin.ipv4().into(), 9001);

    let end = Instant::now() + patient(SOON);
    loop {
        curl.ping(httpbin.ipv4().into(), 3).unwrap();
        curl.udp_flood(dropped, Flood { packets: 20, payload: 100, rate: None }).unwrap();
        let mut empty = queries();
        empty.retain(|(_, expression)| {
            let series = prometheus.query(expression);
            !is_not_here(expression) && series.iter().all(|series| series["value"][1] == "NaN")
        });
        if empty.is_empty() {
            break;
        }
        assert!(Instant::now() < end, "no data for {empty:#?}");
    }

    if let Some(file) = std::env::var_os("TRACER_PANELS") {
        // For docs/pictures/panels.py: a minute of load, and what each panel shows of it.
        let web = httpbin.serve_http(80).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            curl.curl(&format!("http://{}/bytes/100000", httpbin.ipv4())).unwrap();
            curl.udp_flood(dropped, Flood { packets: 20, payload: 100, rate: None }).unwrap();
        }
        drop(web);
        fs::write(file, prometheus.panels(Duration::from_secs(60))).unwrap();
    }

    let up = prometheus.query("up == 1");
    assert_eq!(up.len(), 2, "{up:?}");
    let rules: Value = serde_json::from_str(&prometheus.ask("/api/v1/rules", &[]).unwrap()).unwrap();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    if kernel_version() >= (5, 17) {
        let drops = prometheus.query("tracer_drops_total{reason=\"NETFILTER_DROP\", role=\"pod_peer\"}");
        assert!(!drops.is_empty());
    }
    let legs = prometheus.query("tracer_workload_leg_latency_seconds_count{workload=\"pod/curl\"}");
    assert!(!legs.is_empty());
}
