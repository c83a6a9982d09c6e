//! What a URL names: `/api/v1/namespaces/NS/pods/NAME/status`, `/apis/GROUP/VERSION/RESOURCE`.

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// "pods", "packettraces.tracer.dev": as RBAC has it.
    pub(crate) resource: String,
    /// Of all, where it has none.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Named {
    pub(crate) fn read(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => format!(".{}", parts.next()?),
            _ => return None,
        };
        parts.next()?;
        let mut first = parts.next()?;
        let mut namespace = None;
        let rest: Vec<&str> = parts.clone().collect();
        if first == "namespaces" && rest.len() >= 2 {
            namespace = Some(parts.next()?.to_owned());
            first = parts.next()?;
        }
        Some(Self {
            resource: format!("{first}{group}"),
            namespace,
            name: parts.next().map(str::to_owned),
            subresource: parts.next().map(str::to_owned),
        })
    }
}

/// The value of a parameter, decoded as far as selectors need it.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).next()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let code =
                    std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(code.unwrap_or(b'%'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_resources_as_rbac_does() {
        let named = |path| Named::read(path).unwrap();
        assert_eq!(named("/api/v1/pods"), Named { resource: "pods".to_owned(), ..Named::default() });
        assert_eq!(
            named("/api/v1/namespaces/shop/pods/a/status"),
            Named {
                resource: "pods".to_owned(),
                namespace: Some("shop".to_owned()),
                name: Some("a".to_owned()),
                subresource: Some("status".to_owned()),
            }
        );
        let traces = named("/apis/tracer.dev/v1alpha1/namespaces/default/packettraces");
        assert_eq!((traces.resource.as_str(), traces.name), ("packettraces.tracer.dev", None));
        assert_eq!(named("/api/v1/namespaces/shop").name.as_deref(), Some("shop"));
        assert_eq!(Named::read("/version"), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Some("watch=true&fieldSelector=spec.nodeName%3Dnode-1");
        assert_eq!(parameter(query, "fieldSelector").as_deref(), Some("spec.nodeName=node-1"));
        assert_eq!(parameter(query, "limit"), None);
    }
}
