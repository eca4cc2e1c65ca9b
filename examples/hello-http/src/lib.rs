//! Greets, and says which pod answered.

use wharf_guest::http::{Body, Error, Request, Response};
use wharf_guest::{config, log};

async fn hello(request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = config::var_or("GREETING", "Hello".to_owned())?;
    let pod = config::var_or("POD_NAME", "nobody".to_owned())?;
    log::info(&format!("{} {}", request.method(), request.uri().path()));
    Ok(Response::new(format!("{greeting} from {pod}\n").into()))
}

wharf_guest::http_handler!(hello);
