//! Admission webhooks against a real TLS server: what is asked, in which order, and what becomes of every kind of answer.

mod support;

use std::sync::atomic::Ordering;

use http::Method;
use serde_json::{Value, json};
use support::webhook::{Reply, Webhook, allow, configuration, deny, patch, put};
use support::{Api, CONFIG_MAPS, IN_DEFAULT, PODS, config_map, deployment, pod};

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

async fn install(api: &Api, collection: &str, name: &str, hooks: &[Value]) {
    api.post(collection, &configuration(name, hooks)).await.expect(201);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_webhooks_words_until_the_configuration_is_gone() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| deny("not today")).await);
    api.post(CONFIG_MAPS, &config_map("before", &json!({}))).await.expect(201);
    install(&api, VALIDATING, "c", &[hook.entry(json!({}))]).await;
    let denied = "admission webhook \"hook.example.com\" denied the request: not today";
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(403, "Forbidden", denied);
    api.get(&format!("{CONFIG_MAPS}/a")).await.expect(404);
    // Nobody is locked out by a webhook: configurations are exempt.
    api.delete(&format!("{VALIDATING}/c")).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    assert_eq!(hook.seen.lock().len(), 1);
}

#[tokio::test]
async fn a_refusal_keeps_a_reason_that_nobody_else_has() {
    let status = json!({
        "message": "come back", "code": 429, "reason": "Siesta", "details": {"retryAfterSeconds": 7, "causes": [{"reason": "Noon"}]},
    });
    let answer = json!({"allowed": false, "status": status});
    let (api, hook) = (Api::admitting().await, Webhook::new(move |_| Reply::Respond(answer.clone())).await);
    install(&api, VALIDATING, "c", &[hook.entry(json!({}))]).await;
    let answer = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    assert_eq!(answer.headers["retry-after"], "7");
    let denied = "admission webhook \"hook.example.com\" denied the request: come back";
    let told = answer.refused(429, "Siesta", denied);
    assert_eq!(told["details"], status["details"]);
}

