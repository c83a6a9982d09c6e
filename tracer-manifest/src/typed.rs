//! The second reading: each object as the type that its kind names.

use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::object::{EndpointSlice, Kind, Node, Object, Pod, Service};

/// A list's objects, or the one object that the document is; `None` for one of a kind that is none of ours.
pub(crate) fn read<'de, D: Deserializer<'de>>(
    is_list: bool,
    kinds: &[Option<Kind>],
    deserializer: D,
) -> Result<Vec<Option<Object>>, D::Error> {
    if is_list {
        return ListSeed(kinds).deserialize(deserializer);
    }
    let kind = kinds.first().copied().flatten();
    Ok(vec![ObjectSeed(kind).deserialize(deserializer)?])
}

/// A list: its `items` by their kinds.
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

/// The items of a list.
struct ItemsSeed<'a>(&'a [Option<Kind>]);

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
