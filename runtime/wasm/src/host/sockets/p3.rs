//! `wasi:sockets` 0.3.

use std::net::SocketAddr;

use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::{
    self, ErrorCode, HostTcpSocket, HostTcpSocketWithStore, HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily,
    IpSocketAddress,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};
use wasmtime_wasi::sockets::{TcpSocket, UdpSocket, WasiSockets, WasiSocketsCtxView};
use wharf_net::Transport;

use super::{PodSockets, Refusal, View, lookup, refusal, view};
use crate::guest::Guest;

type Wasi<'a> = WasiSocketsCtxView<'a>;

pub fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    types::add_to_linker::<Guest, PodSockets>(linker, view)?;
    ip_name_lookup::add_to_linker::<Guest, PodSockets>(linker, view)
}

fn wasi(guest: &mut Guest) -> Wasi<'_> {
    guest.sockets_and_addresses().0
}

fn error_code(error: wharf_net::Error) -> ErrorCode {
    match refusal(&error) {
        Refusal::Denied => ErrorCode::AccessDenied,
        Refusal::Refused => ErrorCode::ConnectionRefused,
        Refusal::NoSuchName | Refusal::Other => ErrorCode::Other(None),
    }
}

macro_rules! pass {
    ($trait:path, $resource:ty: $(fn $name:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, this: Resource<$resource>, $($arg: $ty),*) -> $result {
            <Wasi<'_> as $trait>::$name(&mut self.wasi, this, $($arg),*)
        })*
    };
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.wasi, error)
    }
}

impl View<'_> {
    fn tcp_is_bound(&mut self, socket: u32) -> bool {
        HostTcpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(socket)).is_ok()
    }

    /// Binds a TCP socket that was not bound to the pod's address, so that its peer sees the pod.
    async fn bind_tcp_to_source(&mut self, socket: u32, real: SocketAddr) -> SocketResult<()> {
        match self.addresses.pod.source(real) {
            Some(source) if !self.tcp_is_bound(socket) => {
                HostTcpSocket::bind(&mut self.wasi, Resource::new_borrow(socket), source.into()).await
            }
            _ => Ok(()),
        }
    }

    async fn bind_udp_to_source(&mut self, socket: u32, real: SocketAddr) -> SocketResult<()> {
        let bound = HostUdpSocket::get_local_address(&mut self.wasi, Resource::new_borrow(socket)).is_ok();
        match self.addresses.pod.source(real) {
            Some(source) if !bound => {
                HostUdpSocket::bind(&mut self.wasi, Resource::new_borrow(socket), source.into()).await
            }
            _ => Ok(()),
        }
    }
}

/// Runs a future that never waits (see `guest::wasi`: the check of addresses is immediate).
fn at_once<T>(future: impl Future<Output = SocketResult<T>>) -> SocketResult<T> {
    futures::FutureExt::now_or_never(future).unwrap_or_else(|| Err(ErrorCode::InvalidState.into()))
}

impl HostTcpSocketWithStore<Guest> for PodSockets {
    async fn connect(
        store: &Accessor<Guest, Self>,
        socket: Resource<TcpSocket>,
        remote_address: IpSocketAddress,
    ) -> SocketResult<()> {
        let rep = socket.rep();
        let real = store.with(|mut store| -> SocketResult<SocketAddr> {
            let mut view = store.get();
            let real = view.addresses.connect(rep, Transport::Tcp, remote_address.into()).map_err(error_code)?;
            at_once(view.bind_tcp_to_source(rep, real))?;
            Ok(real)
        })?;
        let store = store.with_getter::<WasiSockets>(wasi);
        <WasiSockets as HostTcpSocketWithStore<Guest>>::connect(&store, socket, real.into()).await
    }

