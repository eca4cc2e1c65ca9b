//! Controllers that a user meets by kubectl: replication controllers and cron jobs.

use wharf_test_support::Cluster;

use crate::kubectl::say;

/// Two pods of a server, as it was done before there were Deployments.
const CONTROLLER: &str = "{apiVersion: v1, kind: ReplicationController, metadata: {name: web}, spec: {replicas: 2, template: \
    {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: hello-http, \
    image: 'hello-http:v1', ports: [{containerPort: 80}]}]}}}}";

#[tokio::test]
async fn a_replication_controller_is_scaled_exposed_limited_and_removed() {
    let cluster = Cluster::with_images(&["hello-http"]).await;
    let made = cluster.kubectl_with(&["create", "-f", "-"], CONTROLLER).await.success();
    assert_eq!(made, "replicationcontroller/web created\n");
    let ready = |count: u32| format!("wait --for=jsonpath={{.status.readyReplicas}}={count} rc/web --timeout=90s");
    let [one, two, three] = [ready(1), ready(2), ready(3)];
    say(
        &cluster,
        &[
            (two.as_str(), "condition met"),
            ("get rc web", "web    2         2         2"),
            ("describe rc web", "Pods Status:  2 Running / 0 Waiting / 0 Succeeded / 0 Failed"),
            ("describe rc web", "SuccessfulCreate"),
            ("expose rc web --port=80", "service/web exposed"),
            ("get service web -o jsonpath={.spec.selector}", "{\"app\":\"web\"}"),
            ("scale rc web --replicas=3 --current-replicas=2", "replicationcontroller/web scaled"),
            (three.as_str(), "condition met"),
            ("create quota few --hard=pods=3", "resourcequota/few created"),
            ("wait --for=jsonpath={.status.used.pods}=3 quota/few --timeout=60s", "condition met"),
            ("scale rc/web --replicas=5", "replicationcontroller/web scaled"),
            ("wait --for=condition=ReplicaFailure rc/web --timeout=60s", "condition met"),
            ("describe rc web", "exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3"),
            ("scale rc/web --replicas=1", "replicationcontroller/web scaled"),
            (one.as_str(), "condition met"),
            ("wait --for=jsonpath={.status.replicas}=1 rc/web --timeout=60s", "condition met"),
            ("autoscale rc web --min=1 --max=3 --cpu-percent=80", "horizontalpodautoscaler.autoscaling/web autoscaled"),
            ("set image rc/web hello-http=hello-http:v2", "replicationcontroller/web image updated"),
            ("delete rc web --wait", "replicationcontroller \"web\" deleted"),
            ("wait --for=delete pod -l app=web --timeout=60s", ""),
            ("get pods -l app=web", ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_cron_job_runs_what_it_says_and_by_hand() {
    let cluster = Cluster::with_images(&["job-primes"]).await;
    say(
        &cluster,
        &[
            ("create cronjob tick --image=job-primes:v1 --schedule=@every_1s", "cronjob.batch/tick created"),
            ("wait --for=jsonpath={.status.lastScheduleTime} cronjob/tick --timeout=60s", "condition met"),
            ("wait --for=jsonpath={.status.lastSuccessfulTime} cronjob/tick --timeout=90s", "condition met"),
            ("get cronjob tick", "@every 1s"),
            ("describe cronjob tick", "SuccessfulCreate"),
            ("events --for cronjob/tick", "Saw completed job: tick-"),
            ("patch cronjob tick -p {\"spec\":{\"suspend\":true}}", "cronjob.batch/tick patched"),
            ("create job now --from=cronjob/tick", "job.batch/now created"),
            ("wait --for=condition=complete job/now --timeout=90s", "condition met"),
            ("get job now -o jsonpath={.metadata.ownerReferences[0].kind}", "CronJob"),
            ("get job now -o jsonpath={.metadata.annotations}", "\"cronjob.kubernetes.io/instantiate\":\"manual\""),
            ("delete cronjob tick --cascade=foreground", "cronjob.batch \"tick\" deleted"),
            ("wait --for=delete job/now --timeout=60s", ""),
        ],
    )
    .await;
}
