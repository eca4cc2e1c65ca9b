//! Custom resources, from their definition to its end.

mod support;

use serde_json::{Value, json};
use support::Api;
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_apiserver::definitions;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRONS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
const CRONS2: &str = "/apis/stable.example.com/v2/namespaces/default/crontabs";

/// A server that keeps its definitions.
async fn keeping() -> (Api, DropGuard) {
    let api = Api::with_namespace().await;
    let cancel = CancellationToken::new();
    tokio::spawn(definitions::run(api.server.clone(), cancel.clone()));
    (api, cancel.drop_guard())
}

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["cron"],
                    "x-kubernetes-validations": [
                        {"rule": "self.replicas <= 10", "message": "too many"},
                        {"rule": "!has(oldSelf.image) || self.image == oldSelf.image", "message": "image is fixed"},
                    ],
                    "properties": {
                        "cron": {"type": "string", "maxLength": 20, "pattern": "^[0-9* ]+$"},
                        "image": {"type": "string"},
                        "replicas": {"type": "integer", "default": 1, "minimum": 0},
                        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                },
                "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}},
            },
        }},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"},
        },
        "selectableFields": [{"jsonPath": ".spec.image"}],
        "additionalPrinterColumns": [
            {"name": "Cron", "type": "string", "jsonPath": ".spec.cron"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
    })
}

fn definition(versions: &[Value]) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
        },
    })
}

fn cron(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    crd["status"]["conditions"].as_array()?.iter().find(|held| held["type"] == kind)
}

/// Waits, on a watch, until a definition is as it should be.
async fn until(api: &Api, name: &str, done: impl Fn(&Value) -> bool) -> Value {
    let mut watch = api.watch(&format!("{CRDS}?watch=true&fieldSelector=metadata.name={name}")).await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        if done(&event["object"]) {
            return event["object"].clone();
        }
    }
}

async fn establish(api: &Api, crd: &Value) -> Value {
    api.post(CRDS, crd).await.expect(201);
    let name = crd["metadata"]["name"].as_str().expect("a name").to_owned();
    until(api, &name, |crd| condition(crd, "Established").is_some_and(|held| held["status"] == "True")).await
}

async fn with_crons() -> (Api, DropGuard) {
    let (api, keeps) = keeping().await;
    establish(&api, &definition(&[version("v1", true)])).await;
    (api, keeps)
}

#[tokio::test]
async fn a_definition_is_established_and_published() {
    let (api, _keeps) = keeping().await;
    api.get(CRONS).await.expect(404);
    let crd = establish(&api, &definition(&[version("v1", true)])).await;
    assert_eq!(condition(&crd, "NamesAccepted").expect("a condition")["reason"], "NoConflicts");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["metadata"]["generation"], 1);

    let resources = api.get("/apis/stable.example.com/v1").await.expect(200);
    let names: Vec<&str> =
        resources["resources"].as_array().expect("a list").iter().filter_map(|held| held["name"].as_str()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["ct"]));

    let document = api.get("/openapi/v3/apis/stable.example.com/v1").await.expect(200);
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let schema = &schemas["com.example.stable.v1.CronTab"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}])
    );
    assert_eq!(schema["properties"]["spec"]["properties"]["cron"]["type"], "string");
    assert!(schema["properties"]["spec"]["x-kubernetes-validations"].is_array());
    assert!(schemas.contains_key("com.example.stable.v1.CronTabList"), "{:?}", schemas.keys().collect::<Vec<_>>());
    let two = api.get("/openapi/v2").await.expect(200);
    assert!(two["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

/// As kubectl's validation needs it: it refuses what a property list does not name.
#[tokio::test]
async fn version_2_leaves_open_what_a_definition_leaves_open() {
    let (api, _keeps) = keeping().await;
    let mut crd = definition(&[version("v1", true)]);
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "anything"});
    crd["spec"]["versions"][0]["selectableFields"] = json!(null);
    crd["spec"]["versions"][0].as_object_mut().expect("a version").remove("subresources");
    crd["spec"]["versions"][0].as_object_mut().expect("a version").remove("additionalPrinterColumns");
    establish(&api, &crd).await;
    let mut two = api.get("/openapi/v2").await.expect(200)["definitions"]["com.example.stable.v1.CronTab"].clone();
    two.as_object_mut().expect("a schema").remove("x-kubernetes-group-version-kind");
    assert_eq!(two, json!({"type": "object"}));
    let three = api.get("/openapi/v3/apis/stable.example.com/v1").await.expect(200);
    assert_eq!(three["components"]["schemas"]["com.example.stable.v1.CronTab"]["description"], "anything");
}

