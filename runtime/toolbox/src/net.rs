//! Tools over the network: names, and HTTP without TLS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::io::{Failure, Io, Options, base_name};

type Ended = Result<i32, Failure>;

const TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 10;
/// Longest line of an answer's head.
const LINE_MAX: u64 = 64 << 10;

pub fn addresses(name: &str) -> Result<Vec<IpAddr>, Failure> {
    let found = (name, 0).to_socket_addrs();
    let found = found.map_err(|_| Failure::of(format!("can't resolve '{name}'")))?;
    let mut all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    all.dedup();
    Ok(all)
}

pub fn nslookup(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "", "", &[])?;
    let name = options.operands.first().ok_or_else(|| Failure::usage("usage: nslookup HOST"))?;
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if let Some(server) = resolver.lines().find_map(|line| line.strip_prefix("nameserver ")) {
        io.line(&format!("Server:\t\t{}\nAddress:\t{}:53\n", server.trim(), server.trim()));
    }
    let Ok(found) = addresses(name) else {
        io.line(&format!("** server can't find {name}: NXDOMAIN"));
        return Ok(1);
    };
    for address in found {
        io.line(&format!("Name:\t{name}\nAddress: {address}"));
    }
    Ok(0)
}

/// `wget [-q] [-O FILE] [-T SECONDS] [-S] [--spider] [--header LINE] [--post-data TEXT] URL`
pub fn wget(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let long = [
        ("header", 'H'),
        ("post-data", 'd'),
        ("spider", 'x'),
        ("timeout", 'T'),
        ("output-document", 'O'),
        ("quiet", 'q'),
    ];
    let options = Options::parse(arguments, "qSxc", "OTHdU", &long)?;
    let url = options.operands.first().ok_or_else(|| Failure::usage("usage: wget URL"))?;
    let timeout = match options.value('T').map(str::parse) {
        None => TIMEOUT,
        Some(Ok(seconds)) => Duration::from_secs(seconds),
        Some(Err(_)) => return Err(Failure::usage("invalid timeout")),
    };
    let mut url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
    for _ in 0..REDIRECTS_MAX {
        let mut answer = ask(&url, &options, timeout)?;
        if options.has('S') {
            answer.head.iter().for_each(|line| io.complain(&format!("  {line}")));
        }
        let header = |name: &str| {
            let found = answer.head.iter().filter_map(|line| line.split_once(':'));
            found.filter(|(held, _)| held.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        match answer.code {
            301 | 302 | 303 | 307 | 308 => {
                let to = header("location").ok_or_else(|| Failure::of("redirection without location"))?;
                url = if to.contains("://") { to } else { format!("http://{}{to}", parts(&url)?.0) };
                continue;
            }
            200..=299 => {}
            _ => {
                return Err(Failure::of(format!(
                    "server returned error: {}",
                    answer.head.first().map_or("", String::as_str)
                )));
            }
        }
        if options.has('x') {
            return Ok(0);
        }
        let chunked = header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length = header("content-length").and_then(|length| length.parse().ok());
        let body = &mut answer.body;
        let to = options.value('O').unwrap_or_else(|| match base_name(url.split('?').next().unwrap_or_default()) {
            name if name.is_empty() || url.ends_with('/') || url.matches('/').count() < 3 => "index.html",
            name => name,
        });
        let to = to.to_owned();
        if to == "-" {
            carry(body, &mut io.stdout, chunked, length)?;
        } else {
            let mut file = std::fs::File::create(io.path(&to)).map_err(|error| Failure::at(&to, &error))?;
            carry(body, &mut file, chunked, length)?;
            if !options.has('q') {
                io.complain(&format!("'{to}' saved"));
            }
        }
        return Ok(0);
    }
    Err(Failure::of("too many redirections"))
}

/// `nc [-z] [-v] [-w SECONDS] HOST PORT`: whether somebody listens, or a conversation whose first half is the standard input.
pub fn nc(io: &mut Io<'_>, arguments: &[String]) -> Ended {
    let options = Options::parse(arguments, "zvn", "w", &[])?;
    let [host, port] = &options.operands[..] else { return Err(Failure::usage("usage: nc [-z] [-v] HOST PORT")) };
    let port: u16 = port.parse().map_err(|_| Failure::usage(format!("invalid port '{port}'")))?;
    let all = (host.as_str(), port).to_socket_addrs().map_err(|_| Failure::of(format!("bad address '{host}'")))?;
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for address in all {
        match TcpStream::connect(address) {
            Ok(stream) => {
                if options.has('v') {
                    io.complain(&format!("{host} ({address}) open"));
                }
                return if options.has('z') { Ok(0) } else { talk(io, stream) };
            }
            Err(error) => last = error,
        }
    }
    Err(Failure::of(format!("can't connect to remote host ({host}): {last}")))
}

fn talk(io: &mut Io<'_>, mut peer: TcpStream) -> Ended {
    std::io::copy(&mut io.stdin, &mut peer)?;
    peer.shutdown(std::net::Shutdown::Write)?;
    std::io::copy(&mut peer, &mut io.stdout)?;
    Ok(0)
}

struct Answer {
    code: u16,
    head: Vec<String>,
    body: BufReader<TcpStream>,
}

/// Host with port, and path.
fn parts(url: &str) -> Result<(&str, &str), Failure> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Failure::of(format!("{url}: only http:// is spoken here")))?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok((host, if path.is_empty() { "/" } else { path }))
}

