//! The inventory from a file: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` (or json) prints.
//!
//! Accepted are a `List`, a typed list (`PodList`), single objects, and any number of them as YAML documents. The
//! text is read twice: first for the kinds alone, then each object as the type that its kind names. So every error,
//! of syntax or of a single field, keeps its line.

use std::fmt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use thiserror::Error;

use super::{Inventory, Kind, Object, ObjectError};

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
        let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
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

/// JSON is YAML to the parser below, but a JSON parser explains JSON's mistakes better.
fn json_error(path: &Path, document: &Document<'_>) -> Option<InventoryError> {
    if !document.text.trim_start().starts_with('{') {
        return None;
    }
    let error = serde_json::from_str::<IgnoredAny>(document.text).err()?;
    Some(InventoryError::Format {
        path: path.to_owned(),
        line: document.lines_before + error.line() as u64,
        column: error.column() as u64,
        object: String::new(),
        cause: without_position(&error.to_string()),
    })
}

/// Parsers end their messages with the position, which stands at the front here.
fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(cause, _)| cause).to_owned()
}

/// One YAML document within the file.
struct Document<'a> {
    text: &'a str,
    /// Lines of the file before it.
    lines_before: u64,
}

/// Cuts the text at document markers. `---` at the start of a line is one wherever it stands: no scalar may
/// contain such a line (YAML 1.2, 9.1.2).
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let (mut position, mut line) = (0, 0);
    for part in text.split_inclusive('\n') {
        let is_marker =
            part.strip_prefix("---").is_some_and(|rest| rest.trim_start() != rest || rest.is_empty());
        if is_marker && position > start {
            found.push(Document { text: &text[start..position], lines_before });
            (start, lines_before) = (position, line);
        }
        position += part.len();
        line += 1;
    }
    found.push(Document { text: &text[start..], lines_before });
    found.retain(|document| {
        document.text.lines().any(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---" && line != "..."
        })
    });
    found
}

/// The first reading: what is where.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<OutlineName>,
    #[serde(default)]
    items: Option<Vec<Spanned<OutlineItem>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutlineItem {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    metadata: Option<OutlineName>,
}

#[derive(Default, Deserialize)]
struct OutlineName {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

impl Outline {
    /// A list whose own kind says that of its items, which do not repeat it.
    fn is_typed_list(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.len() > 4 && kind.ends_with("List"))
    }
}

/// Where an object stands and what it is.
struct Place {
    /// `None`: of no use for the inventory.
    kind: Option<Kind>,
    /// "Pod default/curl".
    label: String,
    /// Within the document.
    line: u64,
    column: u64,
    /// Offset of its first byte.
    start: Option<usize>,
}

fn read_document(
    path: &Path,
    document: &Document<'_>,
    inventory: &mut Inventory,
) -> Result<(), InventoryError> {
    let outline: Spanned<Outline> =
        with_yaml(document.text, |deserializer| Spanned::deserialize(deserializer)).map_err(|error| {
            json_error(path, document).unwrap_or_else(|| format_error(path, document, &[], &error))
        })?;
    let nameless = match &outline.value.items {
        Some(items) => items.iter().find(|item| item.value.kind.is_none() && !outline.value.is_typed_list()),
        None => None,
    };
    let nameless = nameless.map(|item| item.referenced);
    let nothing =
        (outline.value.items.is_none() && outline.value.kind.is_none()).then_some(outline.referenced);
    if let Some(location) = nameless.or(nothing) {
        return Err(json_error(path, document).unwrap_or_else(|| InventoryError::Format {
            path: path.to_owned(),
            line: document.lines_before + location.line(),
            column: location.column(),
            object: String::new(),
            cause: "no Kubernetes object: `kind` is missing".to_owned(),
        }));
    }
    let (places, is_list) = places(&outline, inventory);
    let kinds: Vec<Option<Kind>> = places.iter().map(|place| place.kind).collect();
    let objects = with_yaml(document.text, |deserializer| {
        if is_list {
            ListSeed(&kinds).deserialize(deserializer)
        } else {
            ItemsSeed::one(&kinds, deserializer)
        }
    })
    .map_err(|error| format_error(path, document, &places, &error))?;
    for (index, object) in objects.into_iter().enumerate() {
        let Some(object) = object else { continue };
        inventory.put(&object, 0).map_err(|error| object_error(path, document, &places[index..], error))?;
    }
    Ok(())
}

/// The document's objects in order, and whether it is a list.
fn places(outline: &Spanned<Outline>, inventory: &mut Inventory) -> (Vec<Place>, bool) {
    let list = &outline.value;
    let (list_version, list_kind) = (list.api_version.as_deref(), list.kind.as_deref());
    let Some(items) = &list.items else {
        let Some(kind) = list_kind else { return (Vec::new(), false) };
        let place = place(
            outline.referenced,
            list_version.unwrap_or_default(),
            kind,
            list.metadata.as_ref(),
            inventory,
        );
        return (vec![place], false);
    };
    let implied_kind = list_kind.and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
    let places = items
        .iter()
        .map(|item| {
            place(
                item.referenced,
                item.value.api_version.as_deref().or(list_version).unwrap_or_default(),
                item.value.kind.as_deref().unwrap_or(implied_kind),
                item.value.metadata.as_ref(),
                inventory,
            )
        })
        .collect();
    (places, true)
}