/// Upstream's status strategy keeps the metadata that it is sent.
#[tokio::test]
async fn the_status_of_a_definition_takes_metadata_along() {
    let (api, _keeps) = keeping().await;
    let crd = establish(&api, &definition(&[version("v1", true)])).await;
    let path = format!("{CRDS}/{}/status", crd["metadata"]["name"].as_str().expect("a name"));
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"group": "other.example.com"}});
    let patched = api.patch(&path, "merge", &patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["a"], "b");
    assert_eq!(patched["spec"]["group"], "stable.example.com");
}

#[tokio::test]
async fn a_format_that_nobody_checks_is_warned_of_once() {
    let (api, _keeps) = keeping().await;
    let mut crd = definition(&[version("v1", true)]);
    let properties = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    properties["note"] = json!({"type": "string", "format": "haiku"});
    properties["when"] = json!({"type": "string", "format": "date-time"});
    properties["many"] = json!({"type": "integer", "format": "int64"});
    let made = api.post(CRDS, &crd).await;
    let warnings = made.warnings();
    assert_eq!(warnings, [r#"299 - "unrecognized format \"haiku\"""#]);
    let made = made.expect(201);
    let path = format!("{CRDS}/{}", made["metadata"]["name"].as_str().expect("a name"));
    let again = api.patch(&path, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(again.warnings(), [""; 0]);
    again.expect(200);
}

#[tokio::test]
async fn objects_are_defaulted_pruned_and_checked() {
    let (api, _keeps) = with_crons().await;
    let object = api.post(CRONS, &cron("a", json!({"cron": "* *", "image": "x", "what": 1, "any": {"x": 1}}))).await;
    let warnings = object.warnings();
    assert!(warnings.iter().any(|text| text.contains("unknown field \\\"spec.what\\\"")), "{warnings:?}");
    let object = object.expect(201);
    assert_eq!(object["spec"], json!({"cron": "* *", "image": "x", "replicas": 1, "any": {"x": 1}}));
    assert_eq!(object["metadata"]["generation"], 1);
    let strict = format!("{CRONS}?fieldValidation=Strict");
    api.post(&strict, &cron("b", json!({"cron": "*", "what": 1}))).await.refused(
        400,
        "BadRequest",
        "unknown field \"spec.what\"",
    );

    let refused = api.post(CRONS, &cron("b", json!({"replicas": "x"}))).await.refused(
        422,
        "Invalid",
        "CronTab.stable.example.com \"b\" is invalid",
    );
    let causes = refused["details"]["causes"].as_array().expect("causes");
    let told: Vec<String> = causes
        .iter()
        .map(|cause| {
            format!(
                "{} {} {}",
                cause["reason"].as_str().unwrap_or_default(),
                cause["field"].as_str().unwrap_or_default(),
                cause["message"].as_str().unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "FieldValueTypeInvalid spec.replicas Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
            "FieldValueRequired spec.cron Required value",
            "FieldValueInvalid <nil> Invalid value: \"null\": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        ]
    );
    api.post(CRONS, &cron("b", json!({"cron": "*", "replicas": 11}))).await.refused(
        422,
        "Invalid",
        "spec: Invalid value: \"object\": too many",
    );

    // A transition rule looks at the old object; what has not changed is let through.
    api.patch(&format!("{CRONS}/a"), "merge", &json!({"spec": {"image": "y"}})).await.refused(
        422,
        "Invalid",
        "image is fixed",
    );
    let patched = api.patch(&format!("{CRONS}/a"), "merge", &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(patched["metadata"]["generation"], 2);
    let labelled = api
        .patch(&format!("{CRONS}/a"), "json", &json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]))
        .await
        .expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    api.patch(&format!("{CRONS}/a"), "strategic-merge", &json!({})).await.refused(
        415,
        "UnsupportedMediaType",
        "application/merge-patch+json",
    );
}

#[tokio::test]
async fn status_and_scale_are_their_own() {
    let (api, _keeps) = with_crons().await;
    let mut object = cron("a", json!({"cron": "*"}));
    object["status"] = json!({"replicas": 7});
    let created = api.post(CRONS, &object).await.expect(201);
    assert_eq!(created.get("status"), None);
    let mut next = created.clone();
    next["status"] = json!({"replicas": 2, "labelSelector": "app=x", "odd": 1});
    next["spec"]["replicas"] = json!(9);
    let updated = api.put(&format!("{CRONS}/a/status"), &next).await.expect(200);
    assert_eq!(updated["status"], json!({"replicas": 2, "labelSelector": "app=x"}));
    assert_eq!(updated["spec"]["replicas"], 1);
    assert_eq!(updated["metadata"]["generation"], 1);
    let scale = api.get(&format!("{CRONS}/a/scale")).await.expect(200);
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["replicas"], &scale["status"]["selector"]),
        (&json!(1), &json!(2), &json!("app=x"))
    );
    api.patch(&format!("{CRONS}/a/scale"), "merge", &json!({"spec": {"replicas": 4}})).await.expect(200);
    assert_eq!(api.get(&format!("{CRONS}/a")).await.expect(200)["spec"]["replicas"], 4);
    let mut old = updated;
    old["spec"]["replicas"] = json!(5);
    api.put(&format!("{CRONS}/a"), &old).await.refused(409, "Conflict", "the object has been modified");
}

#[tokio::test]
async fn objects_are_printed_and_selected_as_their_definition_says() {
    let (api, _keeps) = with_crons().await;
    api.post(CRONS, &cron("a", json!({"cron": "1 2", "image": "x"}))).await.expect(201);
    api.post(CRONS, &cron("b", json!({"cron": "*", "image": "y"}))).await.expect(201);
    let table = api.get_as(CRONS, "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(names, ["Name", "Cron", "Replicas", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().expect("cells")[..3], [json!("a"), json!("1 2"), json!(1)]);
    let listed = api.get(&format!("{CRONS}?fieldSelector=spec.image=y")).await.expect(200);
    assert_eq!(listed["kind"], "CronTabList");
    assert_eq!(listed["items"][0]["metadata"]["name"], "b");
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    api.get(&format!("{CRONS}?fieldSelector=spec.cron=y")).await.refused(400, "BadRequest", "field label");
}

#[tokio::test]
async fn names_belong_to_who_came_first() {
    let (api, _keeps) = with_crons().await;
    let mut second = definition(&[version("v1", true)]);
    second["metadata"]["name"] = "others.stable.example.com".into();
    second["spec"]["names"] = json!({"plural": "others", "kind": "Other", "shortNames": ["ct"]});
    api.post(CRDS, &second).await.expect(201);
    let crd = until(&api, "others.stable.example.com", |crd| condition(crd, "NamesAccepted").is_some()).await;
    let names = condition(&crd, "NamesAccepted").expect("a condition");
    assert_eq!(
        (&names["status"], &names["reason"], &names["message"]),
        (&json!("False"), &json!("ShortNamesConflict"), &json!("\"ct\" is already in use"))
    );
    assert_eq!(condition(&crd, "Established").expect("a condition")["status"], "False");
    api.get("/apis/stable.example.com/v1/others").await.expect(404);
    // The name is free once the first is gone.
    api.delete(&format!("{CRDS}/crontabs.stable.example.com")).await.expect(200);
    until(&api, "others.stable.example.com", |crd| {
        condition(crd, "Established").is_some_and(|held| held["status"] == "True")
    })
    .await;
    api.get("/apis/stable.example.com/v1/others").await.expect(200);
}

#[tokio::test]
async fn versions_show_one_object_each_in_its_own_way() {
    let (api, _keeps) = with_crons().await;
    api.post(CRONS, &cron("a", json!({"cron": "*"}))).await.expect(201);
    let path = format!("{CRDS}/crontabs.stable.example.com");
    let mut crd = api.get(&path).await.expect(200);
    let mut second = version("v2", true);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({"type": "string", "default": "new"});
    second["deprecated"] = json!(true);
    crd["spec"]["versions"] = json!([version("v1", false), second]);
    api.put(&path, &crd).await.expect(200);
    let crd = until(&api, "crontabs.stable.example.com", |crd| crd["metadata"]["generation"] == 2).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    let shown = loop {
        let answer = api.get(&format!("{CRONS2}/a")).await;
        if answer.code != 404 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(shown.warnings(), ["299 - \"stable.example.com/v2 CronTab is deprecated\""]);
    assert_eq!(shown.json["apiVersion"], "stable.example.com/v2");
    let mut watch = api.watch(&format!("{CRONS}?watch=true")).await;
    assert_eq!(watch.next().await.expect("an event")["object"]["apiVersion"], "stable.example.com/v1");
    let mut object = cron("b", json!({"cron": "*", "extra": "x"}));
    object["apiVersion"] = "stable.example.com/v2".into();
    let created = api.post(CRONS2, &object).await.expect(201);
    assert_eq!(created["spec"]["extra"], "x");
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["object"]["apiVersion"], event["object"]["spec"].get("extra")),
        (&json!("stable.example.com/v1"), None)
    );
    let listed = api.get(CRONS).await.expect(200);
    let versions: Vec<&Value> =
        listed["items"].as_array().expect("items").iter().map(|item| &item["apiVersion"]).collect();
    assert_eq!(versions, ["stable.example.com/v1", "stable.example.com/v1"]);
    // Written through the old version, it is stored in the new one.
    let patched = api.patch(&format!("{CRONS}/a"), "merge", &json!({"spec": {"replicas": 2}})).await.expect(200);
    assert_eq!(patched["apiVersion"], "stable.example.com/v1");
    assert_eq!(api.get(&format!("{CRONS2}/a")).await.expect(200)["spec"]["replicas"], 2);
}

#[tokio::test]
async fn a_definition_goes_after_its_objects_and_ends_their_watches() {
    let (api, _keeps) = with_crons().await;
    let mut object = cron("a", json!({"cron": "*"}));
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CRONS, &object).await.expect(201);
    api.post(CRONS, &cron("b", json!({"cron": "*"}))).await.expect(201);
    let mut watch = api.watch(&format!("{CRONS}?watch=true")).await;
    assert_eq!((watch.event().await, watch.event().await), ("ADDED a".to_owned(), "ADDED b".to_owned()));
    let path = format!("{CRDS}/crontabs.stable.example.com");
    let deleted = api.delete(&path).await.expect(200);
    assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let crd = until(&api, "crontabs.stable.example.com", |crd| condition(crd, "Terminating").is_some()).await;
    assert_eq!(condition(&crd, "Terminating").expect("a condition")["status"], "True");
    let mut seen = vec![watch.event().await, watch.event().await];
    seen.sort();
    assert_eq!(seen, ["DELETED b", "MODIFIED a"]);
    api.post(CRONS, &cron("c", json!({"cron": "*"}))).await.refused(
        405,
        "MethodNotAllowed",
        "create not allowed while custom resource definition is terminating",
    );
    let mut crds = api.watch(&format!("{CRDS}?watch=true")).await;
    api.patch(&format!("{CRONS}/a"), "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(watch.event().await, "DELETED a");
    while crds.event().await != "DELETED crontabs.stable.example.com" {}
    assert_eq!(watch.event().await, "END");
    loop {
        if api.get(CRONS).await.code == 404 {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bad_definitions_are_refused() {
    let api = Api::new().await;
    let check = async |edit: &dyn Fn(&mut Value), message: &str| {
        let mut crd = definition(&[version("v1", true)]);
        edit(&mut crd);
        api.post(CRDS, &crd).await.refused(422, "Invalid", message);
    };
    let schema = |crd: &mut Value, schema: Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    check(&|crd| crd["metadata"]["name"] = "x".into(), "must be spec.names.plural+\".\"+spec.group").await;
    check(
        &|crd| crd["spec"]["scope"] = "World".into(),
        "spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\"",
    )
    .await;
    check(
        &|crd| crd["spec"]["versions"][0]["storage"] = false.into(),
        "must have exactly one version marked as storage version",
    )
    .await;
    check(
        &|crd| schema(crd, json!({"properties": {"a": {}}})),
        "spec.versions[0].schema.openAPIV3Schema.type: Required value: must not be empty at the root",
    )
    .await;
    check(&|crd| schema(crd, json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "uniqueItems": true}}})), "uniqueItems cannot be set to true").await;
    check(
        &|crd| schema(crd, json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}})),
        "properties[a].default: Invalid value: \"integer\"",
    )
    .await;
    check(
        &|crd| schema(crd, json!({"type": "object", "x-kubernetes-validations": [{"rule": "self +"}]})),
        "x-kubernetes-validations[0].rule: Invalid value: \"self +\": compilation failed: ERROR: <input>",
    )
    .await;
    check(
        &|crd| crd["spec"]["versions"][0]["additionalPrinterColumns"][0]["type"] = "any".into(),
        "must be one of boolean,date,integer,number,string",
    )
    .await;
    check(
        &|crd| crd["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.any"}]),
        "must point to a field of type string, boolean or integer",
    )
    .await;
    check(
        &|crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        "spec.conversion.webhook.clientConfig: Required value",
    )
    .await;
    check(
        &|crd| {
            crd["spec"]["group"] = "my.k8s.io".into();
            crd["metadata"]["name"] = "crontabs.my.k8s.io".into();
        },
        "protected groups must have approval annotation",
    )
    .await;
}

#[tokio::test]
async fn whoever_writes_at_the_same_time_as_others_is_warned_too() {
    let (api, _guard) = keeping().await;
    let mut old = version("v1", true);
    (old["deprecated"], old["deprecationWarning"]) = (json!(true), json!("use something else"));
    api.post(CRDS, &definition(&[old])).await.expect(201);
    until(&api, "crontabs.stable.example.com", |crd| condition(crd, "Established").is_some()).await;
    api.post(CRONS, &cron("a", json!({"cron": "* *"}))).await.expect(201);
    let path = format!("{CRONS}/a");
    let patches = (0..16).map(|index| {
        let labels = json!({"metadata": {"labels": {format!("l{index}"): "x"}}});
        let (api, path) = (&api, &path);
        async move { api.patch(path, "merge", &labels).await }
    });
    for answer in futures::future::join_all(patches).await {
        assert_eq!(answer.warnings(), ["299 - \"use something else\""]);
        answer.expect(200);
    }
}
