//! Custom resources, as a user of kubectl meets them.

use wharf_test_support::Cluster;

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec, description: When it runs}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    schema:
      openAPIV3Schema:
        type: object
        description: A CronTab runs what it is told.
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: 'self.replicas <= 5', message: five are enough}
            properties:
              cronSpec: {type: string, description: When it runs., pattern: '^[0-9* ]+$'}
              replicas: {type: integer, default: 1, minimum: 0}
          status: {type: object, properties: {phase: {type: string}}}
";

fn cron(name: &str, spec: &str) -> String {
    format!("{{apiVersion: stable.example.com/v1, kind: CronTab, metadata: {{name: {name}}}, spec: {spec}}}")
}

#[tokio::test]
async fn a_custom_resource_lives_as_kubectl_expects() {
    let cluster = Cluster::with_images(&[]).await;
    cluster.kubectl_with(&["apply", "-f", "-"], DEFINITION).await.success();
    let crd = "crd/crontabs.stable.example.com";
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=60s", crd]).await.success();
    cluster.kubectl_with(&["apply", "-f", "-"], &cron("first", "{cronSpec: '* * 5'}")).await.success();

    let listed = cluster.kubectl(&["get", "ct"]).await.success();
    let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "SPEC", "REPLICAS"]);
    assert_eq!(words[1], ["first", "*", "*", "5", "1"]);
    assert!(cluster.kubectl(&["get", "all"]).await.success().contains("crontab.stable.example.com/first"));
    let explained = cluster.kubectl(&["explain", "crontab.spec.cronSpec"]).await.success();
    assert!(explained.contains("When it runs.") && explained.contains("<string>"), "{explained}");

    let unknown =
        cluster.kubectl_with(&["create", "-f", "-"], &cron("second", "{cronSpec: '*', what: 1}")).await.failure();
    assert!(unknown.contains("unknown field \"spec.what\""), "{unknown}");
    for (spec, cause) in [
        ("{replicas: 2}", "spec.cronSpec: Required value"),
        (
            "{cronSpec: never}",
            "spec.cronSpec: Invalid value: \"never\": spec.cronSpec in body should match '^[0-9* ]+$'",
        ),
        (
            "{cronSpec: '*', replicas: many}",
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer",
        ),
        ("{cronSpec: '*', replicas: 6}", "spec: Invalid value: \"object\": five are enough"),
    ] {
        let said = cluster.kubectl_with(&["create", "-f", "-"], &cron("second", spec)).await.failure();
        assert!(said.contains(cause), "{spec}\nshould be refused with {cause:?}, and was with: {said}");
    }

    cluster.kubectl_with(&["apply", "-f", "-"], &cron("first", "{cronSpec: '* * 6', replicas: 3}")).await.success();
    let path = "jsonpath={.spec.cronSpec}/{.spec.replicas}/{.metadata.generation}";
    assert_eq!(cluster.kubectl(&["get", "crontab", "first", "-o", path]).await.success(), "* * 6/3/2");
    let patch =
        ["patch", "ct", "first", "--type=merge", "--subresource=status", "-p", "{\"status\":{\"phase\":\"Done\"}}"];
    cluster.kubectl(&patch).await.success();
    assert_eq!(cluster.kubectl(&["get", "ct", "first", "-o", "jsonpath={.status.phase}"]).await.success(), "Done");

    cluster.kubectl(&["delete", crd, "--timeout=60s"]).await.success();
    // kubectl keeps what it has discovered for some minutes; with an empty cache it asks.
    let cache = format!("--cache-dir={}", cluster.home().join("empty").display());
    let gone = cluster.kubectl(&["get", "ct", &cache]).await.failure();
    assert!(gone.contains("the server doesn't have a resource type \"ct\""), "{gone}");
}

#[tokio::test]
async fn custom_resources_outlive_their_server() {
    let mut cluster = Cluster::with_images(&[]).await;
    cluster.kubectl_with(&["apply", "-f", "-"], DEFINITION).await.success();
    let crd = "crd/crontabs.stable.example.com";
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=60s", crd]).await.success();
    cluster.kubectl_with(&["create", "-f", "-"], &cron("first", "{cronSpec: '*'}")).await.success();
    cluster.kill().await;
    cluster.restart().await.expect("it starts again");
    assert_eq!(cluster.kubectl(&["get", "ct", "first", "-o", "jsonpath={.spec.replicas}"]).await.success(), "1");
}
