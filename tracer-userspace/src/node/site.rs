//! The inventory and what this machine has of it, kept up to date: the file may change, pods start and stop.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};
use tracer_manifest::{Kind, Object};

use crate::app::Failure;
use crate::host::survey::{Survey, survey};
use crate::inventory::{Inventory, ObjectError, file};
use crate::kubernetes::watch::Change;
use crate::trajectory::model::{Directory, Owner};

/// CLOCK_MONOTONIC, nanoseconds: the clock of hop records.
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// What CLOCK_MONOTONIC and the wall clock (nanoseconds since 1970) show at one moment; of three readings the one that
/// was least interrupted.
#[must_use]
pub fn both_clocks_ns() -> (u64, u64) {
    let read = || {
        let before = monotonic_ns();
        let wall = nanoseconds(clock_gettime(ClockId::Realtime));
        let took = monotonic_ns() - before;
        (took, before + took / 2, wall)
    };
    let (_, monotonic, wall) = read().min(read()).min(read());
    (monotonic, wall)
}

/// Which boot of which kernel CLOCK_MONOTONIC counts from.
///
/// # Errors
/// The kernel does not say it.
pub fn boot_id() -> Result<String, Failure> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(PATH)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Failure::Failed(format!("cannot tell whose clock this is: {PATH}: {error}")))
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    u64::try_from(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)).unwrap_or(0)
}

/// The inventory, shared between the run, the correlator, which asks it for names, and the thread that looks over
/// the machine.
#[derive(Clone)]
pub struct Names(Arc<RwLock<Inventory>>);

impl Names {
    /// Reads the inventory alone, where no machine is looked at.
    ///
    /// # Errors
    /// The inventory cannot be used.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self(Arc::new(RwLock::new(load(path)?))))
    }

    /// No names at all, until there are some ([`Names::add`]).
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(RwLock::new(Inventory::new())))
    }

    /// Takes in Kubernetes objects, as JSON or YAML, that were told of at `at_ns`; those of addresses that nobody had before
    /// count from the beginning.
    ///
    /// # Errors
    /// What cannot be used of them; the rest is taken.
    pub fn add(&self, text: &str, at_ns: u64) -> Result<(), String> {
        let mut inventory = self.write();
        for document in tracer_manifest::documents(text) {
            for placed in document.read().map_err(|error| error.to_string())? {
                let Some(object) = &placed.object else { continue };
                inventory.apply_told(object, at_ns).map_err(|error| format!("{}: {error}", placed.label))?;
            }
        }
        Ok(())
    }

    /// Takes in what a watch of the API server has told at `now_ns`; gives what cannot be used, in words.
    pub fn take(&self, kind: Kind, change: Change<Object>, now_ns: u64) -> Option<String> {
        let mut inventory = self.write();
        let refused = |object: &Object, error: ObjectError| {
            let metadata = object.metadata();
            let name = metadata.name.as_deref().unwrap_or_default();
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            format!("{} {namespace}/{name}: {error}", kind.name())
        };
        match change {
            Change::All(objects) => {
                let wrong = inventory.reset(kind, &objects, now_ns);
                let (place, error) = wrong.into_iter().next()?;
                Some(refused(&objects[place], error))
            }
            Change::Put(object) => {
                inventory.apply_told(&object, now_ns).err().map(|error| refused(&object, error))
            }
            Change::Gone(object) => {
                inventory.delete(&object, now_ns);
                None
            }
            Change::Trouble(trouble) => Some(trouble),
        }
    }

    /// Gives `work` the inventory.
    pub fn with<T>(&self, work: impl FnOnce(&Inventory) -> T) -> T {
        work(&self.read())
    }

    /// A panic while it was written would have ended the run; what a panic elsewhere left behind is whole.
    fn read(&self) -> RwLockReadGuard<'_, Inventory> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inventory> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for Names {
    fn owner(&self, address: IpAddr, at_ns: u64) -> Owner {
        self.read().owner(address, at_ns)
    }

    fn is_service_translation(&self, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> bool {
        self.read().is_service_translation(protocol, from, to)
    }
}

/// See the module.
pub struct Site {
    /// The inventory's file and when it was written; `None` where somebody else keeps the inventory.
    file: Option<(PathBuf, Option<SystemTime>)>,
    names: Names,
    survey: Survey,
}

impl Site {
    /// Reads the inventory and looks over the machine.
    ///
    /// # Errors
    /// The inventory cannot be used, or the machine cannot be looked at.
    pub fn open(path: PathBuf) -> Result<Self, Failure> {
        let modified = modification_time(&path);
        let inventory = load(&path)?;
        let survey = look(&inventory)?;
        let names = Names(Arc::new(RwLock::new(inventory)));
        let mut site = Self { file: Some((path, modified)), names, survey };
        site.learn_node_addresses();
        Ok(site)
    }

    /// Looks over the machine for an inventory that somebody else keeps up to date.
    ///
    /// # Errors
    /// The machine cannot be looked at.
    pub fn told(names: Names) -> Result<Self, Failure> {
        let survey = names.with(look)?;
        let mut site = Self { file: None, names, survey };
        site.learn_node_addresses();
        Ok(site)
    }

    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Reads the inventory again if its file has changed; true if so. What it held before keeps its time.
    ///
    /// # Errors
    /// The new file cannot be used; the old inventory stays.
    pub fn reload_if_changed(&mut self) -> Result<bool, Failure> {
        let Some((path, known)) = &mut self.file else { return Ok(false) };
        let modified = modification_time(path);
        if modified.is_none() || modified == *known {
            return Ok(false);
        }
        // Also when it is wrong: one complaint a change is enough.
        *known = modified;
        let newer = load(path)?;
        self.names.write().renew(newer, monotonic_ns());
        self.learn_node_addresses();
        Ok(true)
    }

    /// The work of looking over the machine again, for another thread: on a large node it takes a while.
    pub fn look_again(&self) -> impl FnOnce() -> Result<Survey, Failure> + Send + 'static {
        let names = self.names.clone();
        move || names.with(look)
    }

    /// Takes what that work has found.
    pub fn take(&mut self, survey: Survey) {
        self.survey = survey;
        self.learn_node_addresses();
    }

    fn learn_node_addresses(&mut self) {
        let mut inventory = self.names.write();
        for (node, address) in self.survey.node_addresses() {
            inventory.add_node_address(node, address);
        }
    }
}

fn load(path: &Path) -> Result<Inventory, Failure> {
    file::load(path).map_err(|error| Failure::Failed(error.to_string()))
}

fn look(inventory: &Inventory) -> Result<Survey, Failure> {
    survey(inventory).map_err(|error| Failure::Failed(format!("cannot look over this machine: {error}")))
}

fn modification_time(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
