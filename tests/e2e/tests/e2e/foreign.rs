//! Clients that others have written, in their own languages. `cargo xtask test` installs them.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use wharf_test_support::Cluster;

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "clients", name].iter().collect()
}

/// Runs a program on a cluster's kubeconfig; it says "done" when everything held.
async fn passes(mut command: Command) {
    let cluster = Cluster::with_images(&["hello-http", "show"]).await;
    command.arg(cluster.kubeconfig()).env("HOME", cluster.home()).stdin(Stdio::null());
    let ran = command.kill_on_drop(true).output().await.expect("the script starts");
    let (said, complained) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.ends_with("done\n"), "{}\n{said}{complained}", ran.status);
}

#[tokio::test]
async fn the_python_client_works() {
    let python = std::env::var_os("WHARF_PYTHON").expect("WHARF_PYTHON names a Python that has the package kubernetes");
    let mut command = Command::new(python);
    command.arg(script("python.py"));
    passes(command).await;
}

#[tokio::test]
async fn the_javascript_client_works() {
    let modules =
        std::env::var_os("WHARF_NODE_MODULES").expect("WHARF_NODE_MODULES names where @kubernetes/client-node lies");
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(script("javascript.mjs"));
    passes(node).await;
}

#[tokio::test]
async fn client_go_works() {
    let program = std::env::var_os("WHARF_GO_CLIENT").expect("WHARF_GO_CLIENT names the program of clients/go");
    let mut client = Command::new(program);
    // Informers then compare what was streamed to them with a list of the same moment, and panic when it differs.
    client.env("KUBE_WATCHLIST_INCONSISTENCY_DETECTOR", "true");
    passes(client).await;
}
