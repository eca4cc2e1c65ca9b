//! `wasi:sockets` 0.2.

use std::net::{IpAddr, SocketAddr};

use futures::FutureExt;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::{network, tcp, udp};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketError, SocketResult, TcpSocket, UdpSocket, subscribe};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi::sockets::WasiSocketsCtxView;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};
use wharf_net::Transport;

use super::{PodSockets, Refusal, View, lookup, refusal, view};
use crate::guest::Guest;

type Wasi<'a> = WasiSocketsCtxView<'a>;
type Input = Resource<DynInputStream>;
type Output = Resource<DynOutputStream>;

/// The version that Wasmtime's own bindings carry; guests that import an older 0.2 are given this one.
const NAME_LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    tcp::add_to_linker::<Guest, PodSockets>(linker, view)?;
    udp::add_to_linker::<Guest, PodSockets>(linker, view)?;
    add_name_lookup(linker)
}

fn error_code(error: wharf_net::Error) -> ErrorCode {
    match refusal(&error) {
        Refusal::Denied => ErrorCode::AccessDenied,
        Refusal::Refused => ErrorCode::ConnectionRefused,
        Refusal::NoSuchName => ErrorCode::NameUnresolvable,
        Refusal::Other => ErrorCode::Unknown,
    }
}

/// Passes calls that carry no address to Wasmtime's implementation.
macro_rules! pass {
    ($trait:path, $resource:ty: $(fn $name:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, this: Resource<$resource>, $($arg: $ty),*) -> $result {
            <Wasi<'_> as $trait>::$name(&mut self.wasi, this, $($arg),*)
        })*
    };
}

impl network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.wasi, error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.wasi, error)
    }
}

impl network::HostNetwork for View<'_> {
    fn drop(&mut self, this: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.wasi, this)
    }
}

impl tcp::Host for View<'_> {}

impl tcp::HostTcpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let real = self.addresses.pod.bind(local_address.into()).map_err(error_code)?;
        tcp::HostTcpSocket::start_bind(&mut self.wasi, this, network, real.into()).await
    }

    fn start_connect(
        &mut self,
        this: Resource<TcpSocket>,
        network: Resource<Network>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let real = self.addresses.connect(this.rep(), Transport::Tcp, remote_address.into()).map_err(error_code)?;
        self.bind_to_source(&this, &network, real)?;
        tcp::HostTcpSocket::start_connect(&mut self.wasi, this, network, real.into())
    }

    fn accept(&mut self, this: Resource<TcpSocket>) -> SocketResult<(Resource<TcpSocket>, Input, Output)> {
        tcp::HostTcpSocket::accept(&mut self.wasi, this)
    }

    fn finish_connect(&mut self, this: Resource<TcpSocket>) -> SocketResult<(Input, Output)> {
        tcp::HostTcpSocket::finish_connect(&mut self.wasi, this)
    }

    async fn start_listen(&mut self, this: Resource<TcpSocket>) -> SocketResult<()> {
        tcp::HostTcpSocket::start_listen(&mut self.wasi, this).await
    }

    fn local_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let real = tcp::HostTcpSocket::local_address(&mut self.wasi, this)?;
        Ok(self.addresses.pod.visible(real.into()).into())
    }

    fn remote_address(&mut self, this: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = this.rep();
        let real = tcp::HostTcpSocket::remote_address(&mut self.wasi, this)?;
        Ok(self.addresses.peer(socket, real.into()).into())
    }

    fn drop(&mut self, this: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.addresses.forget(this.rep());
        tcp::HostTcpSocket::drop(&mut self.wasi, this)
    }

    pass! { tcp::HostTcpSocket, TcpSocket:
        fn finish_bind() -> SocketResult<()>;
        fn finish_listen() -> SocketResult<()>;
        fn is_listening() -> wasmtime::Result<bool>;
        fn address_family() -> wasmtime::Result<IpAddressFamily>;
        fn set_listen_backlog_size(value: u64) -> SocketResult<()>;
        fn keep_alive_enabled() -> SocketResult<bool>;
        fn set_keep_alive_enabled(value: bool) -> SocketResult<()>;
        fn keep_alive_idle_time() -> SocketResult<u64>;
        fn set_keep_alive_idle_time(value: u64) -> SocketResult<()>;
        fn keep_alive_interval() -> SocketResult<u64>;
        fn set_keep_alive_interval(value: u64) -> SocketResult<()>;
        fn keep_alive_count() -> SocketResult<u32>;
        fn set_keep_alive_count(value: u32) -> SocketResult<()>;
        fn hop_limit() -> SocketResult<u8>;
        fn set_hop_limit(value: u8) -> SocketResult<()>;
        fn receive_buffer_size() -> SocketResult<u64>;
        fn set_receive_buffer_size(value: u64) -> SocketResult<()>;
        fn send_buffer_size() -> SocketResult<u64>;
        fn set_send_buffer_size(value: u64) -> SocketResult<()>;
        fn subscribe() -> wasmtime::Result<Resource<DynPollable>>;
        fn shutdown(kind: tcp::ShutdownType) -> SocketResult<()>;
    }
}

