//! What the audit log holds of requests that went through the whole stack.

mod support;

use std::sync::Arc;

use http::{Method, Request};
use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, IN_DEFAULT, config_map, empty};
use wharf_apiserver::audit::{Auditor, Limits, Log, Policy};
use wharf_auth::User;

struct Recorded {
    api: Api,
    folder: tempfile::TempDir,
}

impl Recorded {
    async fn under(policy: &str) -> Self {
        Self::of(Api::with_namespace().await, policy)
    }

    fn of(api: Api, policy: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::open(&folder.path().join("audit.log"), Limits::default()).expect("a log");
        let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, {policy}}}");
        let policy = Policy::read(&text).expect("a policy");
        api.server.audit_to(Arc::new(Auditor::new(policy, Some(log), None, false)));
        Self { api, folder }
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.log")).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }
}

#[tokio::test]
async fn metadata_tells_who_did_what_and_nothing_of_bodies() {
    let recorded = Recorded::under("rules: [{level: Metadata, resources: [{group: '', resources: [secrets]}]}]").await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    let secrets = format!("{IN_DEFAULT}/secrets");
    recorded.api.post(&secrets, &secret).await.expect(201);
    recorded.api.post(CONFIG_MAPS, &config_map("m", &json!({}))).await.expect(201);
    recorded.api.post(&secrets, &secret).await.refused(409, "AlreadyExists", "");
    let events = recorded.events();
    let stages: Vec<&str> = events.iter().map(|event| event["stage"].as_str().expect("a stage")).collect();
    assert_eq!(stages, ["RequestReceived", "ResponseComplete", "RequestReceived", "ResponseComplete"]);
    let done = &events[1];
    assert_eq!(done["verb"], "create");
    assert_eq!(done["user"]["username"], "tester");
    assert_eq!(done["objectRef"], json!({"resource": "secrets", "namespace": "default", "apiVersion": "v1"}));
    assert_eq!(done["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(done["auditID"], events[0]["auditID"]);
    assert_eq!(events[3]["responseStatus"]["reason"], "AlreadyExists");
    let text = Value::from(events).to_string();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
}

#[tokio::test]
async fn bodies_are_recorded_where_the_level_asks_for_them() {
    let rules = "omitStages: [RequestReceived], rules: [{level: Request, verbs: [patch]}, {level: RequestResponse, verbs: [create]}]";
    let recorded = Recorded::under(rules).await;
    let made = recorded.api.post(CONFIG_MAPS, &config_map("m", &json!({"a": "b"}))).await.expect(201);
    recorded.api.patch(&format!("{CONFIG_MAPS}/m"), "merge", &json!({"data": {"c": "d"}})).await.expect(200);
    recorded.api.get(&format!("{CONFIG_MAPS}/m")).await.expect(200);
    let events = recorded.events();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(events[0]["responseObject"], made);
    assert_eq!(events[0]["objectRef"]["name"], "m");
    assert_eq!(events[1]["requestObject"], json!({"data": {"c": "d"}}));
    assert_eq!(events[1].get("responseObject"), None);
}

#[tokio::test]
async fn streams_and_strangers_leave_a_trail() {
    let recorded = Recorded::under("omitStages: [RequestReceived], rules: [{level: Metadata}]").await;
    let watch = recorded.api.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=300")).await;
    assert_eq!(recorded.events()[0]["stage"], "ResponseStarted");
    drop(watch);
    let stranger = recorded.api.server.service_for(User::new("stranger", &[]));
    let request = Request::builder().method(Method::GET).uri(CONFIG_MAPS).body(empty()).expect("a request");
    let refused = tower::ServiceExt::oneshot(stranger, request).await.expect("an answer");
    assert_eq!(refused.status(), 403);
    let unknown = recorded.api.server.handle(Request::get(CONFIG_MAPS).body(empty()).expect("a request")).await;
    assert_eq!(unknown.status(), 401);
    let wrong = Request::get(CONFIG_MAPS).header("authorization", "Bearer abc").body(empty()).expect("a request");
    assert_eq!(recorded.api.server.handle(wrong).await.status(), 401);
    let events = recorded.events();
    let shown: Vec<String> = events
        .iter()
        .map(|event| {
            let decision = event["annotations"]["authorization.k8s.io/decision"].as_str().unwrap_or("-");
            format!("{} {} {decision}", event["stage"].as_str().unwrap_or_default(), event["responseStatus"]["code"])
        })
        .collect();
    let expected = [
        "ResponseStarted 200 allow",
        "ResponseComplete 200 allow",
        "ResponseComplete 403 forbid",
        "ResponseStarted 401 -",
        "ResponseStarted 401 -",
    ];
    assert_eq!(shown, expected);
    let said = |event: &Value| event["responseStatus"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(said(&events[3]), "Authentication failed, no credentials provided");
    assert_eq!(said(&events[4]), "Authentication failed, attempted: bearer");
}

#[tokio::test]
async fn who_acts_as_another_is_recorded_as_both() {
    let recorded = Recorded::under("omitStages: [RequestReceived], rules: [{level: Metadata}]").await;
    let request = Request::get(CONFIG_MAPS).header("impersonate-user", "bob").body(empty()).expect("a request");
    let root = recorded.api.server.service_for(User::new("root", &[]));
    assert_eq!(tower::ServiceExt::oneshot(root, request).await.expect("an answer").status(), 200);
    let event = &recorded.events()[0];
    assert_eq!(event["user"]["username"], "root");
    assert_eq!(event["impersonatedUser"], json!({"username": "bob", "groups": ["system:authenticated"]}));
    assert_eq!(event["authenticationMetadata"], json!({"impersonationConstraint": "impersonate:user-info"}));
}

#[tokio::test]
async fn what_admission_says_of_a_connection_reaches_the_client_and_the_log() {
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let api = Api::with(|options| options.admission = wharf_admission::Chain::built_in()).await;
    api.post("/api/v1/namespaces", &json!({"metadata": {"name": "default"}})).await.expect(201);
    let recorded = Recorded::of(api, "omitStages: [RequestReceived], rules: [{level: Metadata}]");
    let api = &recorded.api;
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["*/*"]}]);
    let spec = json!({
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "false", "message": "mind the gap"}],
        "auditAnnotations": [{"key": "asked", "valueExpression": "'for ' + request.name"}],
    });
    api.post(policies, &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    let binding =
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Warn", "Audit"]}});
    api.post(&policies.replace("policies", "policybindings"), &binding).await.expect(201);
    for path in ["pods/none/exec?command=sh", "pods/none/attach", "pods/none/portforward", "services/none/proxy/a"] {
        let answer = api.post(&format!("{IN_DEFAULT}/{path}"), &json!({})).await;
        assert_eq!(
            answer.warnings(),
            ["299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': mind the gap\""],
            "{path}"
        );
        answer.expect(404);
        let event = recorded.events().pop().expect("an event");
        assert_eq!(event["annotations"]["p/asked"], "for none", "{path}");
        let failures = event["annotations"]["validation.policy.admission.k8s.io/validation_failure"].as_str();
        assert!(failures.is_some_and(|text| text.contains("mind the gap")), "{event}");
    }
}

