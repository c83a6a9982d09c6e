//! Label selectors as kubectl takes them: `app=web,tier!=cache,env in (a,b),!legacy`.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

use super::SelectError;

/// # Errors
/// [`SelectError::Labels`].
pub(super) fn parse_labels(text: &str) -> Result<Selector, SelectError> {
    let bad = || SelectError::Labels { text: text.to_owned() };
    let requirements = split(text).into_iter().map(|part| parse_requirement(part.trim()).ok_or_else(bad));
    requirements.collect()
}

/// At the commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .collect()
}

fn parse_requirement(text: &str) -> Option<Expression> {
    if let Some(values) = text.strip_suffix(')') {
        let (left, values) = values.split_once('(')?;
        let mut words = left.split_whitespace();
        let (key, operator, None) = (words.next()?, words.next()?, words.next()) else { return None };
        let values: BTreeSet<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let is_good = is_key(key) && values.iter().all(|value| is_value(value));
        return match operator {
            "in" if is_good => Some(Expression::In(key.to_owned(), values)),
            "notin" if is_good => Some(Expression::NotIn(key.to_owned(), values)),
            _ => None,
        };
    }
    for (sign, is_equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = text.split_once(sign) {
            let (key, value) = (key.trim(), value.trim());
            return (is_key(key) && is_value(value)).then(|| {
                let make = if is_equal { Expression::Equal } else { Expression::NotEqual };
                make(key.to_owned(), value.to_owned())
            });
        }
    }
    match text.strip_prefix('!').map(str::trim) {
        Some(key) => is_key(key).then(|| Expression::DoesNotExist(key.to_owned())),
        None => is_key(text).then(|| Expression::Exists(text.to_owned())),
    }
}

/// `[PREFIX/]NAME`.
fn is_key(text: &str) -> bool {
    let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
    !name.is_empty() && is_value(name) && text.bytes().all(|byte| byte == b'/' || is_of_label(byte))
}

fn is_value(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(is_of_label)
}

fn is_of_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    #[test]
    fn labels_select_as_kubectl_does() {
        let labels: BTreeMap<String, String> = [("app", "web"), ("k8s.io/tier", "front"), ("env", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (text, selects) in [
            ("app=web", true),
            ("app==web,k8s.io/tier=front", true),
            ("app = web , env", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (api, web),env", true),
            ("app notin (api,web)", false),
            ("!legacy,env=", true),
            ("!app", false),
        ] {
            assert_eq!(parse_labels(text).unwrap().matches(&labels), selects, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in
            ["", "app=web,", "=web", "app=a b", "app in web", "app of (web)", "app in (a;b)", "(", "a=b=c"]
        {
            assert!(parse_labels(text).is_err(), "{text}");
        }
    }
}
