//! All JSON that is printed obeys `docs/json.schema.json`, and has no field that is not in it.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracer_integration::{Tracer, lab};
use tracer_lab::Topology;

/// Checks each line of its input. For who reads the output, unknown fields are none of his business; here they are an error.
const CHECK: &str = r##"
import json, sys, jsonschema
def strict(part):
    if isinstance(part, dict):
        if "properties" in part:
            part["additionalProperties"] = False
        for value in part.values():
            strict(value)
    elif isinstance(part, list):
        for value in part:
            strict(value)
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
strict(schema)
kinds = {}
for line in sys.stdin:
    value = json.loads(line)
    name = value["schema"].split("/")[0].removeprefix("tracer.")
    kinds[name] = kinds.get(name, 0) + 1
    # By its own part, so that the error says what is wrong and not that it is none of all.
    part = {"$ref": "#/$defs/" + name, "$defs": schema["$defs"]}
    jsonschema.Draft202012Validator(part).validate(value)
    jsonschema.Draft202012Validator(schema).validate(value)
print(" ".join(sorted(kinds)))
"##;

fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.schema.json")
}

/// Asserts that all lines obey the schema; gives the kinds that there were.
#[track_caller]
fn kinds(lines: &[String]) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", CHECK]).arg(schema());
    let mut python =
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = python.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn trajectories_exchanges_and_the_summary_are_as_the_schema_says() {
    let lab = lab(Topology::RoutedVxlan).unwrap();
    let (curl, httpbin) = (lab.pod("curl"), lab.pod("httpbin"));
    let web = httpbin.serve_http(80).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    let follow = tracer.follow(&["--pod", "curl", "--to", "svc/httpbin"]).unwrap();
    let service = lab.service("httpbin").cluster_ipv4;

    curl.curl(&format!("http://{}/bytes/100", SocketAddr::new(service.into(), 8000))).unwrap();
    curl.ping(httpbin.ipv4().into(), 2).unwrap();
    // Nobody listens: dropped, with a reason where the kernel tells one, and an answer that says so.
    assert!(curl.curl(&format!("http://{}/", SocketAddr::new(httpbin.ipv4().into(), 81))).is_err());
    drop(web);

    let report = follow.stop().unwrap();
    assert_eq!(kinds(&report.stdout), "exchange summary trajectory");
}

#[test]
fn points_are_as_the_schema_says() {
    let lab = lab(Topology::CiliumLegacyRouting).unwrap();
    let output = Tracer::new(&lab).unwrap().run("points", &["-o", "json"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(kinds(&text.lines().map(str::to_owned).collect::<Vec<_>>()), "points");
}

#[test]
fn what_the_schema_does_not_have_is_found() {
    let summary = r#"{"schema":"tracer.points/v1","kernel":{"release":"6.1","ring_buffer":true,"kernel_btf":true,"drop_reasons":true,"tcx":false,"netkit":false},"points":[],"more":1}"#;
    let found = std::panic::catch_unwind(|| kinds(&[summary.to_owned()]));
    assert!(found.is_err(), "the check can fail");
}

#[test]
fn ways_are_as_the_schema_says() {
    let lab = lab(Topology::CiliumLegacyRouting).unwrap();
    let tracer = Tracer::new(&lab).unwrap();
    lab.pod("curl").ping(lab.pod("httpbin").ipv4().into(), 1).unwrap();
    let way = |arguments: &[&str]| {
        let output =
            tracer.run("path", &[&["--pod", "curl", "-o", "json", "--to"], arguments].concat()).unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };

    let lines = [
        way(&["httpbin"]),
        way(&["svc/httpbin"]),
        way(&["httpbin-local", "--diff", "pod/httpbin"]),
        way(&["192.0.2.1"]),
    ];

    assert_eq!(kinds(&lines), "path");
}
