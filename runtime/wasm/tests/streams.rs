//! Exec, attach and forwarded ports: what a client sees of a guest's streams.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{Bench, PATIENCE, bench, config, exiting, looping};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use wharf_cri::{ContainerConfig, ContainerId, ContainerPort, Protocol, Runtime, Wanted};

/// Says what it is told, to its end; then what it was called with as its exit code's worth of arguments.
fn cat() -> String {
    r#"(module
         (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
         (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
         (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
         (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
         (memory (export "memory") 1)
         (data (i32.const 0) "\40\00\00\00\00\04\00\00")
         (func (export "_start")
           (block $end
             (loop $again
               (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
               (br_if $end (i32.eqz (i32.load (i32.const 8))))
               (i32.store (i32.const 16) (i32.const 64))
               (i32.store (i32.const 20) (i32.load (i32.const 8)))
               (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
               (br $again)))
           (drop (call $args (i32.const 32) (i32.const 36)))
           (call $exit (i32.sub (i32.load (i32.const 32)) (i32.const 1)))))"#
        .to_owned()
}

async fn running(bench: &Bench, text: &str, change: impl FnOnce(&mut ContainerConfig)) -> ContainerId {
    let mut config = config(&bench.wat("guest", text));
    change(&mut config);
    let sandbox = bench.sandbox("streams").await;
    bench.start(&sandbox, config).await.unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

async fn said(from: &mut mpsc::Receiver<Bytes>, expected: &str) {
    let mut text = String::new();
    while text.len() < expected.len() {
        let chunk = tokio::time::timeout(PATIENCE, from.recv()).await.expect("more in time");
        text += std::str::from_utf8(&chunk.expect("not the end yet")).unwrap();
    }
    assert_eq!(text, expected);
}

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_another_instance_with_streams_of_its_own() {
    let bench = bench();
    let id = running(&bench, &cat(), |config| config.stdin = true).await;
    let (streams, ends) = ALL.open();
    let (stdin, mut stdout) = (ends.stdin.unwrap(), ends.stdout.unwrap());
    let talk = async move {
        for word in ["one", "two"] {
            stdin.send(word.into()).await.unwrap();
            said(&mut stdout, word).await;
        }
        drop(stdin);
        assert_eq!(stdout.recv().await, None);
    };
    let (code, ()) = tokio::join!(bench.runtime.exec(&id, words("cat a b"), streams), talk);
    assert_eq!(code.unwrap(), 2, "its own arguments");
    assert_eq!(bench.log(&id).await, "", "none of it is the container's output");

    let (streams, _) = Wanted { stdout: true, ..Wanted::default() }.open();
    assert_eq!(bench.runtime.exec(&id, words("cat"), streams).await.unwrap(), 0, "no stdin is an empty one");
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_waits_for_a_slow_client() {
    let bench = bench();
    let id = running(&bench, &cat(), |config| config.stdin = true).await;
    let (streams, ends) = ALL.open();
    let (stdin, mut stdout) = (ends.stdin.unwrap(), ends.stdout.unwrap());
    let chunk = Bytes::from("x".repeat(16 << 10));
    let feed = async move {
        for _ in 0..64 {
            stdin.send(chunk.clone()).await.unwrap();
        }
    };
    let drain = async move {
        let mut total = 0;
        while let Some(chunk) = stdout.recv().await {
            total += chunk.len();
            tokio::task::yield_now().await;
        }
        total
    };
    let (code, (), total) = tokio::join!(bench.runtime.exec(&id, words("cat"), streams), feed, drain);
    assert_eq!((code.unwrap(), total), (0, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_exec() {
    let bench = bench();
    let id = running(&bench, &looping(), |_| {}).await;
    let (streams, mut ends) = ALL.open();
    let exec = bench.runtime.exec(&id, words("loop"), streams);
    tokio::select! {
        code = exec => panic!("a loop ends with {code:?}"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    let end = tokio::time::timeout(PATIENCE, ends.stdout.as_mut().unwrap().recv()).await;
    assert_eq!(end.expect("the guest is gone"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_echoes_edits_and_interrupts() {
    let bench = bench();
    let id = running(&bench, &cat(), |config| config.stdin = true).await;
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
    let (streams, ends) = wanted.open();
    let (stdin, mut stdout) = (ends.stdin.unwrap(), ends.stdout.unwrap());
    let talk = async move {
        stdin.send("hx\x7fi\r".into()).await.unwrap();
        said(&mut stdout, "hx\x08 \x08i\r\nhi\r\n").await;
        stdin.send("\x03".into()).await.unwrap();
        while stdout.recv().await.is_some() {}
    };
    let (code, ()) = tokio::join!(bench.runtime.exec(&id, words("cat"), streams), talk);
    assert_eq!(code.unwrap(), 130);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_is_the_containers_own_streams() {
    let bench = bench();
    for once in [false, true] {
        let id = running(&bench, &cat(), |config| {
            (config.stdin, config.stdin_once, config.attempt) = (true, once, u32::from(once));
        })
        .await;
        let (streams, ends) = ALL.open();
        let (stdin, mut stdout) = (ends.stdin.unwrap(), ends.stdout.unwrap());
        let attached = tokio::spawn({
            let (runtime, id) = (bench.runtime.clone(), id.clone());
            async move { runtime.attach(&id, streams).await }
        });
        stdin.send("hello\n".into()).await.unwrap();
        said(&mut stdout, "hello\n").await;
        bench.logged(&id, "hello").await;
        drop(stdin);
        if once {
            assert_eq!(bench.exited(&id).await.exit_code, 0, "the client's end of input is the container's");
        } else {
            let (streams, ends) = ALL.open();
            let mut second = ends.stdout.unwrap();
            let again = tokio::spawn({
                let (runtime, id) = (bench.runtime.clone(), id.clone());
                async move { runtime.attach(&id, streams).await }
            });
            ends.stdin.unwrap().send("again\n".into()).await.unwrap();
            said(&mut second, "again\n").await;
            said(&mut stdout, "again\n").await;
            bench.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
            again.await.unwrap().unwrap();
        }
        attached.await.unwrap().unwrap();
        assert_eq!(stdout.recv().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_leads_into_the_pod() {
    let bench = bench();
    let hello = bench.guest("hello-http");
    let sandbox = bench.sandbox("forward").await;
    let port = ContainerPort { name: "http".into(), port: 8000, protocol: Protocol::Tcp };
    bench.start(&sandbox, ContainerConfig { ports: vec![port], ..config(&hello) }).await.unwrap();
    let mut connection = bench.runtime.port_forward(&sandbox, 8000).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await.expect("in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let refused = bench.runtime.port_forward(&sandbox, 8001).await.expect_err("nothing listens there");
    assert_eq!(refused.to_string(), "dial tcp4 127.0.0.1:8001: connect: connection refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_stdin_is_at_its_end_from_the_start() {
    let bench = bench();
    let (status, _) = bench.run(config(&bench.wat("cat", &cat()))).await;
    assert_eq!(status.exit_code, 0);
    let (status, _) = bench.run(config(&bench.wat("exit", &exiting(3)))).await;
    assert_eq!(status.exit_code, 3);
}
