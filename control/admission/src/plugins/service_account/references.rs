//! Which secrets a pod may name: all of them, or those of its account where that is asked for.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::{EnvFromSource, EnvVar, Pod, ServiceAccount};

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";
/// What Go's `strconv.ParseBool` takes for true.
const TRUE: &[&str] = &["1", "t", "T", "true", "TRUE", "True"];

/// The names that containers may use; none where all may be.
fn mountable(account: &ServiceAccount) -> Option<BTreeSet<&str>> {
    let said = account.metadata.annotations.as_ref().and_then(|all| all.get(ENFORCE)).map(String::as_str);
    said.filter(|said| TRUE.contains(said))?;
    Some(account.secrets.iter().flatten().filter_map(|secret| secret.name.as_deref()).collect())
}

/// Why a new pod may not name what it names (`limitSecretReferences`).
pub fn check(account: &ServiceAccount, pod: &Pod) -> Result<(), String> {
    let (Some(allowed), Some(spec)) = (mountable(account), &pod.spec) else { return Ok(()) };
    let owner = account.metadata.name.as_deref().unwrap_or_default();
    for source in spec.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()) {
        let name = source.secret_name.as_deref().unwrap_or_default();
        if !allowed.contains(name) {
            return Err(refusal("volume with", name, owner));
        }
    }
    let init = spec.init_containers.iter().flatten().map(|container| ("init container", container));
    for (what, container) in init.chain(spec.containers.iter().map(|container| ("container", container))) {
        let what = format!("{what} {}", container.name);
        check_env(&what, container.env.as_deref(), container.env_from.as_deref(), &allowed, owner)?;
    }
    let pulls: BTreeSet<&str> = account.image_pull_secrets.iter().flatten().map(|held| held.name.as_str()).collect();
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !pulls.contains(secret.name.as_str()) {
            return Err(format!(
                "imagePullSecrets[{index}].name={:?} is not allowed because service account {owner} does not reference that imagePullSecret",
                secret.name
            ));
        }
    }
    Ok(())
}

/// The same for the ephemeral containers of a pod that runs.
pub fn check_ephemeral(account: &ServiceAccount, pod: &Pod) -> Result<(), String> {
    let (Some(allowed), Some(spec)) = (mountable(account), &pod.spec) else { return Ok(()) };
    let owner = account.metadata.name.as_deref().unwrap_or_default();
    for container in spec.ephemeral_containers.iter().flatten() {
        let what = format!("ephemeral container {}", container.name);
        check_env(&what, container.env.as_deref(), container.env_from.as_deref(), &allowed, owner)?;
    }
    Ok(())
}

fn check_env(
    what: &str,
    env: Option<&[EnvVar]>,
    from: Option<&[EnvFromSource]>,
    allowed: &BTreeSet<&str>,
    owner: &str,
) -> Result<(), String> {
    for variable in env.unwrap_or_default() {
        let key = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
        if let Some(key) = key.filter(|key| !allowed.contains(key.name.as_str())) {
            return Err(refusal(&format!("{what} with envVar {} referencing", variable.name), &key.name, owner));
        }
    }
    for secret in from.unwrap_or_default().iter().filter_map(|source| source.secret_ref.as_ref()) {
        if !allowed.contains(secret.name.as_str()) {
            return Err(refusal(&format!("{what} with envFrom referencing"), &secret.name, owner));
        }
    }
    Ok(())
}

fn refusal(what: &str, secret: &str, owner: &str) -> String {
    format!(
        "{what} secret.secretName=\"{secret}\" is not allowed because service account {owner} does not reference that secret"
    )
}
