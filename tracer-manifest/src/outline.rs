//! The first reading: what is where.

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::Kind;

/// A document, if it is what it should be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outline {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    metadata: Option<OutlineName>,
    #[serde(default)]
    pub(crate) items: Option<Vec<Spanned<OutlineItem>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutlineItem {
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
pub(crate) struct Place {
    /// `None`: none of ours.
    pub(crate) known: Option<Kind>,
    /// As it is written; empty if it is not.
    pub(crate) kind: String,
    /// "Pod default/curl".
    pub(crate) label: String,
    /// Within the document, from 1.
    pub(crate) line: u64,
    pub(crate) column: u64,
    /// Offset of its first byte.
    pub(crate) start: Option<usize>,
}

impl Outline {
    /// Where something stands whose kind nobody says, if there is such a thing.
    pub(crate) fn nameless(outline: &Spanned<Self>) -> Option<Location> {
        let Self { kind, items, .. } = &outline.value;
        match items {
            None => kind.is_none().then_some(outline.referenced),
            Some(items) => {
                let is_nameless = |item: &&Spanned<OutlineItem>| {
                    item.value.kind.is_none() && !outline.value.is_typed_list()
                };
                items.iter().find(is_nameless).map(|item| item.referenced)
            }
        }
    }

    /// The document's objects in order.
    pub(crate) fn places(outline: &Spanned<Self>) -> Vec<Place> {
        let list = &outline.value;
        let (list_version, list_kind) = (list.api_version.as_deref(), list.kind.as_deref());
        let Some(items) = &list.items else {
            let place = |kind| {
                place(outline.referenced, list_version.unwrap_or_default(), kind, list.metadata.as_ref())
            };
            return list_kind.map(place).into_iter().collect();
        };
        let implied_kind = list_kind.and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
        let place = |item: &Spanned<OutlineItem>| {
            let version = item.value.api_version.as_deref().or(list_version).unwrap_or_default();
            let kind = item.value.kind.as_deref().unwrap_or(implied_kind);
            place(item.referenced, version, kind, item.value.metadata.as_ref())
        };
        items.iter().map(place).collect()
    }
}

fn place(location: Location, api_version: &str, kind: &str, metadata: Option<&OutlineName>) -> Place {
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or("(without a name)");
    let label = match metadata.and_then(|metadata| metadata.namespace.as_deref()) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    Place {
        known: Kind::from_names(api_version, kind),
        kind: kind.to_owned(),
        label,
        line: location.line(),
        column: location.column(),
        start: location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok()),
    }
}
