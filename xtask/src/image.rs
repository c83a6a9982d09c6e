//! `cargo xtask image`: the static program as an OCI archive, without a container engine. Layout and media types:
//! <https://github.com/opencontainers/image-spec>.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{cargo, process, setup};

/// Builds, packs, and prints where the archive is and what its digest is.
///
/// # Errors
/// When setup or build fail, or a file cannot be written.
pub(crate) fn run() -> Result<()> {
    setup::run(false)?;
    let target = cargo::host_triple()?;
    let mut build = cargo::cargo();
    build.args(["build", "--release", "--bins", "--package=tracer", "--target", &target]);
    build
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=debuginfo")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let built = cargo::executables(&mut build)?;
    let directory = ebpf_build::workspace_root().join("target/image");
    let (archive, digest) = pack(cargo::program(&built, "tracer")?, &directory)?;
    println!("{}\n{digest}", archive.display());
    Ok(())
}

/// Packs a program into `directory`; gives the archive, and the digest of its manifest.
fn pack(program: &Path, directory: &Path) -> Result<(PathBuf, String)> {
    let layout = directory.join("layout");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("cannot empty {}", layout.display()))?;
    }
    let blobs = Blobs { directory: layout.join("blobs/sha256") };
    fs::create_dir_all(&blobs.directory)
        .with_context(|| format!("cannot make {}", blobs.directory.display()))?;
    // Also for those who build with deploy/Dockerfile.
    let file = directory.join("tracer");
    fs::copy(program, &file).with_context(|| format!("cannot copy {}", program.display()))?;
    let layer = directory.join("layer.tar");
    tar(&layer, directory, &["tracer"])?;
    let layer = blobs.add_file(&layer, "application/vnd.oci.image.layer.v1.tar")?;
    let version = env!("CARGO_PKG_VERSION");
    let config = json!({
        "architecture": architecture()?, "os": "linux",
        "config": {
            "Entrypoint": ["/tracer"],
            "Labels": { "org.opencontainers.image.title": "tracer", "org.opencontainers.image.version": version },
        },
        // Of a layer that is not compressed it is the digest.
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blobs.add(&config, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest = blobs.add(&manifest, "application/vnd.oci.image.manifest.v1+json")?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": version, "io.containerd.image.name": format!("docker.io/library/tracer:{version}"),
    });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
    });
    write(&layout.join("index.json"), &serde_json::to_vec(&index)?)?;
    write(&layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = directory.join(format!("tracer-{version}.oci.tar"));
    tar(&archive, &layout, &["oci-layout", "index.json", "blobs"])?;
    Ok((archive, digest))
}

/// Content by its digest.
struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// Adds a JSON object; gives its descriptor.
    fn add(&self, object: &Value, media_type: &str) -> Result<Value> {
        let file = self.directory.join("new");
        write(&file, &serde_json::to_vec(object)?)?;
        self.add_file(&file, media_type)
    }

    /// Moves a file in; gives its descriptor.
    fn add_file(&self, file: &Path, media_type: &str) -> Result<Value> {
        let size = fs::metadata(file).with_context(|| format!("no {}", file.display()))?.len();
        let sum = process::output(Command::new("sha256sum").arg(file)).context("sha256sum does not run")?;
        let digest = sum.split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(digest.len() == 64, "sha256sum printed {sum:?}");
        fs::rename(file, self.directory.join(&digest)).context("cannot move a blob to its place")?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
    }
}

/// The same bytes from the same files.
fn tar(archive: &Path, directory: &Path, files: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=a=rX,u+w"]);
    process::run(tar.arg("-cf").arg(archive).arg("-C").arg(directory).args(files))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// As Go calls it.
fn architecture() -> Result<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => anyhow::bail!("no image for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_what_its_index_names_and_is_the_same_every_time() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "a program").unwrap();
        let image = directory.path().join("image");
        fs::create_dir_all(&image).unwrap();
        let (archive, digest) = pack(&program, &image).unwrap();
        let first = fs::read(&archive).unwrap();
        let read = |digest: &Value| -> Value {
            let name = digest["digest"].as_str().unwrap().replace("sha256:", "");
            let bytes = fs::read(image.join("layout/blobs/sha256").join(name)).unwrap();
            assert_eq!(bytes.len() as u64, digest["size"].as_u64().unwrap());
            serde_json::from_slice(&bytes).unwrap_or(Value::Null)
        };
        let index: Value =
            serde_json::from_slice(&fs::read(image.join("layout/index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest = read(&index["manifests"][0]);
        let config = read(&manifest["config"]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        read(&manifest["layers"][0]);

        let (archive, again) = pack(&program, &image).unwrap();
        assert_eq!((fs::read(archive).unwrap(), again), (first, digest));
    }
}
