//! A map that remembers what was used recently and never grows beyond its bound.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use crate::trajectory::hash::FastState;

/// Two generations: when the young one is full it becomes the old one and the old one is forgotten. Holds
/// between half of the bound and the bound of the entries used last.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V, FastState>,
    old: HashMap<K, V, FastState>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(crate) fn new(bound: usize) -> Self {
        Self { half: (bound / 2).max(1), young: HashMap::default(), old: HashMap::default() }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        self.make_room();
        self.young.insert(key, value);
    }

    /// The entry of a key, made by `default` if there is none; counts as use.
    pub(crate) fn entry(&mut self, key: K, default: impl FnOnce() -> V) -> &mut V {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key);
            self.make_room();
            return self.young.entry(key).or_insert(value.unwrap_or_else(default));
        }
        self.young.entry(key).or_insert_with(default)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_bound_and_keeps_what_is_used() {
        let mut recent = Recent::new(8);
        recent.insert(0u64, 0u64);
        for key in 1..1000 {
            recent.entry(0, || unreachable!("it is used every time"));
            recent.insert(key, key);
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert_eq!(recent.get(&999), Some(&999));
        assert_eq!(recent.get(&500), None);
    }
}
