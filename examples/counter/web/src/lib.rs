//! Shows the counter: `/` adds one through the neighbour's socket, `/file` reads the shared volume.

use std::io::Read;
use std::net::TcpStream;

use wharf_guest::config;
use wharf_guest::http::{Body, Error, Request, Response, StatusCode, status};

async fn counter(request: Request<Body>) -> Result<Response<Body>, Error> {
    let text = match request.uri().path() {
        "/" => {
            let mut text = String::new();
            TcpStream::connect("127.0.0.1:7000")?.read_to_string(&mut text)?;
            text
        }
        "/file" => config::file("/data/counter")?,
        _ => return status(StatusCode::NOT_FOUND),
    };
    Ok(Response::new(text.into()))
}

wharf_guest::http_handler!(counter);
