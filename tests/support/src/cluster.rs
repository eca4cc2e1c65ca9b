//! A cluster of the real binary: `wharf up`, or `wharf server`, in a directory and an address range of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::slot::Slot;
use crate::wait::DEADLINE;

/// What the process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// `wharf up`: a control plane and one node.
    #[default]
    Up,
    /// `wharf server`: a control plane alone, for simulated nodes or for none.
    Server,
}

/// How a cluster is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub role: Role,
    /// Guests to import before the start, each as `<guest>:v1`.
    pub images: Vec<&'static str>,
    /// More arguments for the role.
    pub arguments: Vec<String>,
}

/// A running cluster. Dropping it kills the process; a failing test shows the end of its log.
pub struct Cluster {
    options: Options,
    slot: Slot,
    directory: TempDir,
    process: Child,
    /// Kept open so that the process can go on writing.
    _stdout: BufReader<ChildStdout>,
    pub url: String,
    /// `127.0.0.1:port`; a server alone has none.
    pub registry: String,
    pub client: Client,
}

/// The guests that `cargo xtask guests` has built.
pub fn guests() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guests");
    std::env::var_os("WHARF_GUESTS").map_or_else(default, PathBuf::from)
}

pub fn guest(name: &str) -> PathBuf {
    guests().join(format!("{name}.wasm"))
}

/// The binary under test: what `WHARF_BINARY` names, else the one beside the test's own folder.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WHARF_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    test.parent().and_then(Path::parent).map(|dir| dir.join("wharf")).expect("tests lie in target/<profile>/deps")
}

impl Cluster {
    /// Starts a cluster and returns when it is ready, which includes its node if it has one.
    pub async fn start(options: Options) -> Result<Self> {
        let directory = TempDir::with_prefix("wharf-").context("make a directory for the cluster")?;
        let slot = Slot::take()?;
        let data = directory.path().join("data");
        for image in &options.images {
            import(&data, &guest(image), &format!("{image}:v1")).await?;
        }
        let (process, stdout, registry) = spawn(&options, &slot, directory.path()).await?;
        let file = Kubeconfig::read_from(data.join("kubeconfig")).context("read the admin's kubeconfig")?;
        let (url, client) = client(file).await?;
        Ok(Self { options, slot, directory, process, _stdout: stdout, url, registry, client })
    }

    /// With these guests as images.
    pub async fn with_images(images: &[&'static str]) -> Self {
        let options = Options { images: images.to_vec(), ..Options::default() };
        Self::start(options).await.expect("a cluster starts")
    }

    /// A control plane without a node, with these arguments.
    pub async fn server(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let options = Options { role: Role::Server, arguments, ..Options::default() };
        Self::start(options).await.expect("a server starts")
    }

    /// A client with another identity, signed by this cluster.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut arguments = vec!["--user", user];
        arguments.extend(groups.iter().flat_map(|group| ["--group", group]));
        let text = self.kubeconfig_for(&arguments).await?;
        Ok(client(Kubeconfig::from_yaml(&text).context("read the kubeconfig")?).await?.1)
    }

    /// What `wharf kubeconfig` prints for these arguments.
    pub async fn kubeconfig_for(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary());
        command.arg("kubeconfig").arg("--data").arg(self.data()).args(["--server", &self.url]).args(arguments);
        let output = command.kill_on_drop(true).output().await.context("run `wharf kubeconfig`")?;
        if !output.status.success() {
            bail!("no kubeconfig for {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).context("read the kubeconfig")
    }

    /// The same, in a file of this name in the cluster's home.
    pub async fn kubeconfig_file(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let path = self.home().join(name);
        std::fs::write(&path, self.kubeconfig_for(arguments).await?).context("write the kubeconfig")?;
        Ok(path)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A home for tools that keep caches, so that tests share none.
    pub fn home(&self) -> &Path {
        self.directory.path()
    }

    /// Addresses for the pods of another node; the cluster's own is number 0.
    pub fn pod_cidr(&self, node: u8) -> String {
        self.slot.pod_cidr(node)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.process.id().expect("the cluster runs")
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.process.kill().await.expect("the cluster can be killed");
    }

    /// Starts the same cluster again, on its old state and at its old address.
    pub async fn restart(&mut self) -> Result<()> {
        let mut options = self.options.clone();
        let address = self.url.trim_start_matches("https://").to_owned();
        options.arguments.extend(["--listen".to_owned(), address]);
        (self.process, self._stdout, self.registry) = spawn(&options, &self.slot, self.directory.path()).await?;
        Ok(())
    }

    /// What the process has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Also ends it before its directory goes.
        let _ = self.process.start_kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the cluster's log ends:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// Runs `wharf image import`.
pub async fn import(data: &Path, file: &Path, tag: &str) -> Result<()> {
    let output =
        Command::new(binary()).args(["image", "import"]).arg(file).args(["-t", tag, "--data"]).arg(data).output().await;
    let output = output.with_context(|| format!("start {}", binary().display()))?;
    if !output.status.success() {
        bail!("import {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Returns the process, its output, and the address of its registry.
async fn spawn(options: &Options, slot: &Slot, directory: &Path) -> Result<(Child, BufReader<ChildStdout>, String)> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .context("open the cluster's log")?;
    let mut command = Command::new(binary());
    let role = if options.role == Role::Up { "up" } else { "server" };
    command.arg(role).arg("--data").arg(directory.join("data"));
    // What a test says comes last and wins.
    let listen = ["--listen", "127.0.0.1:0"];
    if !options.arguments.iter().any(|argument| argument == listen[0]) {
        command.args(listen);
    }
    if options.role == Role::Up {
        command.args(["--kubelet-port", "0", "--registry", "127.0.0.1:0", "--node-name", "node-1"]);
        command.args(["--pod-cidr", &slot.pod_cidr(0)]);
        let toolbox = guest("toolbox");
        if toolbox.exists() {
            command.arg("--toolbox").arg(toolbox);
        }
    }
    command.args(["--service-cidr", &slot.service_cidr()]).args(&options.arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
    let mut process = command.spawn().with_context(|| format!("start {}", binary().display()))?;
    let mut stdout = BufReader::new(process.stdout.take().context("the cluster has no standard output")?);
    match tokio::time::timeout(DEADLINE, greeting(&mut stdout, options.role)).await {
        Ok(Ok(registry)) => Ok((process, stdout, registry)),
        failed => {
            let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
            bail!(
                "the cluster did not become ready: {}; its log:\n{log}",
                failed.map_or_else(
                    |_| "timed out".to_owned(),
                    |error| error.err().map(|error| error.to_string()).unwrap_or_default()
                )
            )
        }
    }
}

/// Reads `# Ready in … API server URL, registry ADDRESS.` and the line after it, which is all that a server alone says.
async fn greeting(stdout: &mut BufReader<ChildStdout>, role: Role) -> Result<String> {
    let mut lines = String::new();
    while !lines.contains("export KUBECONFIG=") {
        if stdout.read_line(&mut lines).await.context("read the cluster's greeting")? == 0 {
            bail!("it ended");
        }
    }
    if role == Role::Server {
        return Ok(String::new());
    }
    let registry = lines.split_once("registry").and_then(|(_, rest)| rest.split_whitespace().next());
    registry.map(|word| word.trim_end_matches('.').to_owned()).with_context(|| format!("it said {lines:?}"))
}

/// Returns the server's URL too.
async fn client(file: Kubeconfig) -> Result<(String, Client)> {
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("use the kubeconfig")?;
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    Ok((url, Client::try_from(config).context("make a client")?))
}
