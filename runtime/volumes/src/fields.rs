//! The pod fields that `fieldRef` may name, as text.
//!
//! Source: `k8s.io/kubernetes/pkg/fieldpath`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported fieldPath: {0}")]
pub struct Unsupported(pub String);

/// Fields that are known without the pod's status. Addresses and the like come with [`Pod::status`], if it has them.
pub fn field(pod: &Pod, path: &str) -> Result<String, Unsupported> {
    let meta = &pod.metadata;
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    if let Some((map, key)) = subscript(path) {
        let values = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(Unsupported(path.to_owned())),
        };
        return Ok(values.as_ref().and_then(|values| values.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(format_map(meta.labels.as_ref())),
        "metadata.annotations" => Some(format_map(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" => status.and_then(|status| status.host_ip.clone()),
        "status.podIP" => status.and_then(|status| status.pod_ip.clone()),
        "status.hostIPs" => {
            status.and_then(|status| status.host_ips.as_ref()).map(|ips| join(ips.iter().map(|ip| Some(&ip.ip))))
        }
        "status.podIPs" => {
            status.and_then(|status| status.pod_ips.as_ref()).map(|ips| join(ips.iter().map(|ip| Some(&ip.ip))))
        }
        _ => return Err(Unsupported(path.to_owned())),
    };
    Ok(text.unwrap_or_default())
}

fn join<'a>(parts: impl Iterator<Item = Option<&'a String>>) -> String {
    parts.flatten().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, sorted by key, the value quoted as Go's `%q` does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(path: &str, expected: Result<&str, &str>) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"b": "2", "a": "x \"y\"\n"}, "annotations": {"k/x": "v"}},
            "spec": {"containers": [], "nodeName": "n1", "serviceAccountName": "robot"},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "10.1.1.1"}
        }))
        .unwrap();
        let expected = expected.map(str::to_owned).map_err(|path| Unsupported(path.to_owned()));
        assert_eq!(field(&pod, path), expected);
    }

    #[test]
    fn fields_read_as_upstream_formats_them() {
        check("metadata.name", Ok("web"));
        check("metadata.namespace", Ok("shop"));
        check("metadata.uid", Ok("u1"));
        check("metadata.labels", Ok("a=\"x \\\"y\\\"\\n\"\nb=\"2\""));
        check("metadata.labels['b']", Ok("2"));
        check("metadata.labels['missing']", Ok(""));
        check("metadata.annotations['k/x']", Ok("v"));
        check("spec.nodeName", Ok("n1"));
        check("spec.serviceAccountName", Ok("robot"));
        check("status.podIP", Ok("10.0.0.1"));
        check("status.podIPs", Ok("10.0.0.1,fd00::1"));
        check("status.hostIP", Ok("10.1.1.1"));
        check("spec.hostname", Err("spec.hostname"));
    }
}
