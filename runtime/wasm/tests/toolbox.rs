//! Programs for `exec`: the toolbox that `cargo xtask guests` builds, in the place of a container that runs something else.

mod support;

use bytes::Bytes;
use support::{Bench, PATIENCE, bench_with_tools, with_args};
use wharf_cri::{ContainerId, ExecResult, Mount, Runtime, Wanted};

struct Place {
    bench: Bench,
    id: ContainerId,
    volume: tempfile::TempDir,
}

/// A container of `show` with a volume at `/data` and a working directory in it.
async fn place() -> Place {
    let bench = bench_with_tools();
    let show = bench.guest("show");
    let sandbox = bench.sandbox("tools").await;
    let volume = tempfile::tempdir().expect("a volume");
    let mut config = with_args(&show, &["tick", "1000"]);
    config.env = vec![("COLOUR".into(), "green".into())];
    config.working_dir = "/data".into();
    config.mounts =
        vec![Mount { container_path: "/data".into(), host_path: volume.path().to_owned(), read_only: false }];
    let id = bench.start(&sandbox, config).await.expect("it starts");
    Place { bench, id, volume }
}

impl Place {
    async fn run(&self, argv: &[&str]) -> ExecResult {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        self.bench.runtime.exec_sync(&self.id, argv, Some(PATIENCE)).await.expect("it runs")
    }

    async fn check(&self, argv: &[&str], expected: &str) {
        let ended = self.run(argv).await;
        let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert_eq!((out.as_ref(), ended.exit_code), (expected, 0), "{argv:?}: {err}");
    }

    async fn shell(&self, script: &str, expected: &str) {
        self.check(&["sh", "-c", script], expected).await;
    }

