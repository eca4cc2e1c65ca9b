//! `kubectl exec` and `kubectl cp` in containers that have no programs but their own.

use wharf_test_support::Cluster;

use crate::example;

/// A pod with a volume at `/data`, and one that serves HTTP.
async fn pods() -> Cluster {
    let cluster = Cluster::with_images(&["show", "hello-http"]).await;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: show}, spec: {volumes: [{name: v, emptyDir: {}}], containers: \
               [{name: c, image: 'show:v1', args: [tick, '1'], workingDir: /data, env: [{name: COLOR, value: blue}], \
               volumeMounts: [{name: v, mountPath: /data}]}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], pod).await.success();
    cluster.kubectl(&["apply", "-f", &example("hello-http/app.yaml")]).await.success();
    cluster.kubectl(&["wait", "--for=condition=ready", "pod/show", "--timeout=60s"]).await.success();
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).await.success();
    cluster
}

#[tokio::test]
async fn kubectl_finds_programs_in_a_container() {
    let cluster = pods().await;
    let exec = async |pod: &str, words: &[&str]| {
        let arguments = [&["exec", pod, "--"], words].concat();
        cluster.kubectl(&arguments).await
    };
    assert!(exec("show", &["ls", "/"]).await.success().lines().any(|line| line == "data"));
    assert_eq!(exec("show", &["cat", "/etc/hostname"]).await.success(), "show\n");
    let environment = exec("show", &["env"]).await.success();
    assert!(environment.lines().any(|line| line == "COLOR=blue"), "{environment}");
    let script = "pwd; echo $COLOR > note && cat note | wc -c; cat /data/no || echo missing; false";
    let ended = exec("show", &["sh", "-c", script]).await;
    assert_eq!((ended.stdout.as_str(), ended.ok), ("/data\n5\nmissing\n", false));
    assert!(ended.stderr.contains("No such file or directory") && ended.stderr.contains("exit code 1"), "{ended:?}");
    let names = exec("show", &["nslookup", "hello"]).await.success();
    assert!(names.contains("Name:\thello"), "{names}");
    let fetched = exec("show", &["wget", "-q", "-O", "-", "http://hello/"]).await.success();
    assert!(!fetched.is_empty());
    // An HTTP component has nothing that could be run, but tools run in its place.
    assert!(exec("deploy/hello", &["ls", "/"]).await.success().contains("etc"));
    let nothing = exec("deploy/hello", &["nonsense"]).await.failure();
    assert!(nothing.contains("executable file not found"), "{nothing}");
}

#[tokio::test]
async fn kubectl_copies_files_in_and_out() {
    let cluster = pods().await;
    let local = tempfile::tempdir().expect("a directory");
    let path = |name: &str| local.path().join(name).display().to_string();
    let big: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir_all(local.path().join("tree/deep")).expect("directories");
    std::fs::write(local.path().join("tree/big"), &big).expect("a file");
    std::fs::write(local.path().join("tree/deep/small"), "small\n").expect("a file");
    // kubectl waits seconds for a first look at the destination, and an unoptimised build compiles the toolbox for longer.
    cluster.kubectl(&["exec", "show", "--", "ls", "/data"]).await.success();
    cluster.kubectl(&["cp", &path("tree/deep/small"), "show:/data/renamed"]).await.success();
    assert_eq!(cluster.kubectl(&["exec", "show", "--", "cat", "/data/renamed"]).await.success(), "small\n");
    cluster.kubectl(&["cp", &path("tree"), "show:/data", "-c", "c"]).await.success();
    let listed = cluster.kubectl(&["exec", "show", "--", "ls", "-R", "/data/tree"]).await.success();
    assert!(listed.contains("big") && listed.contains("/data/tree/deep:\nsmall"), "{listed}");

    cluster.kubectl(&["cp", "show:/data/tree", &path("back")]).await.success();
    assert!(std::fs::read(local.path().join("back/big")).expect("big") == big);
    assert_eq!(std::fs::read_to_string(local.path().join("back/deep/small")).expect("small"), "small\n");
    cluster.kubectl(&["cp", "show:/data/renamed", &path("one"), "--retries=3"]).await.success();
    assert_eq!(std::fs::read_to_string(local.path().join("one")).expect("one"), "small\n");
    // kubectl stops at the archive's end, before or after it has shown what tar complained of; so tar itself is asked.
    let complaint = cluster.kubectl(&["exec", "show", "--", "tar", "cf", "-", "/data/absent"]).await.failure();
    assert!(complaint.contains("/data/absent: No such file or directory"), "{complaint}");
    cluster.kubectl(&["cp", "show:/data/absent", &path("absent")]).await;
    assert!(!local.path().join("absent").exists());
}
