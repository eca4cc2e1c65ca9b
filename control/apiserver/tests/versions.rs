//! Built-in kinds that are served in two versions, whichever one wrote the object.

mod support;

use serde_json::{Value, json};
use support::Api;

const EVENTS: &str = "/api/v1/namespaces/default/events";
const NEWER_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const SCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const OLDER_SCALERS: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";

/// The object of the next event of a watch, once it is the one that was made.
async fn added(watch: &mut support::Watch) -> Value {
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "ADDED");
    event["object"].clone()
}

#[tokio::test]
async fn an_event_is_read_and_watched_in_both_groups() {
    let api = Api::with_namespace().await;
    let mut watch = api.watch(&format!("{EVENTS}?watch=1&fieldSelector=involvedObject.name%3Dweb")).await;
    let mut newer_watch = api.watch(&format!("{NEWER_EVENTS}?watch=1&fieldSelector=regarding.name%3Dweb")).await;
    let about = json!({"kind": "Pod", "namespace": "default", "name": "web"});

    let written = json!({
        "metadata": {"name": "a"}, "involvedObject": about, "message": "so", "reason": "Because", "type": "Normal",
        "source": {"component": "kubelet"}, "count": 3,
    });
    let made = api.post(EVENTS, &written).await.expect(201);
    let newer = api.get(&format!("{NEWER_EVENTS}/a")).await.expect(200);
    assert_eq!((&newer["apiVersion"], &newer["kind"]), (&json!("events.k8s.io/v1"), &json!("Event")));
    assert_eq!((&newer["regarding"], &newer["note"]), (&about, &json!("so")));
    assert_eq!((&newer["deprecatedCount"], &newer["deprecatedSource"]), (&json!(3), &json!({"component": "kubelet"})));
    assert_eq!((newer.get("message"), newer.get("involvedObject")), (None, None));
    assert_eq!((added(&mut watch).await, added(&mut newer_watch).await), (made, newer));

    let written = json!({
        "metadata": {"name": "b"}, "regarding": about, "note": "so", "reason": "Because", "type": "Normal", "action": "Doing",
        "eventTime": "2024-05-01T12:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "c-1",
    });
    let newer = api.post(NEWER_EVENTS, &written).await.expect(201);
    assert_eq!((&newer["apiVersion"], &newer["regarding"]), (&json!("events.k8s.io/v1"), &about));
    let held = api.get(&format!("{EVENTS}/b")).await.expect(200);
    assert_eq!((&held["apiVersion"], &held["kind"]), (&json!("v1"), &json!("Event")));
    assert_eq!((&held["involvedObject"], &held["message"]), (&about, &json!("so")));
    assert_eq!(held["reportingComponent"], "example.com/c");
    assert_eq!((added(&mut watch).await, added(&mut newer_watch).await), (held, newer));

    let listed = api.get(&format!("{NEWER_EVENTS}?fieldSelector=regarding.name%3Dweb")).await.expect(200);
    assert_eq!((&listed["kind"], listed["items"].as_array().map(Vec::len)), (&json!("EventList"), Some(2)));
    let other = api.get(&format!("{NEWER_EVENTS}?fieldSelector=regarding.name%3Dother")).await.expect(200);
    assert_eq!(other["items"], json!([]));
}

#[tokio::test]
async fn an_autoscaler_of_v1_goes_through_v2_and_back() {
    let api = Api::with_namespace().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let written = json!({
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 50},
    });
    let older = api.post(OLDER_SCALERS, &written).await.expect(201);
    assert_eq!(older["apiVersion"], "autoscaling/v1");
    assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 50);

    let (one, older_one) = (format!("{SCALERS}/web"), format!("{OLDER_SCALERS}/web"));
    let mut newer = api.get(&one).await.expect(200);
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    assert_eq!((&newer["apiVersion"], &newer["spec"]["metrics"]), (&json!("autoscaling/v2"), &json!([cpu])));
    assert_eq!(api.get(&older_one).await.expect(200), older);
    assert_eq!(api.put(&older_one, &older).await.expect(200), older, "nothing changes");

    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "7"}}});
    newer["spec"]["metrics"] = json!([pods, cpu]);
    let newer = api.put(&one, &newer).await.expect(200);
    let mut older = api.get(&older_one).await.expect(200);
    assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 50);
    let metrics =
        older["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().expect("metrics");
    let flat = json!([{"type": "Pods", "pods": {"metricName": "q", "targetAverageValue": "7"}}]);
    assert_eq!(serde_json::from_str::<Value>(metrics).expect("JSON"), flat);

    older["spec"]["maxReplicas"] = json!(6);
    api.put(&older_one, &older).await.expect(200);
    let kept = api.get(&one).await.expect(200);
    assert_eq!((&kept["spec"]["maxReplicas"], &kept["spec"]["metrics"]), (&json!(6), &newer["spec"]["metrics"]));
    assert_eq!(kept["metadata"].get("annotations"), None);
}

/// As upstream's conformance does it (`test/e2e/instrumentation/events.go`).
#[tokio::test]
async fn an_event_of_the_newer_shape_is_patched_updated_and_selected() {
    let api = Api::with_namespace().await;
    let event = json!({
        "metadata": {"name": "event-test", "labels": {"testevent-constant": "true"}}, "regarding": {"namespace": "default"},
        "eventTime": "2017-09-19T13:49:16.000000Z", "note": "This is event-test", "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node",
    });
    api.post(NEWER_EVENTS, &event).await.expect(201);
    for (all, selector) in [
        (EVENTS, "fieldSelector=source%3Dtest-controller"),
        (NEWER_EVENTS, "fieldSelector=reportingController%3Dtest-controller"),
        ("/apis/events.k8s.io/v1/events", "labelSelector=testevent-constant%3Dtrue"),
    ] {
        let list = api.get(&format!("{all}?{selector}")).await.expect(200);
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{all} {selector}");
    }
    let one = format!("{NEWER_EVENTS}/event-test");
    let bare = |mut event: Value| {
        let meta = event["metadata"].as_object_mut().expect("metadata");
        meta.remove("resourceVersion");
        meta.remove("managedFields");
        event
    };
    let mut wanted = bare(api.get(&one).await.expect(200));
    wanted["series"] = json!({"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"});
    api.patch(&one, "strategic-merge", &json!({"series": wanted["series"]})).await.expect(200);
    let held = api.get(&one).await.expect(200);
    assert_eq!(bare(held.clone()), wanted);
    let mut next = held;
    next["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    wanted["series"] = next["series"].clone();
    api.put(&one, &next).await.expect(200);
    assert_eq!(bare(api.get(&one).await.expect(200)), wanted);
    api.delete(&format!("{NEWER_EVENTS}?labelSelector=testevent-constant%3Dtrue")).await.expect(200);
    api.get(&format!("{EVENTS}/event-test")).await.expect(404);
}
