//! Packages of Debian suites that this machine does not run, in a directory of their own: own sources, own lists, own
//! archives. The base system's apt is not touched and nothing is installed. apt checks signatures and checksums.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::process;

use super::pins::Pins;

/// Lists older than this are fetched again: suites drop old versions when they get newer ones.
const LISTS_ARE_FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A package as a suite offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// apt with directories of its own.
#[derive(Debug)]
pub(crate) struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Opens the archive in `dir` for some suites, and fetches their lists of packages unless they are fresh.
    ///
    /// # Errors
    /// When the lists cannot be fetched and there are none from before.
    pub(crate) fn open(dir: &Path, pins: &Pins, suites: &[String]) -> Result<Self> {
        if !Path::new("/usr/bin/apt-get").exists() {
            bail!(
                "the virtual machines are made of Debian packages, which need apt-get and dpkg on this machine"
            );
        }
        if !Path::new(&pins.keyring).exists() {
            bail!("no {}: install the package debian-archive-keyring", pins.keyring);
        }
        for part in ["lists/partial", "archives/partial"] {
            create_dir(&dir.join(part))?;
        }
        // Nothing counts as installed, so that all that a package needs is resolved.
        write(&dir.join("status"), "")?;
        let archive = Self { dir: dir.to_owned() };
        let sources = suites
            .iter()
            .map(|suite| {
                format!("deb [arch=amd64 signed-by={}] {} {suite} main\n", pins.keyring, pins.mirror)
            })
            .collect::<String>();
        let sources_list = dir.join("sources.list");
        let fetched = dir.join("fetched");
        let same = fs::read_to_string(&sources_list).is_ok_and(|old| old == sources);
        if same && is_fresh(&fetched) {
            return Ok(archive);
        }
        write(&sources_list, &sources)?;
        eprintln!("vm: fetching the lists of packages of {}", suites.join(", "));
        match process::run(archive.apt("apt-get").args(["--quiet=2", "update"])) {
            Ok(()) => write(&fetched, "")?,
            Err(error) if same && fetched.exists() => {
                eprintln!("vm: {error:#}; the lists from before are used");
            }
            Err(error) => {
                return Err(error.context(format!("cannot fetch Debian's lists from {}", pins.mirror)));
            }
        }
        Ok(archive)
    }

    /// The packages whose names match a shell pattern, in every version that the suites have.
    ///
    /// # Errors
    /// When apt fails.
    pub(crate) fn matching(&self, pattern: &str) -> Result<Vec<Package>> {
        let shown = process::output(self.apt("apt-cache").args(["show", pattern]))
            .with_context(|| format!("apt knows no package {pattern}"))?;
        let field = |stanza: &str, name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        let package = |stanza: &str| {
            Some(Package { name: field(stanza, "Package:")?, version: field(stanza, "Version:")? })
        };
        Ok(shown.split("\n\n").filter_map(package).collect())
    }

    /// All packages that some packages of a suite need, themselves included.
    ///
    /// # Errors
    /// When apt cannot resolve them.
    pub(crate) fn resolve(&self, names: &[String]) -> Result<Vec<Package>> {
        let mut apt = self.apt("apt-get");
        apt.args(["--simulate", "--no-install-recommends", "install"]).args(names);
        let plan =
            process::output(&mut apt).with_context(|| format!("apt cannot resolve {}", names.join(", ")))?;
        let package = |line: &str| {
            let mut words = line.strip_prefix("Inst ")?.split_whitespace();
            let (name, version) = (words.next()?, words.next()?);
            Some(Package { name: name.to_owned(), version: version.trim_start_matches('(').to_owned() })
        };
        Ok(plan.lines().filter_map(package).collect())
    }

    /// The files of these packages, in a directory that holds nothing else. What is there already is checked against
    /// its checksums and not fetched again.
    ///
    /// # Errors
    /// When a package cannot be fetched.
    pub(crate) fn fetch(&self, dir: &Path, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let wanted: String =
            packages.iter().map(|package| format!("{}={}\n", package.name, package.version)).collect();
        let list = dir.join("packages");
        let complete = fs::read_to_string(&list).is_ok_and(|had| had == wanted) && checksums_hold(dir);
        if !complete {
            if dir.exists() {
                fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
            }
            create_dir(dir)?;
            let count = packages.len();
            eprintln!("vm: fetching {count} package{}", if count == 1 { "" } else { "s" });
            let mut apt = self.apt("apt-get");
            apt.current_dir(dir).args(["--quiet=2", "download"]).args(wanted.lines());
            process::run(&mut apt).with_context(|| {
                let fetched = self.dir.join("fetched");
                format!("cannot fetch packages; remove {} to have newer lists fetched", fetched.display())
            })?;
            let mut sum = Command::new("sh");
            sum.current_dir(dir).args(["-c", "sha256sum -- *.deb > SHA256SUMS"]);
            process::run(&mut sum)?;
            write(&list, &wanted)?;
        }
        let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
        files.sort();
        Ok(files)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let dir = |part: &str| self.dir.join(part).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", dir("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            "Dir::Etc::Preferences=/dev/null".to_owned(),
            "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", dir("lists")),
            format!("Dir::State::Status={}", dir("status")),
            format!("Dir::Cache={}", dir("")),
            format!("Dir::Cache::Archives={}", dir("archives")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ];
        command.args(options.iter().map(|option| format!("--option={option}")));
        command.env("LC_ALL", "C");
        command
    }
}

/// Unpacks packages into `root`.
///
/// # Errors
/// When dpkg-deb fails.
pub(crate) fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    create_dir(root)?;
    for package in packages {
        process::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(root))?;
    }
    Ok(())
}

/// Whether Debian's version `a` is newer than `b`.
pub(crate) fn is_newer(a: &str, b: &str) -> bool {
    let compared = Command::new("dpkg").args(["--compare-versions", a, "gt", b]).status();
    compared.is_ok_and(|status| status.success())
}

fn checksums_hold(dir: &Path) -> bool {
    let mut check = Command::new("sha256sum");
    check.current_dir(dir).args(["--check", "--status", "SHA256SUMS"]);
    check.status().is_ok_and(|status| status.success())
}

fn is_fresh(file: &Path) -> bool {
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < LISTS_ARE_FRESH)
}

pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

pub(crate) fn write(file: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
