//! The inventory from a file: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` (or json) prints. What is
//! accepted is said in `tracer_manifest`.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracer_manifest::{Document, FormatError, Placed, documents};

use super::{Inventory, Kind, ObjectError};

/// The command that makes a right file.
pub const COMMAND: &str = "kubectl get pods,services,endpointslices,nodes -A -o yaml > FILE";

/// Why a file cannot serve as inventory.
#[derive(Debug, Error)]
pub enum InventoryError {
    #[error("cannot read the inventory {}: {source}\n  make one with: {COMMAND}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Broken YAML or JSON, or a value of the wrong type.
    #[error(
        "{}:{line}:{column}: {}{cause}\n  the file should be what this prints: {COMMAND}",
        path.display(), Prefix(object)
    )]
    Format { path: PathBuf, line: u64, column: u64, object: String, cause: String },
    /// A well-formed object that cannot be used.
    #[error(
        "{}:{line}:{column}: {object}: {error}\n  the file should be what this prints: {COMMAND}",
        path.display()
    )]
    Object { path: PathBuf, line: u64, column: u64, object: String, error: Box<ObjectError> },
    #[error(
        "{}: no {missing} in it ({found})\n  the file should be what this prints: {COMMAND}",
        path.display()
    )]
    Empty { path: PathBuf, missing: &'static str, found: String },
}

/// An object's name before a colon, or nothing.
struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "{}: ", self.0) }
    }
}

/// Reads an inventory from a file.
///
/// # Errors
/// The file cannot be read, is no YAML or JSON, holds an object that is wrong (with its line), or no pods or no
/// nodes at all.
pub fn load(path: &Path) -> Result<Inventory, InventoryError> {
    let bytes =
        std::fs::read(path).map_err(|source| InventoryError::Read { path: path.to_owned(), source })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() as u64;
        let cause = "not UTF-8 text".to_owned();
        InventoryError::Format { path: path.to_owned(), line, column: 1, object: String::new(), cause }
    })?;
    parse(path, text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Reads an inventory from text; `path` is for messages only.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Inventory, InventoryError> {
    let mut inventory = Inventory::new();
    for document in documents(text) {
        read_document(path, &document, &mut inventory)?;
    }
    for kind in [Kind::Node, Kind::Service, Kind::EndpointSlice] {
        inventory.refresh(kind, 0);
    }
    let has = (inventory.pods().next().is_some(), inventory.nodes().next().is_some());
    let missing = match has {
        (true, true) => return Ok(inventory),
        (false, false) => "pods and no nodes",
        (false, true) => "pods",
        (true, false) => "nodes",
    };
    Err(InventoryError::Empty { path: path.to_owned(), missing, found: describe_contents(&inventory) })
}

fn read_document(
    path: &Path,
    document: &Document<'_>,
    inventory: &mut Inventory,
) -> Result<(), InventoryError> {
    let objects = document.read().map_err(|FormatError { line, column, object, cause }| {
        InventoryError::Format { path: path.to_owned(), line, column, object, cause }
    })?;
    for placed in objects {
        match &placed.object {
            Some(object) => {
                inventory.put(object, 0).map_err(|error| object_error(path, &placed, error))?;
            }
            None if placed.kind.is_empty() => inventory.count_ignored("object without kind"),
            None => inventory.count_ignored(&placed.kind),
        }
    }
    Ok(())
}

fn object_error(path: &Path, placed: &Placed<'_>, error: ObjectError) -> InventoryError {
    let (line, column) = placed.position_of(&error.value);
    let object = placed.label.clone();
    InventoryError::Object { path: path.to_owned(), line, column, object, error: Box::new(error) }
}

fn describe_contents(inventory: &Inventory) -> String {
    let mut parts = vec![
        format!("{} pods", inventory.pods().count()),
        format!("{} nodes", inventory.nodes().count()),
        format!("{} Services", inventory.services().count()),
    ];
    parts.extend(inventory.ignored().iter().map(|(kind, count)| format!("{count} of kind {kind}, not used")));
    parts.join(", ")
}

#[cfg(test)]
mod tests;