impl View<'_> {
    /// Binds a socket that was not bound, so that its peer sees the pod's address.
    fn bind_to_source(
        &mut self,
        this: &Resource<TcpSocket>,
        network: &Resource<Network>,
        real: SocketAddr,
    ) -> SocketResult<()> {
        let Some(source) = self.addresses.pod.source(real) else { return Ok(()) };
        let (socket, network) = (Resource::new_borrow(this.rep()), Resource::new_borrow(network.rep()));
        if tcp::HostTcpSocket::local_address(&mut self.wasi, Resource::new_borrow(this.rep())).is_ok() {
            return Ok(());
        }
        // The check of addresses is immediate (see `guest::wasi`), so this never waits.
        let bound = tcp::HostTcpSocket::start_bind(&mut self.wasi, socket, network, source.into()).now_or_never();
        bound.unwrap_or_else(|| Err(ErrorCode::WouldBlock.into()))?;
        tcp::HostTcpSocket::finish_bind(&mut self.wasi, Resource::new_borrow(this.rep()))
    }
}

impl udp::Host for View<'_> {}

impl udp::HostUdpSocket for View<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<UdpSocket>,
        network: Resource<Network>,
        local_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let real = self.addresses.pod.bind(local_address.into()).map_err(error_code)?;
        udp::HostUdpSocket::start_bind(&mut self.wasi, this, network, real.into()).await
    }

    async fn stream(
        &mut self,
        this: Resource<UdpSocket>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<udp::IncomingDatagramStream>, Resource<udp::OutgoingDatagramStream>)> {
        let real = match remote_address {
            Some(guest) => Some(self.addresses.send_to(guest.into()).map_err(error_code)?.into()),
            None => None,
        };
        let socket = this.rep();
        let streams = udp::HostUdpSocket::stream(&mut self.wasi, this, real).await?;
        match remote_address {
            Some(guest) => _ = self.addresses.peers.insert(socket, guest.into()),
            None => self.addresses.forget(socket),
        }
        Ok(streams)
    }

    fn local_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let real = udp::HostUdpSocket::local_address(&mut self.wasi, this)?;
        Ok(self.addresses.pod.visible(real.into()).into())
    }

    fn remote_address(&mut self, this: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let socket = this.rep();
        let real = udp::HostUdpSocket::remote_address(&mut self.wasi, this)?;
        Ok(self.addresses.peer(socket, real.into()).into())
    }

    fn drop(&mut self, this: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.addresses.forget(this.rep());
        udp::HostUdpSocket::drop(&mut self.wasi, this)
    }

    pass! { udp::HostUdpSocket, UdpSocket:
        fn finish_bind() -> SocketResult<()>;
        fn address_family() -> wasmtime::Result<IpAddressFamily>;
        fn unicast_hop_limit() -> SocketResult<u8>;
        fn set_unicast_hop_limit(value: u8) -> SocketResult<()>;
        fn receive_buffer_size() -> SocketResult<u64>;
        fn set_receive_buffer_size(value: u64) -> SocketResult<()>;
        fn send_buffer_size() -> SocketResult<u64>;
        fn set_send_buffer_size(value: u64) -> SocketResult<()>;
        fn subscribe() -> wasmtime::Result<Resource<DynPollable>>;
    }
}

