use std::collections::BTreeSet;

use super::*;

const ALL_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn resource(group: &'static str, kind: &'static str, resource: &'static str, namespaced: bool) -> Resource {
    let gvk = Gvk { group: group.into(), version: "v1".into(), kind: kind.into() };
    let schema = crate::schema::type_name(&gvk);
    let status = Subresource {
        name: "status".into(),
        verbs: vec!["get", "update", "patch"],
        body: Some((gvk.clone(), schema.clone())),
    };
    Resource {
        gvr: Gvr { group: group.into(), version: "v1".into(), resource: resource.into() },
        gvk,
        namespaced,
        verbs: ALL_VERBS.to_vec(),
        schema,
        returns_deleted: kind == "Pod",
        subresources: vec![status],
    }
}

fn served() -> Vec<Resource> {
    let mut pods = resource("", "Pod", "pods", true);
    pods.subresources.push(Subresource { name: "exec".into(), verbs: vec!["connect"], body: None });
    pods.subresources.push(Subresource { name: "log".into(), verbs: vec!["get"], body: None });
    let mut deployments = resource("apps", "Deployment", "deployments", true);
    let scale = Gvk { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() };
    let name = crate::schema::type_name(&scale);
    deployments.subresources.push(Subresource {
        name: "scale".into(),
        verbs: vec!["get", "update", "patch"],
        body: Some((scale, name)),
    });
    vec![
        pods,
        resource("", "Node", "nodes", false),
        deployments,
        resource("rbac.authorization.k8s.io", "Role", "roles", true),
    ]
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn assert_closed(document: &Value, prefix: &str, schemas: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        if let Some(name) = reference.strip_prefix("#/parameters/") {
            assert!(document["parameters"].get(name).is_some(), "{name} is not shared");
            continue;
        }
        let name = reference.strip_prefix(prefix).unwrap_or_else(|| panic!("{reference} points outside"));
        assert!(schemas.get(name).is_some(), "{name} is not defined");
    }
}

fn operation_ids(document: &Value) -> Vec<&str> {
    let items = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    items.filter_map(|operation| operation["operationId"].as_str()).collect()
}

#[test]
fn every_reference_is_defined_and_nothing_else_is() {
    let apps = v3(&GroupVersion::new("apps", "v1"), &served(), &Definitions::new());
    let schemas = &apps["components"]["schemas"];
    assert_closed(&apps, "#/components/schemas/", schemas);
    assert!(schemas.get("io.k8s.api.core.v1.PodSpec").is_some());
    assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "of another group version");
    let all = v2(&served(), &Definitions::new());
    assert_closed(&all, "#/definitions/", &all["definitions"]);
}

#[test]
fn operations_are_named_as_upstream_names_them() {
    let all = v2(&served(), &Definitions::new());
    let ids = operation_ids(&all);
    for id in [
        "listCoreV1NamespacedPod",
        "listCoreV1PodForAllNamespaces",
        "createCoreV1NamespacedPod",
        "readCoreV1NamespacedPod",
        "replaceCoreV1NamespacedPod",
        "patchCoreV1NamespacedPod",
        "deleteCoreV1NamespacedPod",
        "deleteCoreV1CollectionNamespacedPod",
        "patchCoreV1NamespacedPodStatus",
        "connectCoreV1GetNamespacedPodExec",
        "readCoreV1NamespacedPodLog",
        "watchCoreV1NamespacedPodList",
        "watchCoreV1PodListForAllNamespaces",
        "watchCoreV1Node",
        "getCoreV1APIResources",
        "getAppsAPIGroup",
        "getAPIVersions",
        "getCodeVersion",
        "listCoreV1Node",
        "readAppsV1NamespacedDeploymentScale",
        "listRbacAuthorizationV1NamespacedRole",
    ] {
        assert!(ids.contains(&id), "{id}");
    }
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "ids are unique");
}