#[tokio::test]
async fn the_review_says_everything_about_the_request() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| allow()).await);
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]);
    install(&api, VALIDATING, "c", &[hook.entry(json!({"rules": rules}))]).await;
    let path = format!("{CONFIG_MAPS}?fieldManager=me&fieldValidation=Strict");
    api.post(&path, &config_map("a", &json!({"k": "1"}))).await.expect(201);
    api.patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": {"k": "2"}})).await.expect(200);
    api.delete_with(
        &format!("{CONFIG_MAPS}/a?dryRun=All"),
        &json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}),
    )
    .await
    .expect(200);
    let seen = hook.seen.lock().clone();
    let created = &seen[0]["request"];
    assert_eq!(seen[0]["kind"], "AdmissionReview");
    assert_eq!(seen[0]["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(seen[0]["path"], "/review?timeout=30s");
    assert_eq!(created["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(created["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&created["name"], &created["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!((&created["operation"], &created["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!(created["userInfo"], json!({"username": "tester", "groups": ["system:authenticated"]}));
    assert_eq!(created["object"]["data"], json!({"k": "1"}));
    assert_eq!(created["oldObject"], Value::Null);
    assert_eq!(created["object"]["metadata"]["managedFields"][0]["manager"], "me");
    assert_eq!(
        created["options"],
        json!({
            "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "fieldValidation": "Strict",
        })
    );
    let updated = &seen[1]["request"];
    assert_eq!((&updated["operation"], &updated["options"]["kind"]), (&json!("UPDATE"), &json!("UpdateOptions")));
    assert_eq!((&updated["object"]["data"]["k"], &updated["oldObject"]["data"]["k"]), (&json!("2"), &json!("1")));
    let deleted = &seen[2]["request"];
    assert_eq!((&deleted["operation"], &deleted["dryRun"]), (&json!("DELETE"), &json!(true)));
    assert_eq!((&deleted["object"], &deleted["oldObject"]["data"]["k"]), (&Value::Null, &json!("2")));
    assert_eq!(deleted["options"]["kind"], "DeleteOptions");
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1, "connections are kept");
}

#[tokio::test]
async fn mutating_webhooks_run_by_name_and_each_sees_what_came_before() {
    let api = Api::admitting().await;
    let first = Webhook::new(|request| {
        put("first", &request["object"]["data"].as_object().map_or(0, |data| data.len()).to_string())
    })
    .await;
    let second =
        Webhook::new(|request| put("second", request["object"]["data"]["first"].as_str().unwrap_or("nothing"))).await;
    install(&api, MUTATING, "b", &[second.entry(json!({}))]).await;
    install(&api, MUTATING, "a", &[first.entry(json!({}))]).await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["data"], json!({"k": "v", "first": "1", "second": "1"}));
}

#[tokio::test]
async fn a_webhook_that_asks_for_it_is_called_again_after_a_change() {
    let api = Api::admitting().await;
    let count = |request: &Value| {
        let held = request["object"]["data"]["count"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        put("count", &(held + 1).to_string())
    };
    let (counting, changing) = (Webhook::new(count).await, Webhook::new(|_| put("more", "yes")).await);
    install(&api, MUTATING, "a", &[counting.entry(json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    install(&api, MUTATING, "b", &[changing.entry(json!({}))]).await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["data"], json!({"k": "v", "more": "yes", "count": "2"}));
    assert_eq!((counting.seen.lock().len(), changing.seen.lock().len()), (2, 1));
}

#[tokio::test]
async fn warnings_reach_the_client() {
    let (api, hook) = (
        Api::admitting().await,
        Webhook::new(|_| Reply::Respond(json!({"allowed": true, "warnings": ["mind the gap"]}))).await,
    );
    install(&api, VALIDATING, "c", &[hook.entry(json!({}))]).await;
    let answer = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    assert_eq!(answer.warnings(), ["299 - \"mind the gap\""]);
    answer.expect(201);
}

/// What a broken webhook does to a write, under either failure policy.
async fn check_failure(handler: impl Fn(&Value) -> Reply + Send + Sync + 'static, more: Value, message: &str) {
    let (api, hook) = (Api::admitting().await, Webhook::new(handler).await);
    let mut entry = hook.entry(json!({}));
    for (field, value) in more.as_object().expect("fields") {
        entry[field] = value.clone();
    }
    for collection in [VALIDATING, MUTATING] {
        install(&api, collection, "c", &[entry.clone()]).await;
        let why = format!("Internal error occurred: failed calling webhook \"hook.example.com\": {message}");
        api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(500, "InternalError", &why);
        let path = format!("{collection}/c");
        api.patch(&path, "json", &json!([{"op": "add", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]))
            .await
            .expect(200);
        api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
        api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
        api.delete(&path).await.expect(200);
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_failures() {
    let garbage = |_: &Value| Reply::Body(b"garbage".to_vec());
    check_failure(garbage, json!({}), "failed to call webhook: couldn't get version/kind; json parse error: ").await;
    let absent =
        |_: &Value| Reply::Body(b"{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}".to_vec());
    check_failure(absent, json!({}), "received invalid webhook response: webhook response was absent").await;
    let stranger = |_: &Value| Reply::Respond(json!({"allowed": true, "uid": "other"}));
    check_failure(stranger, json!({}), "received invalid webhook response: expected response.uid=").await;
    let older = |request: &Value| {
        let response = json!({"uid": request["uid"], "allowed": true});
        let review = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": response});
        Reply::Body(review.to_string().into_bytes())
    };
    let why = "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview";
    check_failure(older, json!({}), why).await;
    let huge = |_: &Value| Reply::Body(vec![b' '; 9 << 20]);
    check_failure(huge, json!({}), "failed to call webhook: the answer is longer than 8388608 bytes").await;
}

#[tokio::test]
async fn servers_that_do_not_answer_are_failures() {
    let redirect = |_: &Value| Reply::Code(302, "location", "https://127.0.0.1/elsewhere");
    check_failure(
        redirect,
        json!({}),
        "failed to call webhook: the server responded with the status code 302 but did not return more information",
    )
    .await;
    let broken = |_: &Value| Reply::Code(500, "x", "y");
    check_failure(
        broken,
        json!({}),
        "failed to call webhook: an error on the server (\"oops\") has prevented the request from succeeding",
    )
    .await;
    check_failure(|_| Reply::Crash, json!({}), "failed to call webhook: Post \"https://127.0.0.1:").await;
    check_failure(
        |_| Reply::Silence,
        json!({"timeoutSeconds": 1}),
        "failed to call webhook: Post \"https://127.0.0.1:",
    )
    .await;
    let dead = json!({"clientConfig": {"url": "https://127.0.0.1:1/"}});
    check_failure(|_| allow(), dead, "failed to call webhook: Post \"https://127.0.0.1:1/?timeout=30s\": ").await;
}

#[tokio::test]
async fn a_slow_webhook_is_given_its_time_and_no_more() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| Reply::Silence).await);
    install(&api, VALIDATING, "c", &[hook.entry(json!({"timeoutSeconds": 1}))]).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(
        500,
        "InternalError",
        "?timeout=1s\": context deadline exceeded",
    );
}

#[tokio::test]
async fn only_the_right_authority_is_trusted() {
    let (other, url) = (Webhook::new(|_| allow()).await, |hook: &Webhook| format!("https://127.0.0.1:{}/", hook.port));
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| allow()).await);
    let mut client = json!({"url": url(&hook), "caBundle": other.ca});
    install(&api, VALIDATING, "c", &[hook.entry(json!({"clientConfig": client}))]).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(
        500,
        "InternalError",
        "x509: certificate signed by unknown authority",
    );
    api.delete(&format!("{VALIDATING}/c")).await.expect(200);
    client["url"] = json!(format!("https://localhost:{}/", hook.port));
    client["caBundle"] = json!(hook.ca);
    install(&api, VALIDATING, "c", &[hook.entry(json!({"clientConfig": client}))]).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(
        500,
        "InternalError",
        "x509: certificate is valid for ",
    );
}

#[tokio::test]
async fn a_service_is_called_at_its_cluster_address_under_its_own_name() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| deny("by service")).await);
    let client = json!({"service": {"name": "hook", "namespace": "default", "port": hook.port, "path": "/deep/path"}, "caBundle": hook.ca});
    install(&api, VALIDATING, "c", &[hook.entry(json!({"clientConfig": client}))]).await;
    let missing =
        format!("Post \"https://hook.default.svc:{}/deep/path?timeout=30s\": service \"hook\" not found", hook.port);
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(500, "InternalError", &missing);
    let service =
        json!({"metadata": {"name": "hook"}, "spec": {"clusterIP": "127.0.0.1", "ports": [{"port": hook.port}]}});
    api.post("/api/v1/namespaces/default/services", &service).await.expect(201);
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(
        403,
        "Forbidden",
        "denied the request: by service",
    );
    assert_eq!(hook.seen.lock()[0]["path"], "/deep/path?timeout=30s");
}

