//! Commands: exit codes, limits, output, files, environment, and what a bad image is told.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Bench, PATIENCE, bench, config, exiting, looping, module, runtime, with_args};
use wharf_cri::contract::Program;
use wharf_cri::{ContainerConfig, Mount, Runtime};

/// Writes `text` to stdout, then runs `then`.
fn printing(text: &str, then: &str) -> String {
    module(&format!(
        r#"(data (i32.const 8) "\10\00\00\00\{:02x}\{:02x}\00\00")
           (data (i32.const 16) "{text}")
           (func (export "_start")
             (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 4)))
             {then})"#,
        text.len() & 0xff,
        text.len() >> 8,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_with_its_exit_code() {
    let bench = bench();
    for code in [0, 1, 3, 255] {
        let (status, _) = bench.run(config(&bench.wat("exit", &exiting(code)))).await;
        assert_eq!(status.exit_code, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_an_abort_and_the_log_says_why() {
    let bench = bench();
    let (status, log) = bench.run(config(&bench.wat("trap", &printing("before", "unreachable")))).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (134, "Error"));
    assert!(status.message.contains("unreachable"), "{}", status.message);
    assert!(log.contains("stdout F before\n") && log.contains("stderr F "), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_over_its_memory_limit_is_oom_killed() {
    let bench = bench();
    let grows = module(
        r#"(func (export "_start")
             (loop $again
               (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
             unreachable)"#,
    );
    let mut config = config(&bench.wat("hoard", &grows));
    config.resources.memory_limit_bytes = Some(16 << 20);
    let (status, _) = bench.run(config.clone()).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    config.resources.memory_limit_bytes = Some(1 << 10);
    let (status, _) = bench.run(config).await;
    assert_eq!(status.reason, "OOMKilled", "a limit too small to start under");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_growth_that_is_handled_is_no_kill() {
    let bench = bench();
    let asks = module(
        r#"(func (export "_start")
             (drop (memory.grow (i32.const 1000)))
             (call $exit (i32.const 5)))"#,
    );
    let mut config = config(&bench.wat("careful", &asks));
    config.resources.memory_limit_bytes = Some(4 << 20);
    let (status, _) = bench.run(config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_loops_neither_starve_others_nor_outlive_a_stop() {
    let bench = bench();
    let program = bench.wat("spin", &looping());
    let sandbox = bench.sandbox("spin").await;
    let mut spinning = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let config = ContainerConfig { name: name.into(), ..config(&program) };
        spinning.push(bench.start(&sandbox, config).await.unwrap());
    }
    let (status, _) = bench.run(config(&bench.wat("exit", &exiting(0)))).await;
    assert_eq!(status.exit_code, 0, "another program gets its turn");
    let stop = spinning.iter().map(|id| bench.runtime.stop_container(id, Duration::ZERO));
    tokio::time::timeout(PATIENCE, futures::future::join_all(stop)).await.expect("all stop");
    for id in &spinning {
        assert_eq!(bench.runtime.container(id).await.unwrap().exit_code, 137);
        assert!(bench.runtime.stats(id).await.unwrap().cpu_usage_core_nanos > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_limit_is_a_budget_of_guest_time() {
    let bench = bench();
    let sandbox = bench.sandbox("slow").await;
    let mut config = config(&bench.wat("spin", &looping()));
    config.resources.cpu_limit_millis = Some(100);
    let id = bench.start(&sandbox, config).await.unwrap();
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bench.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    let used = Duration::from_nanos(bench.runtime.stats(&id).await.unwrap().cpu_usage_core_nanos);
    // A tenth of a core, and what one period may be overdrawn: far from all of it however loaded the machine is.
    assert!(used < began.elapsed() / 4, "{used:?} of {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_an_end_is_still_logged() {
    let bench = bench();
    let (_, log) = bench.run(config(&bench.wat("print", &printing(r"one\0atwo", "")))).await;
    assert!(log.starts_with("stdout F one\nstdout F two"), "{log}");
}

async fn create_error(bench: &Bench, bytes: &[u8]) -> String {
    let sandbox = bench.sandbox("bad").await;
    let error = bench.runtime.create_container(&sandbox, config(&bench.image("bad", bytes))).await;
    assert!(bench.runtime.containers().await.unwrap().is_empty());
    error.expect_err("it is refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_with_its_reason() {
    let bench = bench();
    assert_eq!(create_error(&bench, b"\x7fELF").await, "image is not WebAssembly: it is an ELF binary");
    let door = wat::parse_str(
        r#"(component (import "nobody:home/door@0.1.0" (instance (export "knock" (func))))
             (instance (export "wasi:cli/run@0.2.0")))"#,
    );
    let error = create_error(&bench, &door.unwrap()).await;
    assert!(error.starts_with("imports cannot be satisfied") && error.contains("nobody:home/door@0.1.0"), "{error}");
    let env = wat::parse_str(
        r#"(module (import "env" "knock" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let error = create_error(&bench, &env.unwrap()).await;
    assert!(error.contains("`env`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_outlives_the_runtime() {
    let mut bench = bench();
    let program = bench.wat("exit", &exiting(4));
    assert_eq!(bench.run(config(&program)).await.0.exit_code, 4);
    let compiled = bench.dir.path().join("data/compiled");
    let files = || std::fs::read_dir(&compiled).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 2, "code and its checksum");
    for damage in [false, true] {
        if damage {
            let code = files().into_iter().find(|p| p.extension().is_some_and(|e| e == "cwasm")).unwrap();
            // Another file in its place: the one there may still be mapped.
            std::fs::remove_file(&code).unwrap();
            std::fs::write(code, "rotten").unwrap();
        }
        bench.runtime = Arc::new(runtime(bench.dir.path(), &bench.network, bench.images.clone()));
        assert_eq!(bench.run(config(&program)).await.0.exit_code, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_wasi_0_3_runs() {
    let bench = bench();
    for (result, code) in [(0, 0), (1, 1)] {
        let component = format!(
            r#"(component
                (core module $m (func (export "run") (result i32) (i32.const {result})))
                (core instance $i (instantiate $m))
                (func $run async (result (result)) (canon lift (core func $i "run")))
                (instance $exports (export "run" (func $run)))
                (export "wasi:cli/run@0.3.0" (instance $exports)))"#
        );
        let (status, log) = bench.run(config(&bench.wat("run3", &component))).await;
        assert_eq!(status.exit_code, code, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_runs() {
    let mut bench = bench();
    let store = wharf_oci::Store::open(&bench.dir.path().join("images")).unwrap();
    let module = wat::parse_str(exiting(6)).unwrap();
    let image = wharf_oci::import(&store, &module, &["hello:v1"], jiff::Timestamp::now()).unwrap();
    bench.runtime = Arc::new(runtime(bench.dir.path(), &bench.network, store));
    let program = Program { image: "hello:v1".into(), image_id: image.id };
    assert_eq!(bench.run(config(&program)).await.0.exit_code, 6);

    let sandbox = bench.sandbox("absent").await;
    let absent = Program { image: "hello:v2".into(), image_id: "hello:v2".into() };
    let error = bench.runtime.create_container(&sandbox, config(&absent)).await.unwrap_err();
    assert_eq!(error.to_string(), "image hello:v2 is not present");
}

// From here on: guests that `cargo xtask guests` builds.

#[tokio::test(flavor = "multi_thread")]
async fn arguments_environment_and_files_are_the_pods() {
    let bench = bench();
    let show = bench.guest("show");
    let (_, log) = bench.run(with_args(&show, &["args", "a", "b"])).await;
    assert_eq!(log, "stdout F a|b\n");

    let mut env = with_args(&show, &["env"]);
    env.env = vec![("COLOUR".into(), "green".into())];
    let (_, log) = bench.run(env).await;
    assert!(log.contains("stdout F COLOUR=green\n") && log.contains("stdout F HOSTNAME=run-"), "{log}");

    let volume = bench.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("greeting"), "hello\n").unwrap();
    let mount = |read_only| Mount { container_path: "/data".into(), host_path: volume.clone(), read_only };
    let mut cat = with_args(&show, &["cat", "/data/greeting", "/etc/hostname"]);
    cat.mounts = vec![mount(true)];
    let (status, log) = bench.run(cat).await;
    assert_eq!(status.exit_code, 0, "{log}");
    assert!(log.starts_with("stdout F hello\nstdout F run-"), "{log}");

    for (read_only, code) in [(true, 1), (false, 0)] {
        let mut write = with_args(&show, &["write", "/data/new", "text"]);
        write.mounts = vec![mount(read_only)];
        let (status, log) = bench.run(write).await;
        assert_eq!(status.exit_code, code, "{log}");
        assert_eq!(volume.join("new").exists(), !read_only);
    }
    let (status, log) = bench.run(with_args(&show, &["write", "/../../escaped", "text"])).await;
    assert_ne!((status.exit_code, bench.dir.path().join("escaped").exists()), (0, true), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_root_is_writable_unless_it_is_read_only() {
    let bench = bench();
    let show = bench.guest("show");
    for (read_only_root, code) in [(false, 0), (true, 1)] {
        let write = ContainerConfig { read_only_root, ..with_args(&show, &["write", "/tmp/x", "text"]) };
        let (status, log) = bench.run(write).await;
        assert_eq!(status.exit_code, code, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_words_reach_the_node() {
    let bench = bench();
    let exit = bench.guest("exit");
    let message = bench.dir.path().join("message");
    std::fs::write(&message, "").unwrap();
    let mut config = with_args(&exit, &["0", "goodbye"]);
    config.termination_message = Some(message.clone());
    config.read_only_root = true;
    bench.run(config).await;
    assert_eq!(std::fs::read_to_string(message).unwrap(), "goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn built_guests_meet_their_limits() {
    let bench = bench();
    let (hoard, stranger, spin) = (bench.guest("hoard"), bench.guest("stranger"), bench.guest("spin"));
    let mut limited = config(&hoard);
    limited.resources.memory_limit_bytes = Some(32 << 20);
    let (status, log) = bench.run(limited).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{log}");

    let sandbox = bench.sandbox("stranger").await;
    let error = bench.runtime.create_container(&sandbox, config(&stranger)).await.unwrap_err().to_string();
    assert!(error.contains("nobody:home/door@0.1.0"), "{error}");

    let id = bench.start(&sandbox, config(&spin)).await.unwrap();
    bench.logged(&id, "spinning").await;
    bench.runtime.stop_container(&id, PATIENCE).await.unwrap();
    assert_eq!(bench.runtime.container(&id).await.unwrap().exit_code, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_the_image_again_in_the_containers_place() {
    let bench = bench();
    let show = bench.guest("show");
    let sandbox = bench.sandbox("exec").await;
    let mut tick = with_args(&show, &["tick", "1000"]);
    tick.env = vec![("COLOUR".into(), "green".into())];
    let id = bench.start(&sandbox, tick).await.unwrap();
    let exec = |words: &str| {
        let argv = words.split(' ').map(str::to_owned).collect();
        bench.runtime.exec_sync(&id, argv, Some(PATIENCE))
    };
    let shown = exec("show env").await.unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("COLOUR=green"), "{shown:?}");
    let failed = exec("show nothing").await.unwrap();
    assert_eq!(failed.exit_code, 1);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("do not know"), "{failed:?}");
    let argv = vec!["show".into(), "tick".into(), "1000".into()];
    let late = bench.runtime.exec_sync(&id, argv, Some(Duration::from_millis(50))).await;
    assert!(matches!(late, Err(wharf_cri::Error::Timeout { .. })), "{late:?}");
}
