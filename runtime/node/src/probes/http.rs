//! `httpGet`: success is a status from 200 to 399.
//!
//! Each probe has its own connection, as upstream's have. Certificates are not verified, for the same reason as there: the
//! pod is addressed by IP. Absent on purpose: following redirects (a redirect counts as success).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::MAX_OUTPUT_BYTES;

const USER_AGENT: &str = concat!("kube-probe/", "1.36");

pub async fn probe(action: &HTTPGetAction, (host, port): (String, u16)) -> Result<(), String> {
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let request = request(action, &host, port)?;
    let (status, body) = get(request, https, &host, port).await?;
    match status {
        200..=399 => Ok(()),
        _ => {
            tracing::debug!(status, body, "http probe failed");
            Err(format!("HTTP probe failed with statuscode: {status}"))
        }
    }
}

fn request(action: &HTTPGetAction, host: &str, port: u16) -> Result<Request<Empty<Bytes>>, String> {
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let uri: Uri = path.parse().map_err(|error| format!("invalid path {path:?}: {error}"))?;
    let mut request = Request::get(uri).body(Empty::new()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    headers.insert(http::header::HOST, HeaderValue::from_str(&authority).map_err(|error| error.to_string())?);
    for header in action.http_headers.iter().flatten() {
        let invalid = |error: &dyn std::fmt::Display| format!("invalid header {:?}: {error}", header.name);
        let name: HeaderName = header.name.parse().map_err(|error| invalid(&error))?;
        let value = HeaderValue::from_str(&header.value).map_err(|error| invalid(&error))?;
        headers.insert(name, value);
    }
    Ok(request)
}

/// Status and the start of the body.
async fn get(request: Request<Empty<Bytes>>, https: bool, host: &str, port: u16) -> Result<(u16, String), String> {
    let url = || format!("Get \"{}://{host}:{port}{}\"", if https { "https" } else { "http" }, request.uri());
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("{}: dial tcp {host}:{port}: connect: {error}", url()))?;
    if !https {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{}: {error}", url()))?;
    let stream = tokio_rustls::TlsConnector::from(tls())
        .connect(name, stream)
        .await
        .map_err(|error| format!("{}: {error}", url()))?;
    exchange(stream, request).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(u16, String), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_OUTPUT_BYTES).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((status, text))
    };
    // The connection lives as long as the exchange: no task is left behind.
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

fn tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = Arc::new(AnyCertificate(provider.clone()));
            let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let builder = builder.expect("the provider supports TLS 1.2 and 1.3");
            Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
        })
        .clone()
}

/// A probe asks whether the pod answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn check(reply: &'static str, expected: Result<(), &str>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let header = k8s_openapi::api::core::v1::HTTPHeader { name: "X-Probe".into(), value: "yes".into() };
        let action =
            HTTPGetAction { path: Some("healthz".into()), http_headers: Some(vec![header]), ..Default::default() };
        let result = probe(&action, ("127.0.0.1".into(), port)).await;
        assert_eq!(result, expected.map_err(str::to_owned));
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("x-probe: yes") && request.contains("user-agent: kube-probe/1.36"), "{request}");
    }

    #[tokio::test]
    async fn statuses_below_400_are_healthy() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok(())).await;
        check("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", Ok(())).await;
        check("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Err("HTTP probe failed with statuscode: 503")).await;
    }
}
