//! Admission policies on the whole server: who is judged, by which parameters, and in which words.

mod support;

use serde_json::{Value, json};
use support::{Api, CONFIG_MAPS, config_map, deployment};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn rule(group: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]})
}

/// Installs a validating policy about a resource, bound with these actions; `more` is merged into its spec.
async fn validate(api: &Api, (group, resource): (&str, &str), more: Value, binding: Value) {
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule(group, resource)]}});
    for (field, value) in more.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    let policy = json!({"metadata": {"name": "policy"}, "spec": spec});
    api.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy).await.expect(201);
    let mut spec = json!({"policyName": "policy", "validationActions": ["Deny"]});
    for (field, value) in binding.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    let binding = json!({"metadata": {"name": "binding"}, "spec": spec});
    api.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding).await.expect(201);
}

async fn mutate(api: &Api, name: &str, more: Value) {
    let mut spec =
        json!({"matchConstraints": {"resourceRules": [rule("", "configmaps")]}, "reinvocationPolicy": "Never"});
    for (field, value) in more.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    let policy = json!({"metadata": {"name": name}, "spec": spec});
    api.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
    api.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding).await.expect(201);
}

fn scaled(replicas: i32) -> Value {
    let mut web = deployment("web");
    web["spec"]["replicas"] = json!(replicas);
    web
}

#[tokio::test]
async fn a_policy_denies_where_it_is_bound() {
    let api = Api::admitting().await;
    let rules = json!({"validations": [{"expression": "object.spec.replicas <= 5"}]});
    validate(&api, ("apps", "deployments"), rules, json!({})).await;
    let by = "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'policy' with binding 'binding' denied request";
    let status = api.post(DEPLOYMENTS, &scaled(6)).await.refused(
        422,
        "Invalid",
        &format!("{by}: failed expression: object.spec.replicas <= 5"),
    );
    assert_eq!(status["details"]["name"], "web");
    assert_eq!(
        status["details"]["causes"][0]["message"],
        "ValidatingAdmissionPolicy 'policy' with binding 'binding' denied request: failed expression: object.spec.replicas <= 5"
    );
    api.post(DEPLOYMENTS, &scaled(5)).await.expect(201);
    api.patch(&format!("{DEPLOYMENTS}/web"), "merge", &json!({"spec": {"replicas": 9}}))
        .await
        .refused(422, "Invalid", by);
    api.delete(&format!("{GROUP}/validatingadmissionpolicybindings/binding")).await.expect(200);
    api.patch(&format!("{DEPLOYMENTS}/web"), "merge", &json!({"spec": {"replicas": 9}})).await.expect(200);
}

#[tokio::test]
async fn the_words_and_the_reason_are_the_policys() {
    let api = Api::admitting().await;
    let rules = json!({
        "variables": [
            {"name": "size", "expression": "size(object.data)"},
            {"name": "twice", "expression": "variables.size * 2"},
        ],
        "validations": [{
            "expression": "variables.twice < 3", "reason": "Forbidden", "message": "too much",
            "messageExpression": "'twice ' + string(variables.size) + ' is ' + string(variables.twice)",
        }],
    });
    validate(&api, ("", "configmaps"), rules, json!({})).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({"a": "1"}))).await.expect(201);
    let two = config_map("b", &json!({"a": "1", "b": "2"}));
    api.post(CONFIG_MAPS, &two).await.refused(403, "Forbidden", "denied request: twice 2 is 4");
}

#[tokio::test]
async fn a_policy_may_only_warn() {
    let api = Api::admitting().await;
    let rules = json!({"validations": [{"expression": "false", "message": "mind this"}]});
    validate(&api, ("", "configmaps"), rules, json!({"validationActions": ["Warn", "Audit"]})).await;
    let answer = api.post(CONFIG_MAPS, &config_map("a", &json!({}))).await;
    let told = "299 - \"Validation failed for ValidatingAdmissionPolicy 'policy' with binding 'binding': mind this\"";
    assert_eq!(answer.warnings(), [told]);
    answer.expect(201);
}

