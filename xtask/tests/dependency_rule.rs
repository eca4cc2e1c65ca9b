//! The dependency rule of ARCHITECTURE.md, checked against what the manifests say.

use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// A folder of the house, and what its crates may depend on.
const RULE: [(&str, &[&str]); 8] = [
    ("api", &["api"]),
    ("control/scheduler", &["api", "control/client"]),
    ("control/controllers", &["api", "control/client"]),
    ("control/client", &["api"]),
    ("control/store", &[]),
    ("control", &["api", "control"]),
    ("runtime", &["api", "runtime"]),
    ("cli", &["api", "control", "runtime"]),
];

/// Beyond the folders: who may see the store.
const STORE_USERS: [&str; 3] = ["control/cache", "control/apiserver", "cli"];

fn within(path: &str, folder: &str) -> bool {
    Path::new(path).starts_with(folder)
}

#[test]
fn crates_depend_downwards_only() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs");
    let root = metadata.workspace_root.clone();
    let folder =
        |path: &str| Path::new(path).strip_prefix(&root).expect("a member lies in the workspace").display().to_string();
    let mut checked = 0;
    for package in metadata.workspace_packages() {
        let from = folder(package.manifest_path.parent().expect("a manifest lies in a folder").as_str());
        let Some((_, allowed)) = RULE.iter().find(|(part, _)| within(&from, part)) else { continue };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal) {
            let Some(path) = &dependency.path else { continue };
            let to = folder(path.as_str());
            assert!(allowed.iter().any(|part| within(&to, part)), "{from} must not depend on {to}");
            assert!(to != "control/store" || STORE_USERS.contains(&from.as_str()), "{from} must not touch the store");
            checked += 1;
        }
    }
    assert!(checked > 20, "the rule was checked on {checked} dependencies only");
}