fn ask(url: &str, options: &Options, timeout: Duration) -> Result<Answer, Failure> {
    let (host, path) = parts(url)?;
    let with_port = |host: &str| match host.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => host.to_owned(),
        _ => format!("{host}:80"),
    };
    let failed = |error: std::io::Error| Failure::of(format!("can't connect to remote host ({host}): {error}"));
    let all = with_port(host).to_socket_addrs().map_err(|_| Failure::of(format!("bad address '{host}'")))?;
    let mut last = None;
    let mut peer = None;
    for address in all {
        match TcpStream::connect(address) {
            Ok(stream) => {
                peer = Some(stream);
                break;
            }
            Err(error) => last = Some(error),
        }
    }
    let mut peer = peer.ok_or_else(|| failed(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into())))?;
    // Where the host has no such timeouts, it has its own.
    let _ = peer.set_read_timeout(Some(timeout));
    let data = options.value('d');
    let method = if data.is_some() {
        "POST"
    } else if options.has('x') {
        "HEAD"
    } else {
        "GET"
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Wget\r\nConnection: close\r\n");
    if let Some(line) = options.value('H') {
        head += &format!("{line}\r\n");
    }
    if let Some(data) = data {
        head += &format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", data.len());
    }
    peer.write_all(format!("{head}\r\n{}", data.unwrap_or_default()).as_bytes())?;
    let mut body = BufReader::new(peer);
    let mut lines = Vec::new();
    loop {
        let line = line(&mut body)?;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let code = lines.first().and_then(|line| line.split_whitespace().nth(1)).and_then(|code| code.parse().ok());
    Ok(Answer { code: code.ok_or_else(|| Failure::of("error getting response"))?, head: lines, body })
}

fn line(from: &mut impl BufRead) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(LINE_MAX).read_until(b'\n', &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn carry(from: &mut impl BufRead, to: &mut impl Write, chunked: bool, length: Option<u64>) -> Result<(), Failure> {
    if !chunked {
        std::io::copy(&mut from.take(length.unwrap_or(u64::MAX)), to)?;
        return Ok(());
    }
    loop {
        let size = line(from)?;
        let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| Failure::of("the answer's chunks cannot be read"))?;
        if size == 0 {
            return Ok(());
        }
        std::io::copy(&mut from.take(size), to)?;
        line(from)?;
    }
}