impl udp::HostIncomingDatagramStream for View<'_> {
    fn receive(
        &mut self,
        this: Resource<udp::IncomingDatagramStream>,
        max_results: u64,
    ) -> SocketResult<Vec<udp::IncomingDatagram>> {
        let mut datagrams = udp::HostIncomingDatagramStream::receive(&mut self.wasi, this, max_results)?;
        for datagram in &mut datagrams {
            datagram.remote_address = self.addresses.received_from(datagram.remote_address.into()).into();
        }
        Ok(datagrams)
    }

    pass! { udp::HostIncomingDatagramStream, udp::IncomingDatagramStream:
        fn subscribe() -> wasmtime::Result<Resource<DynPollable>>;
        fn drop() -> wasmtime::Result<()>;
    }
}

impl udp::HostOutgoingDatagramStream for View<'_> {
    fn send(
        &mut self,
        this: Resource<udp::OutgoingDatagramStream>,
        mut datagrams: Vec<udp::OutgoingDatagram>,
    ) -> SocketResult<u64> {
        for address in datagrams.iter_mut().filter_map(|datagram| datagram.remote_address.as_mut()) {
            *address = self.addresses.send_to((*address).into()).map_err(error_code)?.into();
        }
        udp::HostOutgoingDatagramStream::send(&mut self.wasi, this, datagrams)
    }

    async fn drop(&mut self, this: Resource<udp::OutgoingDatagramStream>) -> wasmtime::Result<()> {
        udp::HostOutgoingDatagramStream::drop(&mut self.wasi, this).await
    }

    pass! { udp::HostOutgoingDatagramStream, udp::OutgoingDatagramStream:
        fn check_send() -> SocketResult<u64>;
        fn subscribe() -> wasmtime::Result<Resource<DynPollable>>;
    }
}

/// A `resolve-address-stream`. (Wasmtime's own cannot be made outside of it, so this interface is bound by hand.)
enum Lookup {
    Asked(AbortOnDropJoinHandle<Result<Vec<IpAddr>, wharf_net::Error>>),
    Answered(Result<std::vec::IntoIter<IpAddr>, ErrorCode>),
}

#[async_trait::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Lookup::Asked(task) = self {
            let answer = task.await;
            *self = Lookup::Answered(answer.map(Vec::into_iter).map_err(error_code));
        }
    }
}

impl Lookup {
    fn next(&mut self) -> Result<Option<IpAddress>, ErrorCode> {
        if self.ready().now_or_never().is_none() {
            return Err(ErrorCode::WouldBlock);
        }
        match self {
            Lookup::Asked(_) => Err(ErrorCode::WouldBlock),
            Lookup::Answered(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Lookup::Answered(Err(code)) => Err(*code),
        }
    }
}

fn add_name_lookup(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(NAME_LOOKUP)?;
    instance.resource("resolve-address-stream", ResourceType::host::<Lookup>(), |mut store, rep| {
        store.data_mut().table().delete(Resource::<Lookup>::new_own(rep))?;
        Ok(())
    })?;
    instance.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Guest>, (network, name): (Resource<Network>, String)| {
            let guest = store.data_mut();
            guest.table().get(&network)?;
            let pod = guest.addresses().pod();
            let asked = Lookup::Asked(spawn(async move { lookup(&pod, &name).await }));
            Ok((Ok::<_, ErrorCode>(guest.table().push(asked)?),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Guest>, (this,): (Resource<Lookup>,)| {
            Ok((store.data_mut().table().get_mut(&this)?.next(),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Guest>, (this,): (Resource<Lookup>,)| {
            Ok((subscribe(store.data_mut().table(), this)?,))
        },
    )
}
