//! HTTP components, and sockets of guests: all with the pod's addresses.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use support::{Bench, PATIENCE, bench, config, with_args};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wharf_cri::{ContainerConfig, ContainerPort, Error, Mount, Protocol, Runtime};

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an answer comes")?;
    Ok(text)
}

fn on_port(config: ContainerConfig, port: u16) -> ContainerConfig {
    ContainerConfig { ports: vec![ContainerPort { name: "http".into(), port, protocol: Protocol::Tcp }], ..config }
}

async fn hello(bench: &Bench) -> (wharf_cri::ContainerId, SocketAddr) {
    let hello = bench.guest("hello-http");
    let sandbox = bench.sandbox("hello").await;
    let id = bench.start(&sandbox, on_port(config(&hello), 8000)).await.unwrap();
    (id, (bench.ip(&sandbox).await, 8000).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_component_answers_on_its_pods_address() {
    let bench = bench();
    let (id, address) = hello(&bench).await;
    assert_eq!(bench.runtime.stats(&id).await.unwrap().memory_rss_bytes, 0, "an idle one has no instance");
    for _ in 0..3 {
        let answer = get(address, "/").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert!(bench.runtime.stats(&id).await.unwrap().cpu_usage_core_nanos > 0);
    let many = (0..64).map(|_| get(address, "/"));
    for answer in futures::future::join_all(many).await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    bench.runtime.stop_container(&id, PATIENCE).await.unwrap();
    assert_eq!(bench.runtime.container(&id).await.unwrap().exit_code, 0, "drained");
    assert_eq!(get(address, "/").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_fails_the_start() {
    let bench = bench();
    let hello = bench.guest("hello-http");
    let sandbox = bench.sandbox("twice").await;
    bench.start(&sandbox, on_port(config(&hello), 8000)).await.unwrap();
    let second = ContainerConfig { name: "second".into(), ..on_port(config(&hello), 8000) };
    let error = bench.start(&sandbox, second).await.unwrap_err();
    assert!(matches!(error, Error::Start(_)));
    let ip = bench.ip(&sandbox).await;
    assert_eq!(error.to_string(), format!("listen tcp {ip}:8000: bind: address already in use"));
    let status = bench.runtime.containers().await.unwrap().into_iter().find(|c| c.name == "second").unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_too_small_for_an_instance_kills_the_container() {
    let bench = bench();
    let hello = bench.guest("hello-http");
    let sandbox = bench.sandbox("tiny").await;
    let mut config = on_port(config(&hello), 8000);
    config.resources.memory_limit_bytes = Some(64 << 10);
    let id = bench.start(&sandbox, config).await.unwrap();
    let _ = get((bench.ip(&sandbox).await, 8000).into(), "/").await;
    let status = bench.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_its_loopback_and_a_volume() {
    let bench = bench();
    let (store, web) = (bench.guest("counter-store"), bench.guest("counter-web"));
    let sandbox = bench.sandbox("counter").await;
    let volume = bench.dir.path().join("data-volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = |read_only| vec![Mount { container_path: "/data".into(), host_path: volume.clone(), read_only }];
    let store = ContainerConfig {
        name: "store".into(),
        log_path: "store/0.log".into(),
        mounts: mount(false),
        ..config(&store)
    };
    let store = bench.start(&sandbox, store).await.unwrap();
    bench.logged(&store, "counting from 0").await;
    let web = ContainerConfig { mounts: mount(true), ..on_port(config(&web), 8000) };
    bench.start(&sandbox, web).await.unwrap();
    let address: SocketAddr = (bench.ip(&sandbox).await, 8000).into();
    for expected in ["\r\n1\n", "\r\n2\n"] {
        let answer = get(address, "/").await.unwrap();
        assert!(answer.contains(expected), "{answer}");
    }
    let answer = get(address, "/file").await.unwrap();
    assert!(answer.contains("\r\n2\n"), "{answer}");
    let outside = TcpStream::connect((bench.ip(&sandbox).await, 7000)).await;
    assert!(outside.is_err(), "what listens on the pod's loopback is not on its address");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_names_are_resolved_when_a_guest_connects() {
    let bench = bench();
    let show = bench.guest("show");
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let real = backend.local_addr().unwrap();
    let service: SocketAddr = "10.96.0.7:80".parse().unwrap();
    bench.network.services.lock().insert(service, real);
    bench.network.names.lock().insert("web.default.svc".into(), service.ip());
    let (peers, mut seen) = tokio::sync::mpsc::channel(8);
    let serve = tokio::spawn(async move {
        while let Ok((mut stream, peer)) = backend.accept().await {
            peers.send(peer).await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    });
    for target in ["10.96.0.7:80", "web.default.svc:80"] {
        let (status, log) = bench.run(with_args(&show, &["get", target])).await;
        assert_eq!(status.exit_code, 0, "{log}");
        assert!(log.contains("204 No Content"), "{log}");
        let peer = seen.recv().await.unwrap();
        assert_ne!(peer.ip(), Ipv4Addr::LOCALHOST, "the backend sees the pod's address");
    }
    let (status, log) = bench.run(with_args(&show, &["resolve", "web.default.svc"])).await;
    assert_eq!((status.exit_code, log.as_str()), (0, "stdout F 10.96.0.7\n"));
    let (status, log) = bench.run(with_args(&show, &["resolve", "nobody.default.svc"])).await;
    assert_eq!(status.exit_code, 1, "{log}");
    let (status, log) = bench.run(with_args(&show, &["get", "10.96.0.8:80"])).await;
    assert_eq!(status.exit_code, 1, "{log}");
    assert!(log.to_lowercase().contains("refused"), "{log}");
    serve.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_stop_the_drain() {
    let bench = bench();
    let (id, address) = hello(&bench).await;
    let open = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    drop(half);
    let runtime: Arc<dyn Runtime> = bench.runtime.clone();
    tokio::time::timeout(PATIENCE, runtime.stop_container(&id, Duration::from_secs(30)))
        .await
        .expect("it stops")
        .unwrap();
    drop(open);
    assert_ne!(runtime.container(&id).await.unwrap().finished_at, None);
}