#[test]
fn clients_find_what_they_look_for() {
    let core = v3(&GroupVersion::new("", "v1"), &served(), &Definitions::new());
    // kubectl asks whether the server validates fields, by kind and parameter of the patch operation.
    let patch = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert!(patch["parameters"].as_array().unwrap().iter().any(|parameter| parameter["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    // It finds a kind's schema by the annotation, and merge keys along the way.
    let schemas = &core["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
}

#[test]
fn fields_name_their_choices_and_version_3_their_defaults() {
    let core = v3(&GroupVersion::new("", "v1"), &served(), &Definitions::new());
    let schemas = &core["components"]["schemas"];
    let field = |owner: &str, field: &str| &schemas[format!("io.k8s.api.core.v1.{owner}")]["properties"][field];
    assert_eq!(field("Container", "imagePullPolicy")["enum"], json!(["Always", "IfNotPresent", "Never"]));
    assert_eq!(field("ContainerPort", "protocol")["default"], "TCP");
    assert_eq!(field("Container", "name")["default"], "");
    assert_eq!(field("Container", "resources")["default"], json!({}));
    assert_eq!(field("PodSpec", "containers")["items"]["default"], json!({}));
    assert_eq!(field("PodSpec", "nodeSelector")["additionalProperties"]["default"], "");
    assert!(field("ResourceRequirements", "limits")["additionalProperties"].get("default").is_none());
    assert!(field("PodSpec", "nodeName").get("default").is_none());
    let all = v2(&served(), &Definitions::new());
    let old =
        |owner: &str, field: &str| &all["definitions"][format!("io.k8s.api.core.v1.{owner}")]["properties"][field];
    assert!(old("ContainerPort", "protocol").get("default").is_none(), "version 2 has no defaults");
    assert_eq!(old("Container", "imagePullPolicy"), field("Container", "imagePullPolicy"));
    let described = old("Container", "imagePullPolicy")["description"].as_str().unwrap();
    let choices = concat!(
        "\n\nPossible enum values:\n - `\"Always\"` means that kubelet always attempts to pull the latest image.",
        " Container will fail If the pull fails.\n - `\"IfNotPresent\"` means"
    );
    assert!(described.contains(choices), "{described}");
    // A list's items have choices; its words name none.
    let modes = old("PersistentVolumeClaimSpec", "accessModes");
    assert_eq!(modes["items"]["enum"][0], "ReadOnlyMany");
    assert!(!modes["description"].as_str().unwrap().contains("Possible"));
}

#[test]
fn parameters_of_every_operation_stand_at_the_path() {
    let core = v3(&GroupVersion::new("", "v1"), &served(), &Definitions::new());
    let names = |of: &Value| {
        let of = of["parameters"].as_array();
        of.into_iter()
            .flatten()
            .map(|it| it["name"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let check = |path: &str, method: &str, shared: &str, own: &str| {
        let item = &core["paths"][path];
        assert_eq!((names(item).as_str(), names(&item[method]).as_str()), (shared, own), "{method} {path}");
    };
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    check(pod, "put", "name namespace pretty", "dryRun fieldManager fieldValidation");
    check(pod, "get", "name namespace pretty", "");
    check(&format!("{pod}/exec"), "post", "command container name namespace stderr stdin stdout tty", "");
    let everywhere = "allowWatchBookmarks continue fieldSelector labelSelector limit pretty resourceVersion \
                      resourceVersionMatch sendInitialEvents shardSelector timeoutSeconds watch";
    check("/api/v1/pods", "get", everywhere, "");
    check("/api/v1/watch/pods", "get", everywhere, "");
    let exec = &core["paths"][format!("{pod}/exec")]["get"]["x-kubernetes-group-version-kind"]["kind"];
    assert_eq!(exec, "PodExecOptions");
    let deleted =
        |path: &str| core["paths"][path]["delete"]["responses"]["200"]["content"]["application/json"]["schema"].clone();
    assert_eq!(deleted(pod)["$ref"], "#/components/schemas/io.k8s.api.core.v1.Pod");
    assert_eq!(
        deleted("/api/v1/nodes/{name}")["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Status"
    );
}

#[test]
fn kinds_of_all_groups_name_them() {
    let kinds = |document: &Value, schemas: &str| {
        let found = document.pointer(schemas).unwrap()["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]
            ["x-kubernetes-group-version-kind"]
            .as_array();
        found.unwrap().iter().map(|kind| kind["group"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let apps = v3(&GroupVersion::new("apps", "v1"), &served(), &Definitions::new());
    assert_eq!(kinds(&apps, "/components/schemas"), ["", "apps"]);
    assert_eq!(kinds(&v2(&served(), &Definitions::new()), "/definitions").len(), 60);
}

#[test]
fn definitions_say_what_upstreams_say() {
    let all = v2(&served(), &Definitions::new());
    let of = |name: &str| all["definitions"][format!("io.k8s.{name}")].clone();
    assert_eq!(of("api.core.v1.LocalObjectReference").get("required"), None);
    assert_eq!(of("api.apps.v1.Deployment").get("required"), None, "not even metadata");
    let profile = of("api.core.v1.SeccompProfile");
    assert_eq!(
        profile["x-kubernetes-unions"][0]["fields-to-discriminateBy"],
        json!({"localhostProfile": "LocalhostProfile"})
    );
    let event = of("apimachinery.pkg.apis.meta.v1.WatchEvent");
    assert_eq!(event["description"], "Event represents a single event to a watched resource.");
    assert!(
        event["properties"]["object"]["description"].as_str().unwrap().starts_with("Object is:\n * If Type is Added")
    );
    let list = of("api.apps.v1.DeploymentList");
    assert_eq!(list["properties"]["items"]["description"], "Items is the list of Deployments.");
    let apps = v3(&GroupVersion::new("apps", "v1"), &served(), &Definitions::new());
    let list = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentList"]["properties"];
    assert_eq!((&list["metadata"]["default"], &list["items"]["items"]["default"]), (&json!({}), &json!({})));
}

#[test]
fn what_answers_about_the_server_has_documents_of_its_own() {
    let others: BTreeMap<String, Value> = v3_others(&served(), &Definitions::new()).into_iter().collect();
    let names: Vec<&str> = others.keys().map(String::as_str).collect();
    let expected = [
        ".well-known/openid-configuration",
        "api",
        "apis",
        "apis/apps",
        "apis/rbac.authorization.k8s.io",
        "openid/v1/jwks",
        "version",
    ];
    assert_eq!(names, expected);
    let schemas = &others["version"]["components"]["schemas"];
    assert!(schemas["io.k8s.apimachinery.pkg.version.Info"]["properties"]["gitVersion"].is_object());
    assert_closed(&others["apis/apps"], "#/components/schemas/", &others["apis/apps"]["components"]["schemas"]);
}

#[test]
fn scalars_of_two_types_have_upstreams_shapes() {
    let name = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
    let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
    let core = v3(&GroupVersion::new("", "v1"), &served(), &Definitions::new());
    let int_or_string = &core["components"]["schemas"][name];
    assert_eq!(int_or_string["oneOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(int_or_string["format"], "int-or-string");
    assert_eq!(core["components"]["schemas"][quantity]["oneOf"], json!([{"type": "string"}, {"type": "number"}]));
    let all = v2(&served(), &Definitions::new());
    assert_eq!(
        (&all["definitions"][name]["type"], &all["definitions"][name]["format"]),
        (&json!("string"), &json!("int-or-string"))
    );
    assert_eq!(all["definitions"][quantity]["type"], "string");
}

#[test]
fn custom_schemas_join_the_document() {
    let mut widgets = resource("example.com", "Widget", "widgets", true);
    widgets.schema = "com.example.v1.Widget".into();
    widgets.subresources.clear();
    let extra = Definitions::from([("com.example.v1.Widget".to_owned(), json!({"type": "object"}))]);
    let document = v3(&GroupVersion::new("example.com", "v1"), &[widgets], &extra);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["com.example.v1.Widget"]["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(schemas.get("com.example.v1.WidgetList").is_some());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    let content = patch["requestBody"]["content"].as_object().unwrap();
    assert!(content.contains_key("application/apply-patch+yaml"));
    assert!(!content.contains_key("application/strategic-merge-patch+json"), "kubectl would send one");
    assert_closed(&document, "#/components/schemas/", schemas);
}

#[test]
fn the_index_points_to_every_document() {
    let (core, apps) = (v3_path(&GroupVersion::new("", "v1")), v3_path(&GroupVersion::new("apps", "v1")));
    let index = v3_index([(core.as_str(), "A"), (apps.as_str(), "B")]);
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=A");
    assert_eq!(index["paths"]["apis/apps/v1"]["serverRelativeURL"], "/openapi/v3/apis/apps/v1?hash=B");
    assert_eq!(hash(b"x"), hash(b"x"));
}
