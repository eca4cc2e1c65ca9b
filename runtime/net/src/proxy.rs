//! The userspace L4 proxy: lets processes of the host reach services in a rootless cluster.
//!
//! One listener for each service port; guests never pass through it. A backend is chosen for each connection (for UDP, each client).
//! Invariant: listeners follow the service table; connections that are open when a service goes are left to finish.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Transport;
use crate::services::{Frontend, Pick, Services};

/// TCP connections proxied at once, over all services.
const MAX_CONNECTIONS: usize = 8_192;
/// UDP clients of one service port remembered at once.
const MAX_UDP_CLIENTS: usize = 1_024;
/// How long a UDP client may be silent before it is forgotten.
const UDP_IDLE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Other endpoints tried when a backend refuses.
const ATTEMPTS: usize = 3;
const MAX_DATAGRAM_BYTES: usize = 65_535;
/// Pause after an accept fails, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub struct Proxy {
    services: Arc<Services>,
    /// Node ports listen here; none leaves them closed.
    node_ip: Option<IpAddr>,
    connections: Arc<Semaphore>,
    open: TaskTracker,
}

impl Proxy {
    pub fn new(services: Arc<Services>, node_ip: Option<IpAddr>) -> Self {
        Self { services, node_ip, connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)), open: TaskTracker::new() }
    }

    /// Serves until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let this = Arc::new(self);
        let mut changes = this.services.changes();
        let mut tasks = JoinSet::new();
        let mut listening: HashMap<Frontend, AbortHandle> = HashMap::new();
        loop {
            this.follow(&mut listening, &mut tasks);
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(_) = tasks.join_next() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Opens listeners for new frontends and closes those of frontends that are gone.
    fn follow(self: &Arc<Self>, listening: &mut HashMap<Frontend, AbortHandle>, tasks: &mut JoinSet<()>) {
        let wanted: HashSet<Frontend> = self.services.frontends().into_iter().collect();
        listening.retain(|frontend, task| {
            let keep = wanted.contains(frontend);
            if !keep {
                task.abort();
            }
            keep
        });
        for frontend in wanted {
            if listening.contains_key(&frontend) {
                continue;
            }
            let Some(local) = self.local(frontend.0) else { continue };
            let task = tasks.spawn(self.clone().listen(frontend, local));
            listening.insert(frontend, task);
        }
    }

    /// Where to listen for a frontend.
    fn local(&self, address: SocketAddr) -> Option<SocketAddr> {
        if address.ip().is_unspecified() {
            self.node_ip.map(|ip| SocketAddr::new(ip, address.port()))
        } else {
            Some(address)
        }
    }

    async fn listen(self: Arc<Self>, frontend: Frontend, local: SocketAddr) {
        let result = match frontend.1 {
            Transport::Tcp => self.serve_tcp(frontend, local).await,
            Transport::Udp => self.serve_udp(frontend, local).await,
        };
        if let Err(error) = result {
            tracing::warn!(%local, %error, "the host cannot reach a service here");
        }
    }

    fn pick(&self, frontend: Frontend, client: IpAddr) -> io::Result<SocketAddr> {
        let (address, transport) = frontend;
        let pick = if address.ip().is_unspecified() {
            self.services.pick_node_port(client, address.port(), transport)
        } else {
            self.services.pick(client, address, transport)
        };
        match pick {
            Pick::Backend(backend) => Ok(backend),
            Pick::Empty | Pick::Unknown => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    async fn serve_tcp(self: &Arc<Self>, frontend: Frontend, local: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(local).await?;
        loop {
            let permit = self.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (client, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%local, %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Owned by the proxy, not by the listener: an open connection outlives its service.
            let this = self.clone();
            self.open.spawn(async move {
                let _permit = permit;
                if let Err(error) = splice(client, || this.pick(frontend, peer.ip())).await {
                    tracing::debug!(%local, %peer, %error, "proxied connection ended");
                }
            });
        }
    }

    async fn serve_udp(&self, frontend: Frontend, local: SocketAddr) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::bind(local).await?);
        let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, AbortHandle)> = HashMap::new();
        let mut replies: JoinSet<SocketAddr> = JoinSet::new();
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            let (length, client) = tokio::select! {
                received = socket.recv_from(&mut buffer) => received?,
                Some(idle) = replies.join_next() => {
                    if let Ok(client) = idle {
                        clients.remove(&client);
                    }
                    continue;
                }
            };
            if !clients.contains_key(&client) {
                let Ok(backend) = self.pick(frontend, client.ip()) else { continue };
                if clients.len() >= MAX_UDP_CLIENTS {
                    tracing::debug!(%local, "too many UDP clients; a datagram is dropped");
                    continue;
                }
                let upstream = Arc::new(UdpSocket::bind(unspecified(backend)).await?);
                upstream.connect(backend).await?;
                let task = replies.spawn(reply(socket.clone(), upstream.clone(), client));
                clients.insert(client, (upstream, task));
            }
            if let Some((upstream, _)) = clients.get(&client) {
                // Datagrams may be lost; the next one may pass.
                let _ = upstream.send(&buffer[..length]).await;
            }
        }
    }
}