fn place(
    location: serde_saphyr::Location,
    api_version: &str,
    kind: &str,
    metadata: Option<&OutlineName>,
    inventory: &mut Inventory,
) -> Place {
    let known = Kind::from_names(api_version, kind);
    if known.is_none() {
        inventory.count_ignored(if kind.is_empty() { "object without kind" } else { kind });
    }
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or("(without a name)");
    let label = match metadata.and_then(|metadata| metadata.namespace.as_deref()) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    let start = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
    Place { kind: known, label, line: location.line(), column: location.column(), start }
}

/// Runs one reading of a document. The parser's limits against hostile input are lifted as far as they would hit
/// a large cluster: the file is the user's own.
fn with_yaml<'de, T>(
    text: &'de str,
    read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'de, 'e>) -> Result<T, serde_saphyr::Error>,
) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_total_comment_bytes: usize::MAX,
        },
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read)
}

fn format_error(
    path: &Path,
    document: &Document<'_>,
    places: &[Place],
    error: &serde_saphyr::Error,
) -> InventoryError {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let object = places.iter().rfind(|place| place.line <= line).map(|place| place.label.clone());
    let message = error.without_snippet().to_string();
    InventoryError::Format {
        path: path.to_owned(),
        line: document.lines_before + line,
        column,
        object: object.unwrap_or_default(),
        cause: without_position(&message),
    }
}

/// The position of the offending value if it can be found in the object, else that of the object, which is the
/// first of `places`.
fn object_error(
    path: &Path,
    document: &Document<'_>,
    places: &[Place],
    error: ObjectError,
) -> InventoryError {
    let place = &places[0];
    let (mut line, mut column) = (place.line, place.column);
    let end = places.get(1).and_then(|next| next.start).unwrap_or(document.text.len());
    let text = place.start.and_then(|start| Some((start, document.text.get(start..end)?)));
    if let Some((start, text)) = text.filter(|_| !error.value.is_empty())
        && let Some(found) = find_value(text, &error.value)
    {
        let before = &document.text[..start + found];
        line = 1 + count_lines(before.as_bytes());
        column = 1 + before.rsplit('\n').next().map_or(0, |rest| rest.chars().count() as u64);
    }
    InventoryError::Object {
        path: path.to_owned(),
        line: document.lines_before + line,
        column,
        object: place.label.clone(),
        error: Box::new(error),
    }
}

/// First place where `value` stands as a value: behind a colon or a dash, maybe in quotes.
fn find_value(text: &str, value: &str) -> Option<usize> {
    text.match_indices(value).map(|(at, _)| at).find(|&at| {
        let before = text[..at].trim_end_matches(['"', '\'']).trim_end_matches(' ');
        let after = text[at + value.len()..].chars().next();
        before.ends_with([':', '-', '[', ',', '{'])
            && after.is_none_or(|next| matches!(next, '"' | '\'' | ',' | ']' | '}') || next.is_whitespace())
    })
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
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

/// The second reading of a list: its `items` by their kinds.
struct ListSeed<'a>(&'a [Option<Kind>]);

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a Kubernetes List")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                objects = map.next_value_seed(ItemsSeed(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

/// The second reading of a list's items.
struct ItemsSeed<'a>(&'a [Option<Kind>]);

impl ItemsSeed<'_> {
    /// The document is an object itself.
    fn one<'de, D: Deserializer<'de>>(
        kinds: &[Option<Kind>],
        deserializer: D,
    ) -> Result<Vec<Option<Object>>, D::Error> {
        let kind = kinds.first().copied().flatten();
        Ok(vec![ObjectSeed(kind).deserialize(deserializer)?])
    }
}

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = Vec<Option<Object>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of Kubernetes objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::with_capacity(self.0.len());
        for kind in self.0 {
            match items.next_element_seed(ObjectSeed(*kind))? {
                Some(object) => objects.push(object),
                None => break,
            }
        }
        // Lets the parser see the end of the sequence.
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(objects)
    }
}

/// One object of a kind known beforehand.
struct ObjectSeed(Option<Kind>);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Option<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(Some(match self.0 {
            Some(Kind::Pod) => Object::Pod(Box::new(Pod::deserialize(deserializer)?)),
            Some(Kind::Service) => Object::Service(Box::new(Service::deserialize(deserializer)?)),
            Some(Kind::EndpointSlice) => {
                Object::EndpointSlice(Box::new(EndpointSlice::deserialize(deserializer)?))
            }
            Some(Kind::Node) => Object::Node(Box::new(Node::deserialize(deserializer)?)),
            None => {
                IgnoredAny::deserialize(deserializer)?;
                return Ok(None);
            }
        }))
    }
}

#[cfg(test)]
mod tests;
