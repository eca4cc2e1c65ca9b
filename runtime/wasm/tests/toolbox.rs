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

#[tokio::test(flavor = "multi_thread")]
async fn links_are_made_and_packed() {
    let place = place().await;
    std::fs::create_dir(place.volume.path().join("t")).expect("a directory");
    std::fs::write(place.volume.path().join("t/real"), "real\n").expect("a file");
    place
        .shell("ln -s real t/soft && ln t/real t/hard && cat t/soft t/hard && readlink t/soft", "real\nreal\nreal\n")
        .await;
    let soft = place.volume.path().join("t/soft");
    assert_eq!(std::fs::read_link(&soft).expect("a link").to_str(), Some("real"));
    place.fails(&["ln", "-s", "/etc/hostname", "out"], "ln: /data/out:").await;

    let (code, packed) = place.feed(&["tar", "cf", "-", "t"], b"").await;
    assert_eq!(code, 0);
    let (code, listed) = place.feed(&["tar", "tvf", "-"], &packed).await;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    assert!(code == 0 && listed.contains(" t/soft -> real\n") && listed.starts_with("drwxr-xr-x 0/0"), "{listed}");
    let (code, _) = place.feed(&["sh", "-c", "mkdir back && tar xf - -C back"], &packed).await;
    assert_eq!(code, 0);
    assert_eq!(std::fs::read_link(place.volume.path().join("back/t/soft")).expect("a link").to_str(), Some("real"));
    place.shell("tar chf - t | tar tvf - | grep -c soft.*'->' ; true", "0\n").await;

    // What an archive links to is linked last: nothing is written through a link that it brings.
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, name, to) in [(tar::EntryType::Symlink, "a/dir", "../b"), (tar::EntryType::Link, "a/twin", "a/one")] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, to).expect("an entry");
    }
    for name in ["a/one", "b/two"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &b"abc"[..]).expect("an entry");
    }
    let (code, _) = place.feed(&["tar", "xf", "-"], &builder.into_inner().expect("an archive")).await;
    assert_eq!(code, 0);
    place
        .shell(
            "cat a/twin a/dir/two; stat -c '%F %s' a/dir/two; [ -L a/dir ] && echo link",
            "abcabcregular file 3\nlink\n",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_cut_counted_and_changed() {
    let place = place().await;
    std::fs::write(place.volume.path().join("rows"), "b,2,x\na,10,y\nb,2,x\n").expect("a file");
    place.shell("cut -d, -f1,3 rows", "b,x\na,y\nb,x\n").await;
    place.shell("sort rows | uniq -c", "      1 a,10,y\n      2 b,2,x\n").await;
    place.shell("sort -t, -k2n -u rows", "b,2,x\na,10,y\n").await;
    place.shell("seq 2 3 8; seq 3 -1 2", "2\n5\n8\n3\n2\n").await;
    place.shell("echo Hello | tr a-z A-Z; echo a1b2 | tr -d 0-9; echo aab | tr -s a", "HELLO\nab\nab\n").await;
    place.shell("sed -n 2p rows; sed '1d;s/,/;/g' rows", "a,10,y\na;10;y\nb;2;x\n").await;
    place
        .shell(
            "sed -E 's/^([ab]),(.*)$/\\2 of \\1/;2q' rows; sed -n '/^a/,$p' rows",
            "2,x of b\n10,y of a\na,10,y\nb,2,x\n",
        )
        .await;
    place.shell("sed -i 's/x/z/' rows; cat rows | head -n 1", "b,2,z\n").await;
    place
        .shell("grep -E '^(a|c),[0-9]+' rows; grep -c 'b,\\(2\\)' rows; grep -o '[0-9]*,y' rows", "a,10,y\n2\n10,y\n")
        .await;
    place
        .shell("seq 3 | xargs echo n; seq 2 | xargs -n 1 echo; echo a | xargs -I X echo X-X", "n 1 2 3\n1\n2\na-a\n")
        .await;
    place.shell("mkdir -p d/e; touch d/e/f.txt d/g; find d -name '*.txt'; find d -type d; find d -type f -exec echo got {} \\;", "d/e/f.txt\nd\nd/e\ngot d/e/f.txt\ngot d/g\n").await;
    place.shell("find d -name g -delete; ls d; grep -r nothing d || echo none", "e\nnone\n").await;
    place.fails(&["sed", "b"], "unknown command").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_encodings_and_the_program_are_shown() {
    let place = place().await;
    place.shell("printf abc | md5sum", "900150983cd24fb0d6963f7d28e17f72  -\n").await;
    place
        .shell("printf abc | sha256sum", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n")
        .await;
    place
        .shell(
            "printf abc > f; sha256sum f > s; sha256sum -c s; printf x >> f; sha256sum -c s || echo changed",
            "f: OK\nf: FAILED\nchanged\n",
        )
        .await;
    place.shell("printf 'a longer text' | base64; printf aGk= | base64 -d", "YSBsb25nZXIgdGV4dA==\nhi").await;
    let shown = place.run(&["ps", "aux"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.starts_with("PID   USER     COMMAND\n    1 root     ") && shown.ends_with(" tick 1000\n"), "{shown}");
    place.check(&["which", "ls"], "/bin/ls\n").await;
    place.fails(&["chmod", "+x", "/etc/hostname"], "chmod: /etc/hostname: Operation not supported").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_while_it_grows() {
    let place = place().await;
    let log = place.volume.path().join("log");
    std::fs::write(&log, "one\ntwo\n").expect("a file");
    let (streams, mut ends) = Wanted { stdout: true, ..Wanted::default() }.open();
    let argv = ["tail", "-n", "1", "-f", "log"].map(str::to_owned).to_vec();
    let mut stdout = ends.stdout.take().expect("stdout");
    let grow = async {
        let mut said = Vec::new();
        while !said.ends_with(b"three\n") {
            said.extend_from_slice(&stdout.recv().await.expect("it goes on"));
            if said == b"two\n" {
                use std::io::Write;
                let mut file = std::fs::File::options().append(true).open(&log).expect("the file");
                file.write_all(b"three\n").expect("written");
            }
        }
        said
    };
    let followed = place.bench.runtime.exec(&place.id, argv, streams);
    let said = tokio::select! {
        said = tokio::time::timeout(PATIENCE, grow) => said.expect("in time"),
        ended = followed => panic!("it ended: {ended:?}"),
    };
    assert_eq!(said, b"two\nthree\n");
}