    async fn listen(
        mut store: Access<'_, Guest, Self>,
        socket: Resource<TcpSocket>,
    ) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
        let rep = socket.rep();
        let mut view = store.get();
        if !view.tcp_is_bound(rep) {
            // Listening unbound means the wildcard address, which is the pod's.
            let any = match HostTcpSocket::get_address_family(&mut view.wasi, Resource::new_borrow(rep)) {
                Ok(IpAddressFamily::Ipv6) => SocketAddr::from(([0u16; 8], 0)),
                _ => SocketAddr::from(([0; 4], 0)),
            };
            HostTcpSocket::bind(&mut view, Resource::new_borrow(rep), any.into()).await?;
        }
        let store = Access::<Guest, WasiSockets>::new(store.as_context_mut(), wasi);
        <WasiSockets as HostTcpSocketWithStore<Guest>>::listen(store, socket).await
    }

    fn send(
        mut store: Access<'_, Guest, Self>,
        socket: Resource<TcpSocket>,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        let store = Access::<Guest, WasiSockets>::new(store.as_context_mut(), wasi);
        <WasiSockets as HostTcpSocketWithStore<Guest>>::send(store, socket, data)
    }

    fn receive(
        mut store: Access<'_, Guest, Self>,
        socket: Resource<TcpSocket>,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Result<(), ErrorCode>>)> {
        let store = Access::<Guest, WasiSockets>::new(store.as_context_mut(), wasi);
        <WasiSockets as HostTcpSocketWithStore<Guest>>::receive(store, socket)
    }
}

impl HostTcpSocket for View<'_> {
    async fn bind(&mut self, socket: Resource<TcpSocket>, local_address: IpSocketAddress) -> SocketResult<()> {
        let real = self.addresses.pod.bind(local_address.into()).map_err(error_code)?;
        HostTcpSocket::bind(&mut self.wasi, socket, real.into()).await
    }

    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        HostTcpSocket::create(&mut self.wasi, family)
    }

    fn get_local_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let real = HostTcpSocket::get_local_address(&mut self.wasi, socket)?;
        Ok(self.addresses.pod.visible(real.into()).into())
    }

    fn get_remote_address(&mut self, socket: Resource<TcpSocket>) -> SocketResult<IpSocketAddress> {
        let rep = socket.rep();
        let real = HostTcpSocket::get_remote_address(&mut self.wasi, socket)?;
        Ok(self.addresses.peer(rep, real.into()).into())
    }

    fn drop(&mut self, socket: Resource<TcpSocket>) -> wasmtime::Result<()> {
        self.addresses.forget(socket.rep());
        HostTcpSocket::drop(&mut self.wasi, socket)
    }

    pass! { HostTcpSocket, TcpSocket:
        fn get_is_listening() -> wasmtime::Result<bool>;
        fn get_address_family() -> wasmtime::Result<IpAddressFamily>;
        fn set_listen_backlog_size(value: u64) -> SocketResult<()>;
        fn get_keep_alive_enabled() -> SocketResult<bool>;
        fn set_keep_alive_enabled(value: bool) -> SocketResult<()>;
        fn get_keep_alive_idle_time() -> SocketResult<u64>;
        fn set_keep_alive_idle_time(value: u64) -> SocketResult<()>;
        fn get_keep_alive_interval() -> SocketResult<u64>;
        fn set_keep_alive_interval(value: u64) -> SocketResult<()>;
        fn get_keep_alive_count() -> SocketResult<u32>;
        fn set_keep_alive_count(value: u32) -> SocketResult<()>;
        fn get_hop_limit() -> SocketResult<u8>;
        fn set_hop_limit(value: u8) -> SocketResult<()>;
        fn get_receive_buffer_size() -> SocketResult<u64>;
        fn set_receive_buffer_size(value: u64) -> SocketResult<()>;
        fn get_send_buffer_size() -> SocketResult<u64>;
        fn set_send_buffer_size(value: u64) -> SocketResult<()>;
    }
}

