//! `wharf`: roles and commands.
//!
//! A role is a long-running part of a cluster (`up` is all of them in one process); a command does one thing and ends. What is
//! wrong is told in one line on standard error, and the exit code is 1.

mod commands;
mod data;
mod process;
mod roles;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "wharf", version, about = "Kubernetes in one small binary whose pods are WebAssembly")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, as in `info` or `warn,wharf_node=debug`
    #[arg(long, global = true, env = "WHARF_LOG", default_value = "info")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole one-node cluster
    Up(commands::up::Up),
    /// Run the control plane
    Server(commands::server::Server),
    /// Run a node that joins a cluster
    Node(commands::node::Node),
    /// Work with the images of this machine
    #[command(subcommand)]
    Image(commands::image::Image),
    /// Print a kubeconfig for an identity, signed by this machine's cluster
    Kubeconfig(commands::kubeconfig::Kubeconfig),
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes in one line.
            eprintln!("wharf: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    process::log(&cli.log)?;
    match cli.command {
        Command::Up(up) => process::block_on(up.run()),
        Command::Server(server) => process::block_on(server.run()),
        Command::Node(node) => process::block_on(node.run()),
        Command::Image(image) => process::block_on(image.run()),
        Command::Kubeconfig(kubeconfig) => kubeconfig.run(),
    }
}