#[tokio::test]
async fn an_error_is_what_the_failure_policy_says() {
    for (failure, code) in [("Fail", 422), ("Ignore", 201)] {
        let api = Api::admitting().await;
        let rules = json!({"failurePolicy": failure, "validations": [{"expression": "object.data.missing == 'x'"}]});
        validate(&api, ("", "configmaps"), rules, json!({})).await;
        let answer = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await;
        if failure == "Fail" {
            let why = "denied request: expression 'object.data.missing == 'x'' resulted in error: no such key: missing";
            answer.refused(code, "Invalid", why);
        } else {
            answer.expect(code);
        }
    }
}

#[tokio::test]
async fn parameters_are_named_or_selected_and_may_be_missing() {
    let api = Api::admitting().await;
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{
            "expression": "object.spec.replicas <= int(params.data.max)",
            "messageExpression": "'at most ' + params.data.max + ', says ' + params.metadata.name",
        }],
    });
    let reference = |reference: Value| json!({"paramRef": reference});
    let named = reference(json!({"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}));
    validate(&api, ("apps", "deployments"), rules, named).await;
    let missing = "denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    api.post(DEPLOYMENTS, &scaled(1)).await.refused(422, "Invalid", missing);
    let mut limits = config_map("limits", &json!({"max": "3"}));
    limits["metadata"]["labels"] = json!({"limits": "yes"});
    api.post(CONFIG_MAPS, &limits).await.expect(201);
    api.post(DEPLOYMENTS, &scaled(4)).await.refused(422, "Invalid", "denied request: at most 3, says limits");
    api.post(DEPLOYMENTS, &scaled(3)).await.expect(201);

    let path = format!("{GROUP}/validatingadmissionpolicybindings/binding");
    let selected = json!({"spec": {"paramRef": {"name": null, "namespace": null, "selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Allow"}}});
    api.patch(&path, "merge", &selected).await.expect(200);
    let mut tight = config_map("tight", &json!({"max": "2"}));
    tight["metadata"]["labels"] = json!({"limits": "yes"});
    api.post(CONFIG_MAPS, &tight).await.expect(201);
    let more = json!({"spec": {"replicas": 3, "paused": true}});
    api.patch(&format!("{DEPLOYMENTS}/web"), "merge", &more).await.refused(422, "Invalid", "at most 2, says tight");
    for name in ["limits", "tight"] {
        api.delete(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
    }
    api.patch(&format!("{DEPLOYMENTS}/web"), "merge", &json!({"spec": {"replicas": 30}})).await.expect(200);
}

#[tokio::test]
async fn expressions_see_the_request_the_namespace_and_the_writers_rights() {
    let api = Api::admitting().await;
    let rules = json!({
        "matchConditions": [{"name": "not-me", "expression": "request.userInfo.username != 'somebody'"}],
        "validations": [
            {"expression": "request.operation == 'CREATE' && oldObject == null", "message": "no creation"},
            {"expression": "namespaceObject.metadata.name == request.namespace", "message": "wrong namespace"},
            {"expression": "authorizer.requestResource.check('create').allowed()", "message": "no right"},
            {"expression": "authorizer.group('').resource('pods').namespace('default').check('get').allowed()", "message": "no pods"},
            {"expression": "!has(object.data.stop)", "message": "stopped"},
        ],
        "auditAnnotations": [{"key": "who", "valueExpression": "request.userInfo.username"}],
    });
    validate(&api, ("", "configmaps"), rules, json!({})).await;
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "1"}))).await.expect(201);
    api.post(CONFIG_MAPS, &config_map("b", &json!({"stop": "1"}))).await.refused(
        422,
        "Invalid",
        "denied request: stopped",
    );
    let more = json!({"data": {"k": "2"}});
    api.patch(&format!("{CONFIG_MAPS}/a"), "merge", &more).await.refused(422, "Invalid", "denied request: no creation");
}

#[tokio::test]
async fn expensive_expressions_run_out_of_budget() {
    let api = Api::admitting().await;
    let body: serde_json::Map<String, Value> = (0..400).map(|index| (format!("k{index}"), json!("v"))).collect();
    let all = "object.data.all(a, object.data.all(b, object.data.all(c, a != b || b != c || c != a || true)))";
    validate(&api, ("", "configmaps"), json!({"validations": [{"expression": all}]}), json!({})).await;
    let answer = api.post(CONFIG_MAPS, &config_map("a", &Value::Object(body))).await;
    answer.refused(422, "Invalid", "cost");
}

