"""What people do with the official Python client. Argument: a kubeconfig of a cluster that has the image hello-http:v1."""

import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

SPACE = "python"


def step(what):
    print(f"- {what}", flush=True)


def refused(status, call):
    try:
        call()
    except ApiException as error:
        assert error.status == status, (error.status, error.body)
        return error
    raise AssertionError(f"expected {status}")


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"made-by": "python"}), data=data)


def objects(core):
    step("create, read, patch, replace, list, delete")
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=SPACE)))
    core.create_namespaced_config_map(SPACE, config_map("a", one="1"))
    core.patch_namespaced_config_map("a", SPACE, {"data": {"two": "2"}})
    held = core.read_namespaced_config_map("a", SPACE)
    assert held.data == {"one": "1", "two": "2"}, held.data
    stale = core.read_namespaced_config_map("a", SPACE)
    held.data["three"] = "3"
    core.replace_namespaced_config_map("a", SPACE, held)
    conflict = refused(409, lambda: core.replace_namespaced_config_map("a", SPACE, stale))
    assert "the object has been modified" in conflict.body
    assert refused(404, lambda: core.read_namespaced_config_map("b", SPACE)).reason == "Not Found"
    bad = refused(422, lambda: core.create_namespaced_config_map(SPACE, config_map("Not A Name")))
    assert "metadata.name" in bad.body
    for number in range(5):
        core.create_namespaced_config_map(SPACE, config_map(f"page-{number}"))
    first = core.list_namespaced_config_map(SPACE, label_selector="made-by=python", limit=4)
    rest = core.list_namespaced_config_map(SPACE, label_selector="made-by=python", limit=4, _continue=first.metadata._continue)
    assert (len(first.items), len(rest.items)) == (4, 2)
    core.delete_collection_namespaced_config_map(SPACE, label_selector="made-by=python")
    assert not core.list_namespaced_config_map(SPACE, label_selector="made-by=python").items


def events(core):
    step("watch")
    version = core.list_namespaced_config_map(SPACE).metadata.resource_version
    writer = threading.Thread(target=lambda: core.create_namespaced_config_map(SPACE, config_map("seen")))
    writer.start()
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, SPACE, resource_version=version, timeout_seconds=60):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "seen"), event
        stream.stop()
    writer.join()


def workloads(core, apps):
    step("deploy, scale, logs")
    labels = {"app": "hello"}
    container = client.V1Container(name="main", image="hello-http:v1", ports=[client.V1ContainerPort(container_port=80)])
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels), template=template)
    apps.create_namespaced_deployment(
        SPACE, client.V1Deployment(metadata=client.V1ObjectMeta(name="hello"), spec=spec)
    )
    apps.patch_namespaced_deployment_scale("hello", SPACE, {"spec": {"replicas": 2}})
    assert apps.read_namespaced_deployment_scale("hello", SPACE).spec.replicas == 2
    for event in watch.Watch().stream(apps.list_namespaced_deployment, SPACE, timeout_seconds=120):
        if event["object"].status.available_replicas == 2:
            break
    else:
        raise AssertionError("the deployment did not become available")
    pods = core.list_namespaced_pod(SPACE, label_selector="app=hello").items
    assert {pod.status.phase for pod in pods} == {"Running"}
    core.read_namespaced_pod_log(pods[0].metadata.name, SPACE)
    apps.delete_namespaced_deployment("hello", SPACE, propagation_policy="Foreground")


def custom_resources(api):
    step("custom resources, through the typed and the dynamic client")
    schema = client.V1JSONSchemaProps(
        type="object",
        properties={
            "spec": client.V1JSONSchemaProps(
                type="object", properties={"size": client.V1JSONSchemaProps(type="integer", minimum=1)}
            )
        },
    )
    version = client.V1CustomResourceDefinitionVersion(
        name="v1",
        served=True,
        storage=True,
        schema=client.V1CustomResourceValidation(open_apiv3_schema=schema),
    )
    definition = client.V1CustomResourceDefinition(
        metadata=client.V1ObjectMeta(name="boats.python.example.com"),
        spec=client.V1CustomResourceDefinitionSpec(
            group="python.example.com",
            scope="Namespaced",
            names=client.V1CustomResourceDefinitionNames(plural="boats", singular="boat", kind="Boat"),
            versions=[version],
        ),
    )
    extensions = client.ApiextensionsV1Api(api)
    extensions.create_custom_resource_definition(definition)
    for event in watch.Watch().stream(extensions.list_custom_resource_definition, timeout_seconds=60):
        conditions = (event["object"].status and event["object"].status.conditions) or []
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            break
    custom = client.CustomObjectsApi(api)
    place = ("python.example.com", "v1", SPACE, "boats")
    boat = {"apiVersion": "python.example.com/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": {"size": 3}}
    custom.create_namespaced_custom_object(*place, boat)
    custom.patch_namespaced_custom_object(*place, "a", {"spec": {"size": 4}})
    assert custom.get_namespaced_custom_object(*place, "a")["spec"]["size"] == 4
    boat["metadata"]["name"], boat["spec"]["size"] = "b", 0
    refused(422, lambda: custom.create_namespaced_custom_object(*place, boat))

    boats = dynamic.DynamicClient(api).resources.get(api_version="python.example.com/v1", kind="Boat")
    boat["spec"]["size"] = 5
    boats.server_side_apply(body=boat, name="b", namespace=SPACE, field_manager="python")
    assert boats.get(name="b", namespace=SPACE).spec.size == 5
    extensions.delete_custom_resource_definition("boats.python.example.com")


def identities(core, api):
    step("tokens and rights")
    core.create_namespaced_service_account(
        SPACE, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="reader"))
    )
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=None, expiration_seconds=600))
    token = core.create_namespaced_service_account_token("reader", SPACE, request).status.token
    mine = client.Configuration()
    mine.host, mine.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
    mine.api_key, mine.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
    reader = client.ApiClient(mine)
    refused(403, lambda: client.CoreV1Api(reader).list_namespaced_config_map(SPACE))
    rbac = client.RbacAuthorizationV1Api(api)
    rule = client.V1PolicyRule(api_groups=[""], resources=["configmaps"], verbs=["list"])
    rbac.create_namespaced_role(SPACE, client.V1Role(metadata=client.V1ObjectMeta(name="reader"), rules=[rule]))
    rbac.create_namespaced_role_binding(
        SPACE,
        client.V1RoleBinding(
            metadata=client.V1ObjectMeta(name="reader"),
            role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="reader"),
            subjects=[client.RbacV1Subject(kind="ServiceAccount", name="reader", namespace=SPACE)],
        ),
    )
    assert client.CoreV1Api(reader).list_namespaced_config_map(SPACE).items
    asked = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(namespace=SPACE, verb="delete", resource="configmaps")
        )
    )
    assert not client.AuthorizationV1Api(reader).create_self_subject_access_review(asked).status.allowed


def main():
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    version = client.VersionApi(api).get_code()
    assert (version.major, version.minor) == ("1", "36"), version
    assert core.list_node().items[0].status.node_info.kubelet_version.startswith("v1.36.")
    objects(core)
    events(core)
    workloads(core, apps)
    custom_resources(api)
    identities(core, api)
    core.delete_namespace(SPACE)
    print("done")


main()