    /// What it complains of and that it fails.
    async fn fails(&self, argv: &[&str], expected: &str) {
        let ended = self.run(argv).await;
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.exit_code != 0 && err.contains(expected), "{argv:?}: {} {err:?}", ended.exit_code);
    }

    async fn feed(&self, argv: &[&str], input: &[u8]) -> (i32, Vec<u8>) {
        let (streams, mut ends) = Wanted { stdin: true, stdout: true, ..Wanted::default() }.open();
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let stdin = ends.stdin.take().expect("stdin");
        let mut stdout = ends.stdout.take().expect("stdout");
        let talk = async {
            for chunk in input.chunks(16 << 10) {
                if stdin.send(Bytes::copy_from_slice(chunk)).await.is_err() {
                    break;
                }
            }
            drop(stdin);
        };
        let listen = async {
            let mut said = Vec::new();
            while let Some(chunk) = stdout.recv().await {
                said.extend_from_slice(&chunk);
            }
            said
        };
        let (code, (), said) = tokio::join!(self.bench.runtime.exec(&self.id, argv, streams), talk, listen);
        (code.expect("it runs"), said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_toolbox_has_the_tools_that_are_named() {
    let place = place().await;
    // Called by no name that it knows, it tells those that it does.
    let bench = &place.bench;
    let toolbox = bench.guest("toolbox");
    let sandbox = bench.sandbox("itself").await;
    let id = bench.start(&sandbox, with_args(&toolbox, &[])).await.expect("it starts");
    bench.logged(&id, "whoami").await;
    let mut argv = vec!["sh", "-c", "for tool in \"$@\"; do command -v $tool; done", "sh"];
    argv.extend(wharf_wasm::TOOLS);
    let expected: String = wharf_wasm::TOOLS.iter().map(|tool| format!("{tool}\n")).collect();
    place.check(&argv, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_see_the_containers_files_environment_and_working_directory() {
    let place = place().await;
    std::fs::write(place.volume.path().join("note"), "one\ntwo\nthree\n").expect("a file");
    place.check(&["pwd"], "/data\n").await;
    place.check(&["/bin/cat", "note"], "one\ntwo\nthree\n").await;
    place.check(&["ls"], "note\n").await;
    place.check(&["printenv", "COLOUR"], "green\n").await;
    place.check(&["head", "-n", "1", "/data/note"], "one\n").await;
    place.check(&["tail", "-1", "note"], "three\n").await;
    place.check(&["wc", "-l", "note"], "3 note\n").await;
    place.check(&["grep", "-n", "t.*e", "note"], "3:three\n").await;
    place.fails(&["cat", "/data/absent"], "cat: /data/absent: No such file or directory").await;
    place.fails(&["test", "-d", "/data/note"], "").await;
    // Its own program still answers to its own name.
    place.check(&["show", "args", "a", "b"], "a|b\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_runs_scripts() {
    let place = place().await;
    place.shell("echo $HOME-$COLOUR \"$COLOUR  x\" '$COLOUR'", "-green green  x $COLOUR\n").await;
    place.shell("echo one > a; echo two >> a; cat < a", "one\ntwo\n").await;
    place.shell("false && echo no || echo yes; true && echo and", "yes\nand\n").await;
    place.shell("mkdir -p d/e && cp a d/e/b && mv d/e/b d/c && ls d; rm -r d; ls", "c\ne\na\n").await;
    place.shell("cat a | grep two | wc -c", "4\n").await;
    place.shell("cat absent 2>&1 | wc -l; cat absent 2>/dev/null; echo $?", "1\n1\n").await;
    place.shell("cd /; pwd; (cd /data; pwd); pwd", "/\n/data\n/\n").await;
    place.shell("for x in 1 2 3; do if [ $x -eq 2 ]; then continue; fi; echo $x; done", "1\n3\n").await;
    place.shell("n=x; while [ \"$n\" != xxx ]; do n=x$n; done; echo $n $(echo in; echo ner)", "xxx in ner\n").await;
    place.shell("touch f1 f2; echo f*; echo ${NONE:-fallback}", "f1 f2\nfallback\n").await;
    place.fails(&["sh", "-c", "nonsense"], "nonsense: not found").await;
    place.fails(&["sh", "-c", "echo \"open"], "unexpected end of file").await;
    place.fails(&["sh", "-c", "set -e; false; echo late >&2"], "").await;
    let (code, said) = place.feed(&["sh"], b"x=5\necho got $x\nif true\nthen echo deep\nfi\n").await;
    assert_eq!((code, String::from_utf8_lossy(&said).as_ref()), (0, "got 5\ndeep\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_in_and_out() {
    let place = place().await;
    let long = format!("{}/{}", "d".repeat(80), "f".repeat(80));
    let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut archive = tar_of(&[("x/small", b"small"), (&format!("x/{long}"), b"long"), ("x/big", &big)]);
    let (code, _) = place.feed(&["tar", "-xmf", "-", "-C", "/data"], &archive).await;
    assert_eq!(code, 0);
    assert_eq!(std::fs::read(place.volume.path().join("x/small")).expect("small"), b"small");
    assert_eq!(std::fs::read(place.volume.path().join("x").join(&long)).expect("long"), b"long");
    assert!(std::fs::read(place.volume.path().join("x/big")).expect("big") == big);
    // And back, as `kubectl cp` asks, from the start or from where it broke off.
    let (code, out) = place.feed(&["tar", "cf", "-", "x"], b"").await;
    let (tail_code, tail) = place.feed(&["sh", "-c", "tar cf - x | tail -c+1025"], b"").await;
    assert_eq!((code, tail_code), (0, 0));
    assert!(out[1024..] == tail[..], "the rest of the same archive");
    let (code, listed) = place.feed(&["tar", "tf", "-"], &out).await;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    assert!(code == 0 && listed.contains("x/small\n") && listed.contains(&long), "{listed}");
    // What would climb out stays out.
    archive = tar_of(&[("../../escaped", b"no")]);
    let (code, _) = place.feed(&["tar", "xf", "-"], &archive).await;
    assert_ne!(code, 0);
    assert!(!place.volume.path().join("../escaped").exists());
    place.fails(&["tar", "cf", "-", "absent"], "absent: No such file or directory").await;
}

/// An archive as a client writes it.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        if name.contains("..") {
            // The library would not write such a name.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).expect("an entry");
        } else {
            builder.append_data(&mut header, name, *bytes).expect("an entry");
        }
    }
    builder.into_inner().expect("an archive")
}
