//! BPF maps of others, read by their bytes: nothing is written, and they are opened for reading only.

use std::io;
use std::os::fd::OwnedFd;

use super::bpf;

/// Kinds whose values are one for each possible CPU (`enum bpf_map_type`).
const PER_CPU: [u32; 4] = [5, 6, 10, 21];
/// Maps of one machine that are looked at; Cilium has some fifty, and three for each pod.
pub const MOST_MAPS: usize = 16_384;

/// What a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapAbout {
    pub id: u32,
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// The kernel keeps 15 characters.
    pub name: String,
    /// Bytes.
    pub key_size: u32,
    /// Bytes, of one CPU's.
    pub value_size: u32,
    pub max_entries: u32,
}

/// All maps of the machine, by id.
///
/// # Errors
/// They may not be listed (needs CAP_SYS_ADMIN).
pub fn list() -> io::Result<Vec<MapAbout>> {
    let mut found = Vec::new();
    let mut id = 0;
    while let Some(next) = bpf::next_map(id)? {
        id = next;
        match Map::open(id) {
            Ok(map) => found.push(map.about),
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if found.len() == MOST_MAPS {
            break;
        }
    }
    Ok(found)
}

/// An open map.
pub struct Map {
    fd: OwnedFd,
    about: MapAbout,
    /// Bytes of a value as user space gets it.
    value_bytes: usize,
}

impl Map {
    /// # Errors
    /// It is gone ([`io::ErrorKind::NotFound`]), or may not be read.
    pub fn open(id: u32) -> io::Result<Self> {
        let fd = bpf::map(id)?;
        let info = bpf::map_info(&fd)?;
        let about = MapAbout {
            id,
            kind: info.kind,
            name: info.name(),
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
        };
        let one = about.value_size as usize;
        let value_bytes = if PER_CPU.contains(&about.kind) {
            one.next_multiple_of(8) * aya::util::nr_cpus().map_err(|(_, error)| error)?
        } else {
            one
        };
        Ok(Self { fd, about, value_bytes })
    }

    #[must_use]
    pub fn about(&self) -> &MapAbout {
        &self.about
    }

    /// The value of a key; of a map per CPU those of all CPUs, each at a multiple of 8 bytes.
    ///
    /// # Errors
    /// The key has another length than the map's, or the kernel refuses.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if key.len() != self.about.key_size as usize {
            return Err(io::Error::other(format!(
                "map {} has keys of {} bytes, not {}",
                self.about.name,
                self.about.key_size,
                key.len()
            )));
        }
        let mut value = vec![0; self.value_bytes];
        Ok(bpf::lookup(&self.fd, key, &mut value)?.then_some(value))
    }

    /// At most so many entries. What changes meanwhile may be there or not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn entries(&self, most: usize) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        let mut key: Option<Vec<u8>> = None;
        let mut next = vec![0; self.about.key_size as usize];
        while entries.len() < most && bpf::next_key(&self.fd, key.as_deref(), &mut next)? {
            if let Some(value) = self.get(&next)? {
                entries.push((next.clone(), value));
            }
            key = Some(next.clone());
        }
        Ok(entries)
    }
}
