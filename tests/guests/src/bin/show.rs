//! Prints what it was given: `env`, `args`, `cat PATH…`, `write PATH TEXT`, `resolve NAME`, `get HOST:PORT`,
//! or `tick SECONDS`, which prints a line each so many seconds until it is stopped.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["env"] => {
            std::env::vars().for_each(|(name, value)| println!("{name}={value}"));
            Ok(())
        }
        ["args", rest @ ..] => {
            println!("{}", rest.join("|"));
            Ok(())
        }
        ["cat", paths @ ..] => paths.iter().try_for_each(|path| std::fs::read_to_string(path).map(|text| print!("{text}"))),
        ["write", path, text] => std::fs::write(path, text),
        ["resolve", name] => (*name, 80).to_socket_addrs().map(|all| all.for_each(|address| println!("{}", address.ip()))),
        ["get", address] => get(address),
        ["tick", seconds] => {
            let pause = Duration::from_secs_f64(seconds.parse().unwrap_or(1.0));
            (0u64..).for_each(|n| {
                println!("tick {n}");
                std::thread::sleep(pause);
            });
            Ok(())
        }
        other => Err(std::io::Error::other(format!("do not know how to show {other:?}"))),
    };
    if let Err(error) = result {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn get(address: &str) -> std::io::Result<()> {
    let mut peer = TcpStream::connect(address)?;
    write!(peer, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    peer.read_to_string(&mut text)?;
    print!("{text}");
    Ok(())
}
