//! A container's environment, command and arguments.
//!
//! Order, as upstream (`kubelet_pods.makeEnvironmentVariables`): services, then `envFrom`, then `env`; a later one wins.
//! `$(NAME)` refers to what came before; `$$` is a dollar; an unknown reference stays as it is written.
//! Errors are in upstream's words and show as CreateContainerConfigError.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use wharf_volumes::{Source, fields, resources};

/// What the environment is made from.
pub struct Inputs<'a> {
    /// With the addresses it has now in its status.
    pub pod: &'a Pod,
    pub objects: &'a dyn Source,
    pub services: Vec<(String, String)>,
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// Name → value, in the order in which they were set first.
#[derive(Debug, Default)]
pub struct Env {
    names: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.names.push(name.to_owned());
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn expand(&self, text: &str) -> String {
        expand(text, |name| self.values.get(name).cloned())
    }

    pub fn into_pairs(mut self) -> Vec<(String, String)> {
        let values = &mut self.values;
        self.names.iter().filter_map(|name| values.remove(name).map(|value| (name.clone(), value))).collect()
    }
}

pub async fn resolve(container: &Container, inputs: &Inputs<'_>) -> Result<Env, String> {
    let mut env = Env::default();
    for (name, value) in &inputs.services {
        env.set(name, value.clone());
    }
    for source in container.env_from.iter().flatten() {
        from_object(&mut env, source, inputs).await?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(container, variable, &env, inputs).await? {
            env.set(&variable.name, value);
        }
    }
    Ok(env)
}

async fn from_object(env: &mut Env, source: &EnvFromSource, inputs: &Inputs<'_>) -> Result<(), String> {
    let namespace = crate::names::namespace(inputs.pod);
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let (kind, name, optional, data) = if let Some(reference) = &source.config_map_ref {
        let found = inputs.objects.config_map(namespace, &reference.name).await.map_err(|error| error.to_string())?;
        let data = found.map(|map| map.data.clone().unwrap_or_default());
        ("configmap", &reference.name, reference.optional, data)
    } else if let Some(reference) = &source.secret_ref {
        let found = inputs.objects.secret(namespace, &reference.name).await.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let data = found
            .map(|secret| secret.data.iter().flatten().map(|(key, value)| (key.clone(), text(&value.0))).collect());
        ("secret", &reference.name, reference.optional, data)
    } else {
        return Ok(());
    };
    match data {
        Some(data) => data.into_iter().for_each(|(key, value)| env.set(&format!("{prefix}{key}"), value)),
        None if optional == Some(true) => {}
        None => return Err(format!("{kind} \"{name}\" not found")),
    }
    Ok(())
}

/// None leaves the variable unset: an optional key that is not there.
async fn value_of(
    container: &Container,
    variable: &EnvVar,
    env: &Env,
    inputs: &Inputs<'_>,
) -> Result<Option<String>, String> {
    match (&variable.value, &variable.value_from) {
        (Some(value), _) if !value.is_empty() => Ok(Some(env.expand(value))),
        (_, Some(source)) => from_source(container, source, inputs).await,
        _ => Ok(Some(String::new())),
    }
}

async fn from_source(
    container: &Container,
    source: &EnvVarSource,
    inputs: &Inputs<'_>,
) -> Result<Option<String>, String> {
    let pod = inputs.pod;
    let namespace = crate::names::namespace(pod);
    if let Some(field) = &source.field_ref {
        return fields::field(pod, &field.field_path).map(Some).map_err(|error| error.to_string());
    }
    if let Some(field) = &source.resource_field_ref {
        let name = field.container_name.as_deref().filter(|name| !name.is_empty());
        let target = match name {
            Some(name) => wharf_volumes::containers(pod)
                .find(|other| other.name == name)
                .ok_or_else(|| format!("container {name} not found"))?,
            None => container,
        };
        return resources::field(target, field, inputs.allocatable).map(Some);
    }
    let (kind, name, key, optional, value) = if let Some(reference) = &source.config_map_key_ref {
        let found = inputs.objects.config_map(namespace, &reference.name).await.map_err(|error| error.to_string())?;
        let value = found.map(|map| map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned());
        ("ConfigMap", &reference.name, &reference.key, reference.optional, value)
    } else if let Some(reference) = &source.secret_key_ref {
        let found = inputs.objects.secret(namespace, &reference.name).await.map_err(|error| error.to_string())?;
        let value = found.map(|secret| {
            secret
                .data
                .as_ref()
                .and_then(|data| data.get(&reference.key))
                .map(|value| String::from_utf8_lossy(&value.0).into_owned())
        });
        ("Secret", &reference.name, &reference.key, reference.optional, value)
    } else {
        return Err("fileKeyRef is not supported by this node".to_owned());
    };
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional == Some(true) => Ok(None),
        Some(None) => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        None => Err(format!("{} \"{name}\" not found", kind.to_lowercase())),
    }
}