#[tokio::test]
async fn a_mutating_policy_merges_or_patches() {
    let api = Api::admitting().await;
    let apply =
        "Object{metadata: Object.metadata{labels: {'by': 'policy'}}, data: {'count': string(size(object.data))}}";
    mutate(
        &api,
        "a",
        json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}}]}),
    )
    .await;
    let patch = "[JSONPatch{op: 'test', path: '/data/count', value: '1'}, JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: object.data.count}]";
    mutate(&api, "b", json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}]})).await;
    let mut sent = config_map("a", &json!({"k": "v"}));
    sent["metadata"]["labels"] = json!({"own": "label"});
    let made = api.post(CONFIG_MAPS, &sent).await.expect(201);
    assert_eq!(made["metadata"]["labels"], json!({"own": "label", "by": "policy", "a/b": "1"}));
    assert_eq!(made["data"], json!({"k": "v", "count": "1"}));
}

#[tokio::test]
async fn a_mutating_policy_that_fails_denies_or_is_passed_over() {
    let api = Api::admitting().await;
    let broken = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{data: {'k': object.data.missing}}"}}]);
    mutate(
        &api,
        "a",
        json!({"mutations": broken, "matchConditions": [{"name": "n", "expression": "object.metadata.name == 'a'"}]}),
    )
    .await;
    let why = "policy 'a' with binding 'a' denied request: expression 'Object{data: {'k': object.data.missing}}' resulted in error: no such key: missing";
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.refused(403, "Invalid", why);
    api.post(CONFIG_MAPS, &config_map("b", &json!({"k": "v"}))).await.expect(201);
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    api.patch(&format!("{GROUP}/mutatingadmissionpolicies/a"), "merge", &ignore).await.expect(200);
    api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
}

#[tokio::test]
async fn an_earlier_policy_that_asks_for_it_sees_later_changes() {
    let api = Api::admitting().await;
    let count = "Object{data: {'count': string('count' in object.data ? int(object.data.count) + 1 : 1)}}";
    let mutation =
        |text: &str| json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}}]);
    mutate(&api, "a", json!({"mutations": mutation(count), "reinvocationPolicy": "IfNeeded"})).await;
    mutate(&api, "b", json!({"mutations": mutation("Object{data: {'more': 'yes'}}")})).await;
    let made = api.post(CONFIG_MAPS, &config_map("a", &json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["data"], json!({"k": "v", "count": "2", "more": "yes"}));
}

#[tokio::test]
async fn an_apply_configuration_replaces_nothing_by_accident() {
    let api = Api::admitting().await;
    let apply = |text: &str| json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": text}}]);
    let matched = json!({"resourceRules": [rule("apps", "deployments")]});
    let selector = "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}";
    mutate(&api, "a", json!({"matchConstraints": matched, "mutations": apply(selector)})).await;
    let by = "policy 'a' with binding 'a' denied request: error applying patch: ";
    let why = format!("{by}invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector");
    let refused = api.post(DEPLOYMENTS, &scaled(1)).await.refused(403, "Invalid", &why);
    assert_eq!(refused["details"]["causes"], json!([{"message": why}]));
    let path = format!("{GROUP}/mutatingadmissionpolicies/a");
    let unknown = apply("Object{spec: Object.spec{replica: 3}}");
    api.patch(&path, "merge", &json!({"spec": {"mutations": unknown}})).await.expect(200);
    let why =
        format!("{by}failed to convert patch object to typed object: .spec.replica: field not declared in schema");
    api.post(DEPLOYMENTS, &scaled(1)).await.refused(403, "Invalid", &why);
    let misnamed = apply("Object{spec: Object.status{replicas: 3}}");
    api.patch(&path, "merge", &json!({"spec": {"mutations": misnamed}})).await.expect(200);
    let why = "denied request: type mismatch: unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path from root Object type";
    api.post(DEPLOYMENTS, &scaled(1)).await.refused(403, "Invalid", why);
    let granular = apply(
        "Object{spec: Object.spec{template: Object.spec.template{metadata: Object.spec.template.metadata{labels: {'a': 'b'}}}}}",
    );
    api.patch(&path, "merge", &json!({"spec": {"mutations": granular}})).await.expect(200);
    let made = api.post(DEPLOYMENTS, &scaled(1)).await.expect(201);
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], json!({"app": "web", "a": "b"}));
}
