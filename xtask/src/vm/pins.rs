//! `[workspace.metadata.vm]` of the root `Cargo.toml`: what the virtual machines are made of.

use anyhow::{Context as _, Result};
use ebpf_build::pins::Manifest;

/// See the comments in `Cargo.toml`.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    pub(crate) mirror: String,
    pub(crate) keyring: String,
    pub(crate) kernel_suites: Vec<String>,
    pub(crate) series: Vec<String>,
    pub(crate) userland_suite: String,
    pub(crate) userland: Vec<String>,
    pub(crate) modules: Vec<String>,
}

impl Pins {
    /// # Errors
    /// When a key is missing or has the wrong type.
    pub(crate) fn read() -> Result<Self> {
        let manifest = Manifest::read(ebpf_build::workspace_root())?;
        let section = manifest.metadata("vm")?;
        let text = |key: &str| {
            let value = section.get(key).and_then(|value| value.as_str());
            value.map(str::to_owned).with_context(|| missing(key))
        };
        let list = |key: &str| {
            let values = section.get(key).and_then(|value| value.as_array()).with_context(|| missing(key))?;
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().with_context(|| missing(key))
        };
        Ok(Self {
            mirror: text("mirror")?,
            keyring: text("keyring")?,
            kernel_suites: list("kernel-suites")?,
            series: list("series")?,
            userland_suite: text("userland-suite")?,
            userland: list("userland")?,
            modules: list("modules")?,
        })
    }
}

fn missing(key: &str) -> String {
    format!("Cargo.toml: [workspace.metadata.vm] has no usable {key:?}")
}
