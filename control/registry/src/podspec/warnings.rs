//! What is allowed in a pod spec and yet probably wrong; clients show it as warnings. Source: `pkg/api/pod/warnings.go`.

use std::collections::BTreeMap;

use wharf_types::k8s::api::core::v1::{Container, PodSpec, PodTemplateSpec};

use crate::quantity::{self, is_whole};

pub fn template(template: &PodTemplateSpec, path: &str) -> Vec<String> {
    template.spec.iter().flat_map(|inner| spec(inner, &format!("{path}.spec"))).collect()
}

pub fn spec(spec: &PodSpec, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    let mut aliases: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        match aliases.get(alias.ip.as_str()) {
            Some(first) => warnings.push(format!(
                "{path}.hostAliases[{index}].ip: duplicates {path}.hostAliases[{first}].ip: \"{}\"",
                alias.ip
            )),
            None => {
                aliases.insert(&alias.ip, index);
            }
        }
    }
    for (list, containers) in
        [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers[..])]
    {
        for (index, item) in containers.iter().enumerate() {
            warnings.extend(container(item, &format!("{path}.{list}[{index}]")));
        }
    }
    warnings
}

fn container(container: &Container, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, var) in container.env.iter().flatten().enumerate() {
        // A later variable may refer to the earlier one of the same name, which is no mistake.
        let refers = var.value.as_ref().is_some_and(|value| value.contains(&format!("$({})", var.name)));
        if names.insert(&var.name, index).is_some() && !refers {
            warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {:?}, which may be dropped when using apply",
                var.name
            ));
        }
    }
    let mut ports: BTreeMap<(i32, &str), usize> = BTreeMap::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let key = (port.container_port, port.protocol.as_deref().unwrap_or_default());
        match ports.get(&key) {
            Some(first) => {
                warnings.push(format!("{path}.ports[{index}]: duplicate port definition with {path}.ports[{first}]"))
            }
            None => {
                ports.insert(key, index);
            }
        }
    }
    let resources = container.resources.clone().unwrap_or_default();
    for (field, amounts) in [("limits", resources.limits), ("requests", resources.requests)] {
        for (name, amount) in amounts.into_iter().flatten() {
            let in_bytes = matches!(name.as_str(), "memory" | "ephemeral-storage");
            if in_bytes && quantity::amount(&amount).is_some_and(|amount| !is_whole(amount)) {
                warnings.push(format!(
                    "{path}.resources.{field}[{name}]: fractional byte value {:?} is invalid, must be an integer",
                    amount.0
                ));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probable_mistakes_are_told() {
        let given: PodSpec = serde_yaml::from_str(
            "{terminationGracePeriodSeconds: -1, containers: [{name: a, env: [{name: A, value: x}, {name: A, value: y}], ports: [{containerPort: 80}, {containerPort: 80}], resources: {limits: {memory: 100m}}}]}",
        )
        .unwrap();
        assert_eq!(
            spec(&given, "spec"),
            [
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }
}
