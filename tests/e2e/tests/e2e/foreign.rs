//! Clients that others have written, in their own languages. `cargo xtask test` installs them.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use wharf_test_support::Cluster;

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "clients", name].iter().collect()
}

/// Runs a script on a cluster's kubeconfig; it says "done" when everything held.
async fn passes(mut command: Command, file: &str) {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    command.arg(script(file)).arg(cluster.kubeconfig()).env("HOME", cluster.home()).stdin(Stdio::null());
    let ran = command.kill_on_drop(true).output().await.expect("the script starts");
    let (said, complained) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.ends_with("done\n"), "{file}: {}\n{said}{complained}", ran.status);
}

#[tokio::test]
async fn the_python_client_works() {
    let python = std::env::var_os("WHARF_PYTHON").expect("WHARF_PYTHON names a Python that has the package kubernetes");
    passes(Command::new(python), "python.py").await;
}

#[tokio::test]
async fn the_javascript_client_works() {
    let modules =
        std::env::var_os("WHARF_NODE_MODULES").expect("WHARF_NODE_MODULES names where @kubernetes/client-node lies");
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules);
    passes(node, "javascript.mjs").await;
}
