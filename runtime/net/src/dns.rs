//! The cluster's DNS server: [`Names`] over UDP and TCP, other names through the host's resolver.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::names::{Answer, Names};

/// How long clients may keep an answer. Short, as endpoints move; upstream's CoreDNS says 30 for services too.
const TTL_S: u32 = 5;
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Replies queued for one TCP client.
const TCP_REPLIES: usize = 32;

/// Listens at `address` until cancelled.
///
/// # Errors
/// When the address cannot be bound: without privileges, port 53 needs `net.ipv4.ip_unprivileged_port_start` lowered.
pub async fn serve(names: Names, address: SocketAddr, cancel: CancellationToken) -> Result<(), Error> {
    let io = |operation| move |source| Error::Io { operation, source };
    let udp = UdpSocket::bind(address).await.map_err(io("bind the DNS server's UDP socket"))?;
    let tcp = TcpListener::bind(address).await.map_err(io("bind the DNS server's TCP socket"))?;
    let mut server = Server::new(Handler { names });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_REPLIES);
    cancel.cancelled().await;
    server
        .shutdown_gracefully()
        .await
        .map_err(|error| Error::Io { operation: "stop the DNS server", source: std::io::Error::other(error) })
}

struct Handler {
    names: Names,
}

/// A reply, before it is encoded.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode, authoritative: bool) -> Self {
        Self { code, authoritative, answers: Vec::new(), additionals: Vec::new() }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let reply = match request.request_info() {
            Ok(info) => {
                let name = Name::from(info.query.name());
                self.reply(&name, info.query.query_type()).await
            }
            Err(_) => Reply::code(ResponseCode::FormErr, false),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let builder = MessageResponseBuilder::from_message_request(request);
        let response = builder.build(metadata, reply.answers.iter(), [].iter(), [].iter(), reply.additionals.iter());
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "DNS reply not sent");
                ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
            }
        }
    }
}

impl Handler {
    async fn reply(&self, name: &Name, kind: RecordType) -> Reply {
        let answer = self.names.answer(&name.to_ascii());
        match answer {
            Answer::NotOurs => forward(name, kind).await,
            Answer::NoSuchName => Reply::code(ResponseCode::NXDomain, true),
            Answer::Alias(target) => self.alias(name, &target, kind).await,
            answer => {
                let (answers, additionals) = records(name, kind, answer);
                Reply { answers, additionals, ..Reply::code(ResponseCode::NoError, true) }
            }
        }
    }

    async fn alias(&self, name: &Name, target: &str, kind: RecordType) -> Reply {
        let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) else {
            return Reply::code(ResponseCode::ServFail, true);
        };
        let mut reply = Reply::code(ResponseCode::NoError, true);
        reply.answers.push(Record::from_rdata(name.clone(), TTL_S, RData::CNAME(CNAME(target.clone()))));
        if matches!(kind, RecordType::A | RecordType::AAAA) {
            reply.answers.extend(forward(&target, kind).await.answers);
        }
        reply
    }
}

/// Pure: answers, and the addresses of service records' targets.
fn records(name: &Name, kind: RecordType, answer: Answer) -> (Vec<Record>, Vec<Record>) {
    match answer {
        Answer::Addresses(ips) => (ips.into_iter().filter_map(|ip| address(name, kind, ip)).collect(), Vec::new()),
        Answer::Ports(targets) if kind == RecordType::SRV => {
            let named = targets
                .into_iter()
                .filter_map(|(target, ip, port)| Some((Name::from_ascii(format!("{target}.")).ok()?, ip, port)));
            let (mut answers, mut additionals) = (Vec::new(), Vec::new());
            for (target, ip, port) in named {
                let both = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
                additionals.extend(address(&target, both, ip));
                answers.push(Record::from_rdata(name.clone(), TTL_S, RData::SRV(SRV::new(0, 100, port, target))));
            }
            (answers, additionals)
        }
        Answer::Text(text) if kind == RecordType::TXT => {
            (vec![Record::from_rdata(name.clone(), TTL_S, RData::TXT(TXT::new(vec![text])))], Vec::new())
        }
        _ => (Vec::new(), Vec::new()),
    }
}

fn address(name: &Name, kind: RecordType, ip: IpAddr) -> Option<Record> {
    let data = match (kind, ip) {
        (RecordType::A, IpAddr::V4(v4)) => RData::A(A(v4)),
        (RecordType::AAAA, IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL_S, data))
}

/// Asks the host's resolver; addresses only.
async fn forward(name: &Name, kind: RecordType) -> Reply {
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return Reply::code(ResponseCode::NotImp, false);
    }
    match tokio::net::lookup_host((name.to_ascii().trim_end_matches('.'), 0)).await {
        Ok(found) => {
            let answers = found.filter_map(|socket| address(name, kind, socket.ip())).collect();
            Reply { answers, ..Reply::code(ResponseCode::NoError, false) }
        }
        Err(_) => Reply::code(ResponseCode::NXDomain, false),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::services::Services;
    use crate::services::tests::service;

    fn handler() -> Handler {
        let services = Arc::new(Services::default());
        services.apply_service(service(
            "web",
            json!({ "clusterIP": "127.96.0.7", "ports": [{ "name": "http", "port": 80 }] }),
        ));
        Handler { names: Names::new(services, "cluster.local") }
    }

    /// The reply as `CODE record…`.
    async fn check(name: &str, kind: RecordType, expected: &str) {
        let reply = handler().reply(&Name::from_ascii(name).unwrap(), kind).await;
        let answers: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(format!("{:?} {}", reply.code, answers.join(" ")).trim(), expected, "{name}");
    }

    #[tokio::test]
    async fn services_have_address_and_port_records() {
        check("web.default.svc.cluster.local.", RecordType::A, "NoError 127.96.0.7").await;
        check("web.default.svc.cluster.local.", RecordType::AAAA, "NoError").await;
        check(
            "_http._tcp.web.default.svc.cluster.local.",
            RecordType::SRV,
            "NoError 0 100 80 web.default.svc.cluster.local.",
        )
        .await;
        check("no.default.svc.cluster.local.", RecordType::A, "NXDomain").await;
        check("dns-version.cluster.local.", RecordType::TXT, "NoError 1.1.0").await;
    }

    #[tokio::test]
    async fn the_server_answers_over_udp() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let cancel = CancellationToken::new();
        let server = tokio::spawn(serve(handler().names, free, cancel.clone()));
        // Header (id 7, recursion desired, one question), then web.default.svc.cluster.local IN A.
        let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["web", "default", "svc", "cluster", "local"] {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let mut answer = [0; 512];
        let length = loop {
            socket.send_to(&query, free).await.unwrap();
            if let Ok(Ok(length)) = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer)).await {
                break length;
            }
        };
        assert!(answer[..length].ends_with(&[127, 96, 0, 7]), "{:?}", &answer[..length]);
        cancel.cancel();
        server.await.unwrap().unwrap();
    }
}
