// What people do with the official JavaScript client. Argument: a kubeconfig of a cluster that has the image hello-http:v1.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// Imports are looked for beside this file; the client lies where NODE_PATH says.
const k8s = createRequire(import.meta.url)("@kubernetes/client-node");

const namespace = "javascript";
const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

const step = (what) => console.log(`- ${what}`);

async function refused(code, call) {
  const error = await call().then(
    () => assert.fail(`expected ${code}`),
    (error) => error,
  );
  assert.equal(error.code, code, String(error));
}

const configMap = (name, data) => ({ metadata: { name, labels: { "made-by": "javascript" } }, data });

async function objects() {
  step("create, read, patch, replace, delete");
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  await core.createNamespacedConfigMap({ namespace, body: configMap("a", { one: "1" }) });
  const patch = [{ op: "add", path: "/data/two", value: "2" }];
  const options = k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.JsonPatch);
  await core.patchNamespacedConfigMap({ name: "a", namespace, body: patch }, options);
  const held = await core.readNamespacedConfigMap({ name: "a", namespace });
  assert.deepEqual(held.data, { one: "1", two: "2" });
  await core.replaceNamespacedConfigMap({ name: "a", namespace, body: { ...held, data: { three: "3" } } });
  await refused(409, () => core.replaceNamespacedConfigMap({ name: "a", namespace, body: held }));
  await refused(404, () => core.readNamespacedConfigMap({ name: "b", namespace }));
  const generic = k8s.KubernetesObjectApi.makeApiClient(config);
  const applied = { apiVersion: "v1", kind: "ConfigMap", ...configMap("applied", { x: "1" }) };
  applied.metadata.namespace = namespace;
  await generic.patch(applied, undefined, undefined, "javascript", true, k8s.PatchStrategy.ServerSideApply);
  const owned = await generic.read({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "applied", namespace } });
  assert.equal(owned.metadata.managedFields[0].operation, "Apply");
}

async function informer() {
  step("an informer sees what is there and what comes");
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: "made-by=javascript" });
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, list, "made-by=javascript");
  const seen = new Promise((resolve, reject) => {
    informer.on("add", (object) => object.metadata.name === "late" && resolve());
    informer.on("error", reject);
  });
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: configMap("late", {}) });
  await seen;
  await informer.stop();
}

async function workloads() {
  step("deploy, wait, logs");
  const labels = { app: "hello" };
  const container = { name: "main", image: "hello-http:v1", ports: [{ containerPort: 80 }] };
  const template = { metadata: { labels }, spec: { containers: [container] } };
  const body = { metadata: { name: "hello" }, spec: { selector: { matchLabels: labels }, template } };
  await apps.createNamespacedDeployment({ namespace, body });
  await new Promise((resolve, reject) => {
    const watch = new k8s.Watch(config);
    const path = `/apis/apps/v1/namespaces/${namespace}/deployments`;
    let request;
    const event = (_, deployment) => {
      if (deployment.status?.availableReplicas === 1) {
        resolve();
        request?.then((controller) => controller.abort());
      }
    };
    request = watch.watch(path, { timeoutSeconds: 120 }, event, reject);
  });
  const pods = await core.listNamespacedPod({ namespace, labelSelector: "app=hello" });
  assert.equal(pods.items[0].status.phase, "Running");
  await core.readNamespacedPodLog({ name: pods.items[0].metadata.name, namespace });
}

const version = await config.makeApiClient(k8s.VersionApi).getCode();
assert.equal(`${version.major}.${version.minor}`, "1.36");
await objects();
await informer();
await workloads();
await core.deleteNamespace({ name: namespace });
console.log("done");
process.exit(0);