/// Carries replies to one client until it has been silent for [`UDP_IDLE`].
async fn reply(socket: Arc<UdpSocket>, upstream: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    while let Ok(Ok(length)) = tokio::time::timeout(UDP_IDLE, upstream.recv(&mut buffer)).await {
        if socket.send_to(&buffer[..length], client).await.is_err() {
            break;
        }
    }
    client
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}

/// Connects to the first backend that answers and copies both ways.
async fn splice(mut client: TcpStream, pick: impl Fn() -> io::Result<SocketAddr>) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::ConnectionRefused);
    for _ in 0..ATTEMPTS {
        let connected = match pick() {
            Ok(backend) => tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(backend)).await,
            Err(error) => Ok(Err(error)),
        };
        match connected {
            Ok(Ok(mut upstream)) => {
                client.set_nodelay(true)?;
                upstream.set_nodelay(true)?;
                return tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    // Nobody is there: the client sees a reset, the closest to a refusal that is left after an accept.
    client.set_zero_linger()?;
    Err(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::services::tests::{service, slice};

    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                let (mut read, mut write) = peer.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            }
        });
        port
    }

    async fn connect(address: &str) -> TcpStream {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn connections_are_spread_over_backends() {
        let services = Arc::new(Services::default());
        let spec = json!({ "clusterIP": "127.111.3.8", "ports": [{ "name": "http", "port": 18080 }] });
        services.apply_service(service("web", spec));
        // One port, three addresses, so that each answers with its own.
        let port = TcpListener::bind("127.111.4.1:0").await.unwrap().local_addr().unwrap().port();
        let addresses = ["127.111.4.1", "127.111.4.2", "127.111.4.3"];
        for address in addresses {
            let listener = TcpListener::bind((address, port)).await.unwrap();
            tokio::spawn(async move {
                while let Ok((mut peer, _)) = listener.accept().await {
                    peer.write_all(address.as_bytes()).await.unwrap();
                }
            });
        }
        services.apply_slice(slice("web", port, json!(addresses.map(|address| json!({ "addresses": [address] })))));
        let cancel = CancellationToken::new();
        let running = tokio::spawn(Proxy::new(services, None).run(cancel.clone()));
        let mut seen = HashSet::new();
        for _ in addresses {
            let mut answer = String::new();
            connect("127.111.3.8:18080").await.read_to_string(&mut answer).await.unwrap();
            seen.insert(answer);
        }
        assert_eq!(seen.len(), addresses.len(), "{seen:?}");
        cancel.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn the_host_reaches_a_service_and_listeners_follow_the_table() {
        let services = Arc::new(Services::default());
        let cancel = CancellationToken::new();
        let running = tokio::spawn(Proxy::new(services.clone(), None).run(cancel.clone()));

        let spec = json!({ "clusterIP": "127.111.3.7", "ports": [{ "name": "http", "port": 18080 }] });
        services.apply_service(service("web", spec.clone()));
        services.apply_slice(slice("web", echo().await, json!([{ "addresses": ["127.0.0.1"] }])));

        let mut client = connect("127.111.3.7:18080").await;
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");

        services.delete_service(&service("web", spec));
        while TcpStream::connect("127.111.3.7:18080").await.is_ok() {
            tokio::task::yield_now().await;
        }
        client.write_all(b"still").await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"still", "an open connection outlives its service");

        cancel.cancel();
        running.await.unwrap();
    }
}