/// Source: `k8s.io/kubernetes/third_party/forked/golang/expansion`.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::{Value, json};
    use std::sync::Arc;
    use wharf_volumes::Error;

    struct Objects;

    #[async_trait]
    impl Source for Objects {
        async fn config_map(&self, _: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, Error> {
            let map = json!({"data": {"k": "from-map", "other": "o"}});
            Ok((name == "map").then(|| Arc::new(serde_json::from_value(map).unwrap())))
        }
        async fn secret(&self, _: &str, name: &str) -> Result<Option<Arc<Secret>>, Error> {
            let secret = json!({"data": {"k": "aHVzaA=="}});
            Ok((name == "sec").then(|| Arc::new(serde_json::from_value(secret).unwrap())))
        }
    }

    async fn check(container: Value, expected: Result<&[(&str, &str)], &str>) {
        let mut all = json!({"name": "c"});
        all.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let container: Container = serde_json::from_value(all.clone()).unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [all]}, "status": {"podIP": "10.0.0.9"}});
        let pod = serde_json::from_value(pod).unwrap();
        let services = vec![("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())];
        let inputs = Inputs { pod: &pod, objects: &Objects, services, allocatable: &BTreeMap::new() };
        let env = resolve(&container, &inputs).await.map(Env::into_pairs);
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let services = own(&[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]);
        assert_eq!(env, expected.map(|pairs| services.into_iter().chain(own(pairs)).collect()).map_err(str::to_owned));
    }

    #[tokio::test]
    async fn values_come_from_everywhere() {
        let env = json!({"env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(KUBERNETES_SERVICE_HOST)-$(NO)-$$(A)"},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}},
            {"name": "E", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "k"}}},
            {"name": "F", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": true}}},
            {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "resources": {"limits": {"cpu": "2"}}});
        let expected = [
            ("A", "1"),
            ("B", "1-10.96.0.1-$(NO)-$(A)"),
            ("C", "10.0.0.9"),
            ("D", "from-map"),
            ("E", "hush"),
            ("G", "2"),
        ];
        check(env, Ok(&expected)).await;
    }

    #[tokio::test]
    async fn env_wins_over_env_from() {
        let env = json!({"envFrom": [{"prefix": "P_", "configMapRef": {"name": "map"}}], "env": [{"name": "P_k", "value": "mine"}]});
        check(env, Ok(&[("P_k", "mine"), ("P_other", "o")])).await;
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let one = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
        check(one(json!({"configMapKeyRef": {"name": "no", "key": "k"}})), Err("configmap \"no\" not found")).await;
        check(
            one(json!({"configMapKeyRef": {"name": "map", "key": "x"}})),
            Err("couldn't find key x in ConfigMap d/map"),
        )
        .await;
        check(one(json!({"secretKeyRef": {"name": "sec", "key": "x"}})), Err("couldn't find key x in Secret d/sec"))
            .await;
        check(json!({"envFrom": [{"secretRef": {"name": "no"}}]}), Err("secret \"no\" not found")).await;
        check(json!({"envFrom": [{"secretRef": {"name": "no", "optional": true}}]}), Ok(&[])).await;
    }

    #[test]
    fn references_expand_as_upstream_expands_them() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("x$(A)$(A)y", "x11y"),
            ("$A", "$A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, lookup), expected);
        }
    }
}