/// Says of everybody what a token's authenticator might.
struct Remarking;

#[async_trait::async_trait]
impl wharf_auth::Authenticator for Remarking {
    async fn authenticate(
        &self,
        _: &http::request::Parts,
        remarks: &mut wharf_auth::Remarks,
    ) -> Result<Option<User>, wharf_auth::AuthenticateError> {
        remarks.warnings.push("an old token");
        remarks.annotations.push(("authentication.k8s.io/legacy-token", "jane".to_owned()));
        Ok(Some(User::new("jane", &[])))
    }
}

#[tokio::test]
async fn what_is_said_of_credentials_reaches_the_client_and_the_log() {
    let api = Api::with(|options| options.authenticator = std::sync::Arc::new(Remarking)).await;
    let recorded = Recorded::of(api, "omitStages: [RequestReceived], rules: [{level: Metadata}]");
    for path in ["/version", "/api/v1/namespaces", "/api/v1/namespaces/none"] {
        let request = Request::get(path).body(empty()).expect("a request");
        let answer = recorded.api.server.handle(request).await;
        assert_eq!(answer.headers()["warning"], "299 - \"an old token\"", "{path}");
        let event = recorded.events().pop().expect("an event");
        assert_eq!(event["annotations"]["authentication.k8s.io/legacy-token"], "jane", "{path}");
    }
}
