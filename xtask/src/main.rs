//! The build's own commands: `cargo xtask up | test | bench | fuzz | guests | protobuf-table`.
//!
//! Everything that a fresh machine lacks is found or fetched here, into a cache outside the checkout, so that the two commands
//! of the README are all a newcomer needs.

mod cluster;
mod fetch;
mod fuzz;
mod go;
mod guests;
mod suite;
mod tools;
mod wasm_target;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Wharf")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build what is missing, start a one-node cluster with the examples' images, print how to use it
    Up(cluster::Up),
    /// Set up all that the tests need and run them all
    Test(suite::Test),
    /// Measure, and print a table beside the budgets
    Bench(suite::Bench),
    /// Search for inputs that break what reads them
    Fuzz(fuzz::Fuzz),
    /// Write the table of protobuf's field numbers anew from its sources
    ProtobufTable,
    /// Build the Wasm guests: examples and test programs
    Guests,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(up) => up.run(),
        Command::Test(test) => test.run(),
        Command::Bench(bench) => bench.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::ProtobufTable => suite::protobuf_table(),
        Command::Guests => {
            guests::build().map(|guests| guests.iter().for_each(|guest| println!("{}", guest.display())))
        }
    }
}
