//! `/version`: the Kubernetes release whose API is served, and what serves it.

use serde_json::{Value, json};
use wharf_types::KUBERNETES_VERSION;

/// Says in the build metadata of the version, which semantic versioning gives no meaning, that this is Wharf.
const BUILD: &str = "wharf";

/// As `k8s.io/apimachinery/pkg/version.Info`. Fields that speak of Go say what stands in its place.
pub fn document() -> Value {
    let numbers = KUBERNETES_VERSION.trim_start_matches('v');
    let mut parts = numbers.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": minor.parse::<u32>().unwrap_or_default().saturating_sub(1).to_string(),
        "gitVersion": format!("{KUBERNETES_VERSION}+{BUILD}"),
        "gitCommit": option_env!("WHARF_GIT_COMMIT").unwrap_or("unknown"),
        "gitTreeState": option_env!("WHARF_GIT_TREE_STATE").unwrap_or("unknown"),
        "buildDate": option_env!("WHARF_BUILD_DATE").unwrap_or("unknown"),
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture(std::env::consts::ARCH)),
    })
}

/// An architecture as Go, and so Kubernetes, names it.
fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::apimachinery::pkg::version::Info;

    #[test]
    fn clients_can_read_it() {
        let info: Info = serde_json::from_value(document()).expect("version info");
        assert_eq!((info.major.as_str(), info.minor.as_str()), ("1", "36"));
        assert_eq!(info.git_version, "v1.36.0+wharf");
    }
}