impl HostUdpSocketWithStore<Guest> for PodSockets {
    async fn send(
        store: &Accessor<Guest, Self>,
        socket: Resource<UdpSocket>,
        data: Vec<u8>,
        remote_address: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        let real = match remote_address {
            Some(guest) => Some(store.with(|mut store| -> SocketResult<IpSocketAddress> {
                let mut view = store.get();
                let real = view.addresses.send_to(guest.into()).map_err(error_code)?;
                at_once(view.bind_udp_to_source(socket.rep(), real))?;
                Ok(real.into())
            })?),
            None => None,
        };
        let store = store.with_getter::<WasiSockets>(wasi);
        <WasiSockets as HostUdpSocketWithStore<Guest>>::send(&store, socket, data, real).await
    }

    async fn receive(
        store: &Accessor<Guest, Self>,
        socket: Resource<UdpSocket>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let wasi_store = store.with_getter::<WasiSockets>(wasi);
        let (data, real) = <WasiSockets as HostUdpSocketWithStore<Guest>>::receive(&wasi_store, socket).await?;
        let guest = store.with(|mut store| store.get().addresses.received_from(real.into()));
        Ok((data, guest.into()))
    }
}

impl HostUdpSocket for View<'_> {
    async fn bind(&mut self, socket: Resource<UdpSocket>, local_address: IpSocketAddress) -> SocketResult<()> {
        let real = self.addresses.pod.bind(local_address.into()).map_err(error_code)?;
        HostUdpSocket::bind(&mut self.wasi, socket, real.into()).await
    }

    async fn connect(&mut self, socket: Resource<UdpSocket>, remote_address: IpSocketAddress) -> SocketResult<()> {
        let rep = socket.rep();
        let real = self.addresses.send_to(remote_address.into()).map_err(error_code)?;
        self.bind_udp_to_source(rep, real).await?;
        HostUdpSocket::connect(&mut self.wasi, socket, real.into()).await?;
        self.addresses.peers.insert(rep, remote_address.into());
        Ok(())
    }

    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
        HostUdpSocket::create(&mut self.wasi, family).await
    }

    fn disconnect(&mut self, socket: Resource<UdpSocket>) -> SocketResult<()> {
        self.addresses.forget(socket.rep());
        HostUdpSocket::disconnect(&mut self.wasi, socket)
    }

    fn get_local_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let real = HostUdpSocket::get_local_address(&mut self.wasi, socket)?;
        Ok(self.addresses.pod.visible(real.into()).into())
    }

    fn get_remote_address(&mut self, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
        let rep = socket.rep();
        let real = HostUdpSocket::get_remote_address(&mut self.wasi, socket)?;
        Ok(self.addresses.peer(rep, real.into()).into())
    }

    fn drop(&mut self, socket: Resource<UdpSocket>) -> wasmtime::Result<()> {
        self.addresses.forget(socket.rep());
        HostUdpSocket::drop(&mut self.wasi, socket)
    }

    pass! { HostUdpSocket, UdpSocket:
        fn get_address_family() -> wasmtime::Result<IpAddressFamily>;
        fn get_unicast_hop_limit() -> SocketResult<u8>;
        fn set_unicast_hop_limit(value: u8) -> SocketResult<()>;
        fn get_receive_buffer_size() -> SocketResult<u64>;
        fn set_receive_buffer_size(value: u64) -> SocketResult<()>;
        fn get_send_buffer_size() -> SocketResult<u64>;
        fn set_send_buffer_size(value: u64) -> SocketResult<()>;
    }
}

impl ip_name_lookup::Host for View<'_> {}

impl ip_name_lookup::HostWithStore<Guest> for PodSockets {
    async fn resolve_addresses(
        store: &Accessor<Guest, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<types::IpAddress>, ip_name_lookup::ErrorCode>> {
        let pod = store.with(|mut store| store.get().addresses.pod());
        let answer = lookup(&pod, &name).await.map_err(|error| match refusal(&error) {
            Refusal::NoSuchName => ip_name_lookup::ErrorCode::NameUnresolvable,
            Refusal::Denied => ip_name_lookup::ErrorCode::AccessDenied,
            Refusal::Refused | Refusal::Other => ip_name_lookup::ErrorCode::TemporaryResolverFailure,
        });
        Ok(answer.map(|addresses| addresses.into_iter().map(types::IpAddress::from).collect()))
    }
}
