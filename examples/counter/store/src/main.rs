//! Keeps a counter in a file and serves it over the pod's loopback: each connection adds one and reads the sum.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

const FILE: &str = "/data/counter";

fn main() -> std::io::Result<()> {
    let mut count = read(Path::new(FILE))?;
    let listener = TcpListener::bind("127.0.0.1:7000")?;
    println!("counting from {count}");
    loop {
        let (mut peer, _) = listener.accept()?;
        count += 1;
        write(Path::new(FILE), count)?;
        // A client that went away loses its answer, not the count.
        if let Err(error) = writeln!(peer, "{count}") {
            eprintln!("answer: {error}");
        }
    }
}

fn read(path: &Path) -> std::io::Result<u64> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Writes beside the file and renames, so that a reader never sees half a number.
fn write(path: &Path, count: u64) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, format!("{count}\n"))?;
    std::fs::rename(next, path)
}
