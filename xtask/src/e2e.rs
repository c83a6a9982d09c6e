//! `cargo xtask e2e`: the reference walks on a real cluster, the one that `KUBECONFIG` names. Installs the chart and two pods
//! in namespaces of their own, and removes everything at the end, also when something fails.
//!
//! | module | holds |
//! |---|---|
//! | `cluster` | kubectl and helm, and what is installed by them |
//! | `follow` | a running `tracer follow` and what it told |
//! | `walks` | what must be seen |

mod cluster;
mod follow;
mod walks;

use anyhow::{Context as _, Result};
use ebpf_build::pins::Manifest;

use self::cluster::{Cluster, Images};
use crate::steps::Steps;
use crate::{cargo, chart, setup};

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of the agent, as the cluster's nodes pull it: `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
    pub(crate) image: String,
    /// An image with sh, sleep and curl; the one of Cargo.toml if not given.
    pub(crate) client_image: Option<String>,
    /// An image that serves HTTP on port 80; the one of Cargo.toml if not given.
    pub(crate) server_image: Option<String>,
    /// Leave everything as it is at the end.
    pub(crate) keep: bool,
}

/// Installs, walks, removes.
///
/// # Errors
/// Something of tracer is installed already, it cannot be installed, or a walk does not show what it must.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(false)?;
    let images = Images {
        agent: options.image.clone(),
        client: pinned(options.client_image.as_deref(), "client")?,
        server: pinned(options.server_image.as_deref(), "server")?,
    };
    eprintln!("e2e: builds tracer (some minutes the first time, seconds later)");
    let built = cargo::build(["build", "--release", "--bins", "--package=tracer"])?;
    let cluster = Cluster::new(cargo::program(&built, "tracer")?, chart::helm()?, images)?;
    cluster.must_be_without_tracer()?;
    let mut steps = Steps::default();
    let walked = walks::walk(&cluster, &mut steps);
    if options.keep {
        eprintln!("e2e: everything is left as it is; remove it with\n{}", cluster.how_to_remove());
        eprintln!("\n{steps}");
        return walked;
    }
    let removed = steps.run("remove", "kubectl and helm", || cluster.remove());
    eprintln!("\n{steps}");
    walked.and(removed)
}

fn pinned(given: Option<&str>, which: &str) -> Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let manifest = Manifest::read(ebpf_build::workspace_root())?;
    let pinned = manifest.metadata("e2e")?.get(which).and_then(|value| value.as_str().map(str::to_owned));
    pinned.with_context(|| format!("Cargo.toml: [workspace.metadata.e2e] has no {which}"))
}
