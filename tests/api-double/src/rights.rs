//! Who may do what. A user is a token.

use std::collections::BTreeMap;

/// As in a Role or, without namespaces, a ClusterRole.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub verbs: &'static [&'static str],
    /// "pods", "pods/portforward", "packettraces.tracer.dev/status".
    pub resources: &'static [&'static str],
    /// Empty: all.
    pub namespaces: &'static [&'static str],
}

/// Everything, for who has no rules.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    by_user: BTreeMap<String, Vec<Rule>>,
}

impl Rights {
    pub(crate) fn allow_only(&mut self, user: &str, rules: &[Rule]) {
        self.by_user.insert(user.to_owned(), rules.to_vec());
    }

    pub(crate) fn may(&self, user: &str, verb: &str, resource: &str, namespace: Option<&str>) -> bool {
        let Some(rules) = self.by_user.get(user) else { return true };
        rules.iter().any(|rule| {
            let is_there =
                rule.namespaces.is_empty() || namespace.is_some_and(|name| rule.namespaces.contains(&name));
            rule.verbs.contains(&verb) && rule.resources.contains(&resource) && is_there
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_in_one_namespace_is_none_in_another_nor_in_all() {
        let mut rights = Rights::default();
        assert!(rights.may("ann", "create", "pods", None), "until something is said");
        rights.allow_only("ann", &[Rule { verbs: &["get"], resources: &["pods"], namespaces: &["shop"] }]);
        assert!(rights.may("ann", "get", "pods", Some("shop")));
        for (verb, resource, namespace) in [
            ("get", "pods", Some("bank")),
            ("get", "pods", None),
            ("list", "pods", Some("shop")),
            ("get", "pods/portforward", Some("shop")),
        ] {
            assert!(!rights.may("ann", verb, resource, namespace), "{verb} {resource} {namespace:?}");
        }
    }
}
