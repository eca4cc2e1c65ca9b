//! `grpc`: the gRPC health checking protocol (`grpc.health.v1.Health/Check`), spoken by hand: one field each way.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::MAX_OUTPUT_BYTES;

/// `HealthCheckResponse.status`
const SERVING: u8 = 1;
const MAX_SERVICE_BYTES: usize = 127;

pub async fn probe(host: &str, port: u16, service: &str) -> Result<(), String> {
    let body = request_body(service)?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("timeout: failed to connect service \"{host}:{port}\": {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("error: health rpc failed: {error}"))?;
    let mut request = Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if let Some(code) = response.headers().get("grpc-status").filter(|code| *code != "0") {
            return Err(format!("error: health rpc failed: code {code:?}"));
        }
        let body =
            Limited::new(response.into_body(), MAX_OUTPUT_BYTES).collect().await.map_err(|error| error.to_string())?;
        serving(&body.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(format!("error: health rpc failed: {error}")),
        },
    }
}

/// A gRPC frame around `HealthCheckRequest { service }`.
fn request_body(service: &str) -> Result<Bytes, String> {
    if service.len() > MAX_SERVICE_BYTES {
        return Err(format!("service name is longer than {MAX_SERVICE_BYTES} bytes"));
    }
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        message.put_u8(service.len() as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    Ok(frame.freeze())
}

fn serving(frame: &[u8]) -> Result<(), String> {
    match frame.get(5..) {
        Some([0x08, SERVING, ..]) => Ok(()),
        Some([0x08, status, ..]) => Err(format!("service unhealthy (responded with {status})")),
        Some([]) => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
        _ => Err("error: health rpc failed: malformed reply".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_protocol_has_them() {
        assert_eq!(request_body("").unwrap().as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request_body("ab").unwrap().as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert!(serving(&[0, 0, 0, 0, 2, 8, 2]).is_err());
        assert!(serving(&[]).is_err());
    }
}