#[tokio::test]
async fn selectors_and_conditions_narrow_whom_a_webhook_sees() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| deny("seen")).await);
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "watched", "labels": {"watched": "yes"}}}))
        .await
        .expect(201);
    let narrow = json!({
        "namespaceSelector": {"matchLabels": {"watched": "yes"}},
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "matchConditions": [
            {"name": "named", "expression": "object.metadata.name.startsWith('a')"},
            {"name": "asked", "expression": "request.userInfo.username == 'tester' && authorizer.group('').resource('pods').check('get').allowed()"},
        ],
    });
    install(&api, VALIDATING, "c", &[hook.entry(narrow)]).await;
    let watched = "/api/v1/namespaces/watched/configmaps";
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.expect(201);
    api.post(watched, &config_map("b", &json!({}))).await.expect(201);
    let mut skipped = config_map("a2", &json!({}));
    skipped["metadata"]["labels"] = json!({"skip": "me"});
    api.post(watched, &skipped).await.expect(201);
    assert!(hook.seen.lock().is_empty());
    api.post(watched, &config_map("a", &json!({}))).await.refused(403, "Forbidden", "denied the request: seen");
}

#[tokio::test]
async fn a_condition_that_fails_counts_as_the_policy_says() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| deny("asked")).await);
    let broken = json!([{"name": "broken", "expression": "object.data.missing == 'x'"}]);
    install(&api, VALIDATING, "c", &[hook.entry(json!({"matchConditions": broken}))]).await;
    let why = "configmaps \"a\" is forbidden: expression 'object.data.missing == 'x'' resulted in error: no such key: missing";
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.refused(403, "Forbidden", why);
    let ignore = json!([{"op": "add", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    api.patch(&format!("{VALIDATING}/c"), "json", &ignore).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    assert!(hook.seen.lock().is_empty());
}

#[tokio::test]
async fn a_dry_run_is_told_and_stores_nothing() {
    let (api, hook) = (Api::admitting().await, Webhook::new(|_| put("k", "patched")).await);
    install(&api, MUTATING, "c", &[hook.entry(json!({"sideEffects": "NoneOnDryRun"}))]).await;
    let made = api.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a", &json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["data"]["k"], "patched");
    api.get(&format!("{CONFIG_MAPS}/a")).await.expect(404);
    assert_eq!(hook.seen.lock()[0]["request"]["dryRun"], true);
}

#[tokio::test]
async fn what_a_patch_makes_is_validated_like_any_object() {
    let (api, hook) = (
        Api::admitting().await,
        Webhook::new(|_| patch(&json!([{"op": "add", "path": "/metadata/labels", "value": {"bad key": "v"}}]))).await,
    );
    install(&api, MUTATING, "c", &[hook.entry(json!({}))]).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(
        422,
        "Invalid",
        "metadata.labels: Invalid value: \"bad key\"",
    );
    let off = Webhook::new(|_| patch(&json!([{"op": "remove", "path": "/nowhere"}]))).await;
    api.put(&format!("{MUTATING}/c"), &{
        let mut held = api.get(&format!("{MUTATING}/c")).await.expect(200);
        held["webhooks"] = json!([off.entry(json!({}))]);
        held
    })
    .await
    .expect(200);
    api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await.refused(500, "InternalError", "/nowhere");
}

#[tokio::test]
async fn a_scale_is_reviewed_as_a_scale() {
    let api = Api::admitting().await;
    let hook = Webhook::new(|request| patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": request["object"]["spec"]["replicas"].as_i64().unwrap_or(0) + 1}]))).await;
    let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments/scale"]}]);
    install(&api, MUTATING, "c", &[hook.entry(json!({"rules": rules}))]).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    api.post(deployments, &deployment("web")).await.expect(201);
    let path = format!("{deployments}/web/scale");
    let scaled = api
        .request(
            Method::PATCH,
            &path,
            &[("content-type", "application/merge-patch+json")],
            json!({"spec": {"replicas": 4}}).to_string(),
        )
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    let request = hook.seen.lock()[0]["request"].clone();
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["subResource"], &request["oldObject"]["spec"]["replicas"]), (&json!("scale"), &json!(1)));
}

#[tokio::test]
async fn streams_are_asked_about_before_they_begin() {
    let api = Api::admitting().await;
    let hook = Webhook::new(|request| {
        deny(&format!("attaching to pod '{}' is not allowed", request["name"].as_str().unwrap_or("")))
    })
    .await;
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["pods/attach", "pods/exec", "services/proxy"]}]);
    install(&api, VALIDATING, "c", &[hook.entry(json!({"rules": rules}))]).await;
    api.post(PODS, &pod("web")).await.expect(201);
    let denied = "admission webhook \"hook.example.com\" denied the request: attaching to pod 'web' is not allowed";
    api.post(&format!("{PODS}/web/attach?stdin=true&container=main"), &json!({})).await.refused(
        403,
        "Forbidden",
        denied,
    );
    api.get(&format!("{PODS}/web/exec?command=sh&command=-c&stdout=1")).await.expect(403);
    api.get(&format!("{IN_DEFAULT}/services/none/proxy/a/b/?x=y")).await.expect(403);
    let seen = hook.seen.lock().clone();
    let attach = &seen[0]["request"];
    let kind = |name: &str| json!({"group": "", "version": "v1", "kind": name});
    assert_eq!((&attach["operation"], &attach["subResource"]), (&json!("CONNECT"), &json!("attach")));
    assert_eq!((&attach["kind"], &attach["requestKind"]), (&kind("PodAttachOptions"), &kind("PodAttachOptions")));
    assert_eq!(attach["resource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!((&attach["oldObject"], &attach["options"]), (&Value::Null, &Value::Null));
    let options = json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "main"});
    assert_eq!(attach["object"], options);
    assert_eq!(seen[1]["request"]["object"]["command"], json!(["sh", "-c"]));
    assert_eq!(
        seen[2]["request"]["object"],
        json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/a/b/"})
    );
}

#[tokio::test]
async fn webhooks_see_questions_and_policies_do_not() {
    const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let api = Api::admitting().await;
    let verb = json!([{"op": "replace", "path": "/spec/resourceAttributes/verb", "value": "list"}]);
    let hook = Webhook::new(move |_| patch(&verb)).await;
    let rules = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]);
    install(
        &api,
        MUTATING,
        "c",
        &[hook.entry(json!({"rules": rules, "matchConditions": [
            {"name": "reviews", "expression": "request.resource.group == 'authorization.k8s.io'"},
        ]}))],
    )
    .await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let spec = json!({"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": "request.resource.group != 'authorization.k8s.io'"}]});
    api.post(&format!("{group}/validatingadmissionpolicies"), &json!({"metadata": {"name": "p"}, "spec": spec}))
        .await
        .expect(201);
    let binding = json!({"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    api.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let answer = api.post(REVIEWS, &review).await.expect(201);
    assert_eq!(
        (&answer["spec"]["resourceAttributes"]["verb"], &answer["status"]["allowed"]),
        (&json!("list"), &json!(true))
    );
    assert_eq!(hook.seen.lock()[0]["request"]["kind"]["kind"], "SelfSubjectAccessReview");
}
