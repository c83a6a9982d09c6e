//! Kubernetes objects from text: what `kubectl get pods,services,endpointslices,nodes -A -o yaml` (or json) prints.
//!
//! Accepted are a `List`, a typed list (`PodList`), single objects, and any number of them as YAML documents. The
//! text is read twice: first for the kinds alone, then each object as the type that its kind names. So every error,
//! of syntax or of a single field, keeps its line.
//!
//! | module | holds |
//! |---|---|
//! | `outline` | the first reading: what is where |
//! | `typed` | the second reading: the objects |
//! | [`object`] | the kinds of objects, and what is read of each |

pub mod object;
mod outline;
mod typed;

use serde::Deserialize as _;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;
use thiserror::Error;

pub use object::{Kind, Object};

use outline::{Outline, Place};

/// Broken YAML or JSON, or a value of the wrong type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{line}:{column}: {object}{}{cause}", if object.is_empty() { "" } else { ": " })]
pub struct FormatError {
    /// Within the text, from 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// The object that it is in, as "Pod default/curl"; empty if in none.
    pub object: String,
    pub cause: String,
}

/// An object and its place.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// `None`: of a kind that is not read.
    pub object: Option<Object>,
    /// As the text has it; empty where it says none.
    pub kind: String,
    /// "Pod default/curl".
    pub label: String,
    /// Of its beginning, within the text, from 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
    /// Its text; empty if that is not known.
    text: &'a str,
}

impl Placed<'_> {
    /// Line and column of a value of the object if it can be found, else those of the object.
    #[must_use]
    pub fn position_of(&self, value: &str) -> (u64, u64) {
        let Some(at) = find_value(self.text, value).filter(|_| !value.is_empty()) else {
            return (self.line, self.column);
        };
        let before = &self.text[..at];
        match before.rsplit_once('\n') {
            None => (self.line, self.column + before.chars().count() as u64),
            Some((_, line)) => (self.line + count_lines(before.as_bytes()), 1 + line.chars().count() as u64),
        }
    }
}

/// One YAML document within a text.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    text: &'a str,
    /// Lines of the text before it.
    lines_before: u64,
}

/// Cuts the text at document markers. `---` at the start of a line is one wherever it stands: no scalar may
/// contain such a line (YAML 1.2, 9.1.2).
#[must_use]
pub fn documents(text: &str) -> Vec<Document<'_>> {
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

impl<'a> Document<'a> {
    /// The objects in it, in order.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn read(&self) -> Result<Vec<Placed<'a>>, FormatError> {
        let outline: Spanned<Outline> =
            with_yaml(self.text, |deserializer| Spanned::deserialize(deserializer))
                .map_err(|error| self.json_error().unwrap_or_else(|| self.format_error(&[], &error)))?;
        if let Some(location) = Outline::nameless(&outline) {
            return Err(self.json_error().unwrap_or_else(|| FormatError {
                line: self.lines_before + location.line(),
                column: location.column(),
                object: String::new(),
                cause: "no Kubernetes object: `kind` is missing".to_owned(),
            }));
        }
        let places = Outline::places(&outline);
        let kinds: Vec<_> = places.iter().map(|place| place.known).collect();
        let is_list = outline.value.items.is_some();
        let objects = with_yaml(self.text, |deserializer| typed::read(is_list, &kinds, deserializer))
            .map_err(|error| self.format_error(&places, &error))?;
        let ends = places.iter().skip(1).map(|next| next.start).chain([None]);
        let texts = places.iter().zip(ends).map(|(place, end)| {
            place.start.and_then(|start| self.text.get(start..end.unwrap_or(self.text.len())))
        });
        let texts: Vec<_> = texts.map(Option::unwrap_or_default).collect();
        let placed = places.into_iter().zip(objects).zip(texts);
        Ok(placed.map(|((place, object), text)| self.placed(place, object, text)).collect())
    }

    fn placed(&self, place: Place, object: Option<Object>, text: &'a str) -> Placed<'a> {
        let Place { kind, label, line, column, .. } = place;
        Placed { object, kind, label, line: self.lines_before + line, column, text }
    }

    /// JSON is YAML to the parser below, but a JSON parser explains JSON's mistakes better.
    fn json_error(&self) -> Option<FormatError> {
        if !self.text.trim_start().starts_with('{') {
            return None;
        }
        let error = serde_json::from_str::<IgnoredAny>(self.text).err()?;
        Some(FormatError {
            line: self.lines_before + error.line() as u64,
            column: error.column() as u64,
            object: String::new(),
            cause: without_position(&error.to_string()),
        })
    }

    fn format_error(&self, places: &[Place], error: &serde_saphyr::Error) -> FormatError {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let object = places.iter().rfind(|place| place.line <= line).map(|place| place.label.clone());
        FormatError {
            line: self.lines_before + line,
            column,
            object: object.unwrap_or_default(),
            cause: without_position(&error.without_snippet().to_string()),
        }
    }
}

/// Parsers end their messages with the position, which stands at the front here.
fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(cause, _)| cause).to_owned()
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
