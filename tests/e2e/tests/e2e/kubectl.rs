//! The commands that people type, one after another on one cluster, and what each must say.

use std::os::unix::fs::PermissionsExt;

use wharf_test_support::Cluster;

use crate::example;

/// Runs each command and looks for its words; one that begins with `!` must fail with them. `_` in a word is a space.
pub async fn say(cluster: &Cluster, conversation: &[(&str, &str)]) {
    for (command, expected) in conversation {
        let fails = command.starts_with('!');
        let words: Vec<String> =
            command.trim_start_matches('!').split_whitespace().map(|word| word.replace('_', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = cluster.kubectl(&words).await;
        assert_eq!(ran.ok, !fails, "kubectl {command}: {}{}", ran.stdout, ran.stderr);
        let said = if fails { ran.stderr } else { ran.stdout };
        assert!(said.contains(expected), "kubectl {command}\nexpected {expected:?} in:\n{said}");
    }
}

#[tokio::test]
async fn workloads_are_made_changed_and_watched() {
    let cluster = Cluster::with_images(&["hello-http", "job-primes"]).await;
    say(
        &cluster,
        &[
            ("create deployment web --image=hello-http:v1 --replicas=2 --port=80", "deployment.apps/web created"),
            ("rollout status deploy/web --timeout=90s", "successfully rolled out"),
            ("expose deployment web --port=80", "service/web exposed"),
            ("get endpointslices -l kubernetes.io/service-name=web -o name", "endpointslice"),
            ("set env deploy/web COLOUR=blue", "deployment.apps/web env updated"),
            ("rollout status deploy/web --timeout=90s", "successfully rolled out"),
            ("rollout history deploy/web", "REVISION"),
            ("rollout undo deploy/web", "deployment.apps/web rolled back"),
            ("rollout restart deploy/web", "deployment.apps/web restarted"),
            ("rollout pause deploy/web", "deployment.apps/web paused"),
            ("rollout resume deploy/web", "deployment.apps/web resumed"),
            ("rollout status deploy/web --timeout=90s", "successfully rolled out"),
            ("set image deploy/web hello-http=hello-http:v1", ""),
            ("set resources deploy/web --requests=cpu=1m", "resource requirements updated"),
            ("scale deploy/web --replicas=1 --current-replicas=2", "deployment.apps/web scaled"),
            ("wait --for=condition=Available deploy/web --timeout=90s", "condition met"),
            ("autoscale deploy/web --min=1 --max=3 --cpu-percent=80", "horizontalpodautoscaler.autoscaling/web autoscaled"),
            ("get hpa web -o jsonpath={.spec.maxReplicas}", "3"),
            ("patch deploy web --type=json -p [{\"op\":\"add\",\"path\":\"/metadata/labels/by\",\"value\":\"json\"}]", "patched"),
            ("patch deploy web --type=merge --patch={\"metadata\":{\"labels\":{\"by\":\"merge\"}}}", "patched"),
            ("get deploy -l by=merge -o name", "deployment.apps/web"),
            ("label deploy/web tier=front", "labeled"),
            ("label deploy/web tier-", "unlabeled"),
            ("annotate deploy/web note=kept", "annotated"),
            ("get deploy web -o yaml", "note: kept"),
            ("get deploy,rs,pods -l app=web", "deployment.apps/web"),
            ("get all", "service/web"),
            ("describe deploy web", "RollingUpdateStrategy"),
            ("describe service web", "Endpoints:"),
            ("run one --image=job-primes:v1 --restart=Never", "pod/one created"),
            ("wait --for=jsonpath={.status.phase}=Succeeded pod/one --timeout=90s", "condition met"),
            ("logs one", ""),
            ("events --for pod/one", "Scheduled"),
            ("get events --field-selector involvedObject.name=one", "Started"),
            ("create job again --image=job-primes:v1", "job.batch/again created"),
            ("wait --for=condition=complete job/again --timeout=90s", "condition met"),
            ("create cronjob tick --image=job-primes:v1 --schedule=0_0_*_*_*", "cronjob.batch/tick created"),
            ("get cronjob tick", "0 0 * * *"),
            ("create job now --from=cronjob/tick", "job.batch/now created"),
            ("delete pod one --wait", "pod \"one\" deleted"),
            ("delete deploy/web service/web job/again", "deleted"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_stateful_set_is_rolled_out_scaled_and_rolled_back() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let set = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db}, spec: {serviceName: db, replicas: 2, \
        selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, \
        spec: {containers: [{name: main, image: 'hello-http:v1'}]}}}}";
    cluster.kubectl_with(&["apply", "-f", "-"], set).await.success();
    say(
        &cluster,
        &[
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 2 new pods"),
            ("get pods -l app=db -o name", "pod/db-1"),
            ("get controllerrevisions", "statefulset.apps/db"),
            ("scale sts/db --replicas=3 --current-replicas=2", "statefulset.apps/db scaled"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 3 new pods"),
            ("get sts db", "3/3"),
            ("set env sts/db COLOUR=blue", "statefulset.apps/db env updated"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 3 new pods"),
            ("get pod db-2 -o jsonpath={.spec.containers[0].env[0].value}", "blue"),
            ("rollout history sts/db", "REVISION"),
            ("rollout history sts/db --revision=2", "COLOUR"),
            ("rollout undo sts/db", "statefulset.apps/db rolled back"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 3 new pods"),
            ("rollout history sts/db", "3 "),
            ("rollout undo sts/db --to-revision=2", "rolled back"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 3 new pods"),
            ("rollout restart sts/db", "statefulset.apps/db restarted"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete: 3 new pods"),
            ("describe sts db", "create Pod db-0 in StatefulSet db successful"),
            ("autoscale sts/db --min=1 --max=3 --cpu-percent=80", "horizontalpodautoscaler.autoscaling/db autoscaled"),
            ("delete pod db-0 --wait", "deleted"),
            ("rollout status sts/db --timeout=90s", "partitioned roll out complete"),
            ("delete hpa/db sts/db", "deleted"),
            ("wait --for=delete pod -l app=db --timeout=90s", ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_daemon_set_is_rolled_out_drained_around_and_rolled_back() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let set = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {selector: {matchLabels: {app: agent}}, \
        template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: main, image: 'hello-http:v1'}]}}}}";
    cluster.kubectl_with(&["apply", "-f", "-"], set).await.success();
    say(
        &cluster,
        &[
            ("rollout status ds/agent --timeout=90s", "daemon set \"agent\" successfully rolled out"),
            ("get ds agent -o jsonpath={.status.numberReady}", "1"),
            ("set env ds/agent COLOUR=blue", "daemonset.apps/agent env updated"),
            ("rollout status ds/agent --timeout=90s", "successfully rolled out"),
            ("get pods -l app=agent -o jsonpath={.items[0].spec.containers[0].env[0].value}", "blue"),
            ("rollout history ds/agent", "REVISION"),
            ("rollout history ds/agent --revision=2", "COLOUR"),
            ("rollout undo ds/agent", "daemonset.apps/agent rolled back"),
            ("rollout status ds/agent --timeout=90s", "successfully rolled out"),
            ("rollout restart ds/agent", "daemonset.apps/agent restarted"),
            ("rollout status ds/agent --timeout=90s", "successfully rolled out"),
            ("describe ds agent", "Created pod: agent-"),
            ("!drain --selector kubernetes.io/hostname --timeout=30s", "DaemonSet-managed"),
            ("drain --selector kubernetes.io/hostname --ignore-daemonsets --timeout=60s", "drained"),
            ("get ds agent -o jsonpath={.status.numberReady}", "1"),
            ("delete pods -l app=agent --wait", "deleted"),
            ("rollout status ds/agent --timeout=90s", "successfully rolled out"),
            ("uncordon --selector kubernetes.io/hostname", "uncordoned"),
            ("delete ds/agent", "deleted"),
            ("wait --for=delete pod -l app=agent --timeout=90s", ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn objects_of_many_kinds_are_created_from_flags() {
    let cluster = Cluster::with_images(&[]).await;
    say(
        &cluster,
        &[
            ("create namespace team", "namespace/team created"),
            ("create configmap c --from-literal=a=1", "configmap/c created"),
            ("create secret generic s --from-literal=a=1", "secret/s created"),
            (
                "create secret docker-registry r --docker-server=r --docker-username=u --docker-password=p",
                "secret/r created",
            ),
            ("create serviceaccount robot", "serviceaccount/robot created"),
            ("create token robot --duration=10m", "ey"),
            ("create quota q --hard=pods=2", "resourcequota/q created"),
            ("create role reader --verb=get,list --resource=pods", "role.rbac.authorization.k8s.io/reader created"),
            (
                "create rolebinding reader --role=reader --serviceaccount=default:robot",
                "rolebinding.rbac.authorization.k8s.io/reader created",
            ),
            (
                "create clusterrole viewer --verb=get --resource=nodes",
                "clusterrole.rbac.authorization.k8s.io/viewer created",
            ),
            (
                "create clusterrolebinding viewer --clusterrole=viewer --user=jane",
                "clusterrolebinding.rbac.authorization.k8s.io/viewer created",
            ),
            ("auth can-i list pods --as=system:serviceaccount:default:robot", "yes"),
            ("!auth can-i delete pods --as=system:serviceaccount:default:robot", ""),
            ("auth can-i --list --as=jane", "nodes"),
            ("auth whoami", "system:admin"),
            ("create ingress web --rule=example.com/=web:80", "ingress.networking.k8s.io/web created"),
            ("create pdb p --selector=app=web --min-available=1", "poddisruptionbudget.policy/p created"),
            ("create priorityclass high --value=1000", "priorityclass.scheduling.k8s.io/high created"),
            ("create service clusterip db --tcp=5432", "service/db created"),
            ("create service externalname ext --external-name=example.com", "service/ext created"),
            ("create service nodeport np --tcp=80", "service/np created"),
            ("get ing,pdb,pc,cm,secret,sa,quota,role,rolebinding,svc", "ingress.networking.k8s.io/web"),
            ("get clusterroles cluster-admin admin edit view", "cluster-admin"),
            ("describe role reader", "pods"),
            ("describe quota q", "pods"),
            ("describe ingress web", "example.com"),
            ("taint node node-1 a=b:NoSchedule", "tainted"),
            ("taint node node-1 a=b:NoSchedule-", "untainted"),
            ("cordon node-1", "cordoned"),
            ("drain node-1 --ignore-daemonsets --force --delete-emptydir-data --timeout=60s", "drained"),
            ("uncordon node-1", "uncordoned"),
            ("api-versions", "storage.k8s.io/v1"),
            ("api-resources --namespaced=false", "customresourcedefinitions"),
            ("explain pod.spec --recursive", "topologySpreadConstraints"),
            ("explain pod.spec.restartPolicy", "ENUM:"),
            ("explain hpa.spec.metrics", "FIELD: metrics"),
            ("cluster-info", "Kubernetes control plane"),
            ("get --raw /readyz", "ok"),
            ("config current-context", ""),
            ("get apiservices v1.apps", "Local"),
            ("get componentstatuses", "Healthy"),
            ("delete ns team --timeout=60s", "deleted"),
            ("!get pod nothing", "(NotFound): pods \"nothing\" not found"),
            ("!create configmap c", "configmaps \"c\" already exists"),
            ("!get things", "the server doesn't have a resource type \"things\""),
        ],
    )
    .await;
}

#[tokio::test]
async fn every_form_of_output_and_selection_is_served() {
    let cluster = Cluster::with_images(&[]).await;
    for name in ["a", "b", "c"] {
        cluster.kubectl(&["create", "configmap", name, &format!("--from-literal=name={name}")]).await.success();
        cluster.kubectl(&["label", "configmap", name, &format!("name={name}"), "made=here"]).await.success();
    }
    say(&cluster, &[
        ("get cm -l made=here -o name", "configmap/a\nconfigmap/b\nconfigmap/c\n"),
        ("get cm -l name!=a,made -o name", "configmap/b\nconfigmap/c\n"),
        ("get cm --field-selector metadata.name=b -o name", "configmap/b\n"),
        ("get cm -l made=here --sort-by=.metadata.name --no-headers -o custom-columns=N:.metadata.name,D:.data.name", "a"),
        ("get cm a -o jsonpath={.data.name}", "a"),
        ("get cm a -o go-template={{.data.name}}", "a"),
        ("get cm a -o json", "\"name\": \"a\""),
        ("get cm a -o yaml --show-managed-fields", "managedFields:"),
        ("get cm -l made=here -L name --chunk-size=1", "NAME"),
        ("get cm -A --show-labels", "made=here"),
        ("get cm/a cm/b", "b"),
        ("delete cm -l made=here --dry-run=server", "(server dry run)"),
        ("delete cm -l name=a", "configmap \"a\" deleted"),
        ("delete cm --all", "deleted"),
    ]).await;
}

#[tokio::test]
async fn manifests_are_applied_diffed_edited_and_pruned() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let file = example("hello-http/app.yaml");
    let fresh = cluster.kubectl(&["diff", "-f", &file]).await;
    assert!(!fresh.ok && fresh.stdout.contains("+  name: hello"), "{}{}", fresh.stdout, fresh.stderr);
    cluster.kubectl(&["apply", "-f", &file]).await.success();
    cluster.kubectl(&["diff", "-f", &file]).await.success();
    say(
        &cluster,
        &[
            (&format!("apply -f {file}"), "unchanged"),
            (&format!("apply -f {file} --server-side --force-conflicts"), "serverside-applied"),
            (&format!("diff -f {file} --server-side --force-conflicts"), ""),
            ("apply view-last-applied deploy/hello", "hello"),
            (&format!("replace -f {file}"), "replaced"),
        ],
    )
    .await;

    let editor = cluster.home().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/replicas: .*/replicas: 1/' \"$1\"\n").expect("an editor");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("it can be run");
    let mut edit = cluster.kubectl_command(&["edit", "deploy", "hello"]);
    let edited = edit.env("KUBE_EDITOR", &editor).output().await.expect("kubectl edits");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    say(&cluster, &[("get deploy hello -o jsonpath={.spec.replicas}", "1")]).await;

    let both = "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: ConfigMap, metadata: {name: keep, labels: {set: x}}}, {apiVersion: v1, kind: ConfigMap, metadata: {name: drop, labels: {set: x}}}]}";
    let one = "{apiVersion: v1, kind: ConfigMap, metadata: {name: keep, labels: {set: x}}}";
    let apply = ["apply", "--prune", "-l", "set=x", "--prune-allowlist=core/v1/ConfigMap", "-f", "-"];
    cluster.kubectl_with(&apply, both).await.success();
    let pruned = cluster.kubectl_with(&apply, one).await.success();
    assert!(pruned.contains("configmap/drop pruned"), "{pruned}");
    say(&cluster, &[("get cm -l set=x -o name", "configmap/keep\n")]).await;
}

#[tokio::test]
async fn scripts_find_the_text_that_they_look_for() {
    let cluster = Cluster::server(&[]).await;
    let core = cluster.kubectl(&["get", "--raw", "/api/v1"]).await.success();
    let maps =
        r#"{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["create","#;
    assert!(core.starts_with(r#"{"kind":"APIResourceList","groupVersion":"v1","resources":["#), "{core}");
    assert!(
        core.contains(maps) && core.contains(r#""shortNames":["po"],"categories":["all"],"storageVersionHash""#),
        "{core}"
    );
    say(
        &cluster,
        &[
            ("get --raw /version", "{\n  \"major\": \"1\",\n  \"minor\": \"36\","),
            ("create deployment web --image=nowhere/web:v1", "created"),
            ("wait --for=jsonpath={.status.observedGeneration}=1 deploy/web --timeout=60s", "condition met"),
            ("wait --for=jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}=1 deploy/web --timeout=60s", "met"),
            ("get deploy web -o jsonpath={.metadata.generation}", "1"),
            ("!get cm kube-root-ca.crt --subresource=scale", "the server could not find the requested resource"),
            (
                "!patch deploy web -p {\"metadata\":{\"labels\":\"invalid\"}}",
                "Invalid value: \"map[metadata:map[labels:invalid]]\": cannot restore map from string",
            ),
            ("!patch deploy web -p {\"spec\":3}", "Invalid value: \"map[spec:3]\": cannot restore struct from: int64"),
        ],
    )
    .await;
}

/// kubectl checks a list by itself, against version 2 of the schemas.
#[tokio::test]
async fn a_list_of_resources_without_a_schema_is_applied() {
    let cluster = Cluster::server(&[]).await;
    let definition = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: foos.company.com}, \
        spec: {group: company.com, scope: Namespaced, names: {plural: foos, kind: Foo}, versions: [{name: v1, served: true, \
        storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}";
    cluster.kubectl_with(&["apply", "-f", "-"], definition).await.success();
    say(&cluster, &[("wait --for=condition=established crd/foos.company.com --timeout=60s", "met")]).await;
    let list = |field: &str| {
        format!(
            "{{apiVersion: v1, kind: List, items: [{{apiVersion: company.com/v1, kind: Foo, metadata: {{name: a}}, {field}}}]}}"
        )
    };
    let listed = cluster.kubectl_with(&["apply", "-f", "-"], &list("some: one, other: {deep: 1}")).await.success();
    assert_eq!(listed, "foo.company.com/a created\n");
    cluster.kubectl_with(&["apply", "-f", "-"], &list("some: two")).await.success();
    say(&cluster, &[("get foos a -o jsonpath={.some}{.other}", "two")]).await;
}
