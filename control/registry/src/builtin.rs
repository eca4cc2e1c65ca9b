//! The table of built-in resources: one row for each, in the order of group and name.
//!
//! A row says how a resource is named, where it is stored and which subresources it has; what its objects must hold is in
//! the strategy's file under `kinds`. Storage prefixes are those that kube-apiserver writes to etcd.
//! Two rows are second versions of a kind: they share its storage, and objects are converted on their way.

use std::sync::Arc;

use wharf_types::k8s::{ClusterResourceScope, NamespaceResourceScope, Resource};
use wharf_types::{Gvk, Gvr};

use crate::convert::{Edit, Mapped};
use crate::kinds;
use crate::row::Subresource::{
    Approval, Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Log, PortForward, Proxy, Resize, Scale,
    Status, Token,
};
use crate::row::{Row, Scope, Subresource};
use crate::{Strategy, Typed};

/// All built-in rows.
#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    vec![
        //  strategy                               short        in `all`    storage                   subresources
        row(kinds::review::Bindings,               &[],         NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::componentstatus::ComponentStatuses, &["cs"], NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::configmap::ConfigMaps,          &["cm"],     NOT_IN_ALL, "configmaps",             &[]),
        row(kinds::endpoints::AllEndpoints,        &["ep"],     NOT_IN_ALL, "services/endpoints",     &[]),
        row(kinds::event::Events,                  &["ev"],     NOT_IN_ALL, "events",                 &[]),
        row(kinds::limitrange::LimitRanges,        &["limits"], NOT_IN_ALL, "limitranges",            &[]),
        row(kinds::namespace::Namespaces,          &["ns"],     NOT_IN_ALL, "namespaces",             &[Finalize, Status]),
        row(kinds::node::Nodes,                    &["no"],     NOT_IN_ALL, "minions",                &[Proxy, Status]),
        row(kinds::pvc::PersistentVolumeClaims,    &["pvc"],    NOT_IN_ALL, "persistentvolumeclaims", &[Status]),
        row(kinds::pv::PersistentVolumes,          &["pv"],     NOT_IN_ALL, "persistentvolumes",      &[Status]),
        row(kinds::pod::Pods,                      &["po"],     IN_ALL,     "pods",                   &[Attach, Binding, EphemeralContainers, Eviction, Exec, Log, PortForward, Proxy, Resize, Status]),
        row(kinds::podtemplate::PodTemplates,      &[],         NOT_IN_ALL, "podtemplates",           &[]),
        row(kinds::rc::ReplicationControllers,     &["rc"],     IN_ALL,     "controllers",            &[Scale, Status]),
        row(kinds::resourcequota::ResourceQuotas,  &["quota"],  NOT_IN_ALL, "resourcequotas",         &[Status]),
        row(kinds::secret::Secrets,                &[],         NOT_IN_ALL, "secrets",                &[]),
        row(kinds::serviceaccount::ServiceAccounts,&["sa"],     NOT_IN_ALL, "serviceaccounts",        &[Token]),
        row(kinds::service::Services,              &["svc"],    IN_ALL,     "services/specs",         &[Proxy, Status]),
        row(kinds::admissionplugin::AdmissionPlugins, &[],      NOT_IN_ALL, "admission.wharf.dev/admissionplugins", &[Status]),
        row(kinds::mutatingpolicy::MutatingPolicies, &[],       API_EXTENSIONS, "mutatingadmissionpolicies", &[]),
        row(kinds::mutatingpolicybinding::MutatingPolicyBindings, &[], API_EXTENSIONS, "mutatingadmissionpolicybindings", &[]),
        row(kinds::mutatingwebhook::MutatingWebhooks, &[],      API_EXTENSIONS, "mutatingwebhookconfigurations", &[]),
        row(kinds::validatingpolicy::ValidatingPolicies, &[],   API_EXTENSIONS, "validatingadmissionpolicies", &[Status]),
        row(kinds::validatingpolicybinding::ValidatingPolicyBindings, &[], API_EXTENSIONS, "validatingadmissionpolicybindings", &[]),
        row(kinds::validatingwebhook::ValidatingWebhooks, &[],  API_EXTENSIONS, "validatingwebhookconfigurations", &[]),
        row(kinds::crd::CustomResourceDefinitions, &["crd", "crds"], API_EXTENSIONS, "apiextensions.k8s.io/customresourcedefinitions", &[Status]),
        row(kinds::apiservice::APIServices,        &[],         API_EXTENSIONS, "apiregistration.k8s.io/apiservices", &[Status]),
        row(kinds::controllerrevision::ControllerRevisions, &[], NOT_IN_ALL, "controllerrevisions",   &[]),
        row(kinds::daemonset::DaemonSets,          &["ds"],     IN_ALL,     "daemonsets",             &[Status]),
        row(kinds::deployment::Deployments,        &["deploy"], IN_ALL,     "deployments",            &[Scale, Status]),
        row(kinds::replicaset::ReplicaSets,        &["rs"],     IN_ALL,     "replicasets",            &[Scale, Status]),
        row(kinds::statefulset::StatefulSets,      &["sts"],    IN_ALL,     "statefulsets",           &[Scale, Status]),
        row(kinds::review::SelfSubjectReviews,     &[],         NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::review::TokenReviews,           &[],         NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::review::LocalSubjectAccessReviews, &[],      NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::review::SelfSubjectAccessReviews, &[],       NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::review::SelfSubjectRulesReviews, &[],        NOT_IN_ALL, VIRTUAL,                  &[]),
        row(kinds::review::SubjectAccessReviews,   &[],         NOT_IN_ALL, VIRTUAL,                  &[]),
        other_version(row(kinds::hpa::v1::HorizontalPodAutoscalersV1, &["hpa"], IN_ALL, "horizontalpodautoscalers", &[Status]), "autoscaling/v2", kinds::hpa::v1::to_v1, kinds::hpa::v1::to_v2),
        row(kinds::hpa::HorizontalPodAutoscalers,  &["hpa"],    IN_ALL,     "horizontalpodautoscalers", &[Status]),
        row(kinds::cronjob::CronJobs,              &["cj"],     IN_ALL,     "cronjobs",               &[Status]),
        row(kinds::job::Jobs,                      &[],         IN_ALL,     "jobs",                   &[Status]),
        row(kinds::csr::CertificateSigningRequests, &["csr"],   NOT_IN_ALL, "certificatesigningrequests", &[Approval, Status]),
        row(kinds::lease::Leases,                  &[],         NOT_IN_ALL, "leases",                 &[]),
        row(kinds::endpointslice::EndpointSlices,  &[],         NOT_IN_ALL, "endpointslices",         &[]),
        other_version(row(kinds::event::newer::NewerEvents, &["ev"], NOT_IN_ALL, "events", &[]), "v1", kinds::event::newer::to_served, kinds::event::newer::to_stored),
        row(kinds::flowschema::FlowSchemas,        &[],         NOT_IN_ALL, "flowschemas",            &[Status]),
        row(kinds::prioritylevel::PriorityLevelConfigurations, &[], NOT_IN_ALL, "prioritylevelconfigurations", &[Status]),
        row(kinds::ingressclass::IngressClasses,   &[],         NOT_IN_ALL, "ingressclasses",         &[]),
        row(kinds::ingress::Ingresses,             &["ing"],    NOT_IN_ALL, "ingress",                &[Status]),
        row(kinds::ipaddress::IPAddresses,         &["ip"],     NOT_IN_ALL, "ipaddresses",            &[]),
        row(kinds::networkpolicy::NetworkPolicies, &["netpol"], NOT_IN_ALL, "networkpolicies",        &[]),
        row(kinds::servicecidr::ServiceCIDRs,      &[],         NOT_IN_ALL, "servicecidrs",           &[Status]),
        row(kinds::runtimeclass::RuntimeClasses,   &[],         NOT_IN_ALL, "runtimeclasses",         &[]),
        row(kinds::pdb::PodDisruptionBudgets,      &["pdb"],    NOT_IN_ALL, "poddisruptionbudgets",   &[Status]),
        row(kinds::clusterrolebinding::ClusterRoleBindings, &[], NOT_IN_ALL, "clusterrolebindings",   &[]),
        row(kinds::clusterrole::ClusterRoles,      &[],         NOT_IN_ALL, "clusterroles",           &[]),
        row(kinds::rolebinding::RoleBindings,      &[],         NOT_IN_ALL, "rolebindings",           &[]),
        row(kinds::role::Roles,                    &[],         NOT_IN_ALL, "roles",                  &[]),
        row(kinds::dra::class::DeviceClasses,      &[],         NOT_IN_ALL, "deviceclasses",          &[]),
        row(kinds::dra::claim::ResourceClaims,     &[],         NOT_IN_ALL, "resourceclaims",         &[Status]),
        row(kinds::dra::template::ResourceClaimTemplates, &[],  NOT_IN_ALL, "resourceclaimtemplates", &[]),
        row(kinds::dra::slice::ResourceSlices,     &[],         NOT_IN_ALL, "resourceslices",         &[]),
        row(kinds::priorityclass::PriorityClasses, &["pc"],     NOT_IN_ALL, "priorityclasses",        &[]),
        row(kinds::csidriver::CSIDrivers,          &[],         NOT_IN_ALL, "csidrivers",             &[]),
        row(kinds::csinode::CSINodes,              &[],         NOT_IN_ALL, "csinodes",               &[]),
        row(kinds::csistoragecapacity::CSIStorageCapacities, &[], NOT_IN_ALL, "csistoragecapacities", &[]),
        row(kinds::storageclass::StorageClasses,   &["sc"],     NOT_IN_ALL, "storageclasses",         &[]),
        row(kinds::volumeattachment::VolumeAttachments, &[],    NOT_IN_ALL, "volumeattachments",      &[Status]),
        row(kinds::volumeattributesclass::VolumeAttributesClasses, &["vac"], NOT_IN_ALL, "volumeattributesclasses", &[]),
    ]
}

/// The category that `kubectl get all` asks for.
const IN_ALL: &[&str] = &["all"];
const NOT_IN_ALL: &[&str] = &[];
/// In place of storage, for what is answered and not stored.
const VIRTUAL: &str = "";
/// What extends the API.
const API_EXTENSIONS: &[&str] = &["api-extensions"];

/// Where the objects of a kind live, as its Rust type says.
trait Lives {
    const SCOPE: Scope;
}

impl Lives for ClusterResourceScope {
    const SCOPE: Scope = Scope::Cluster;
}

impl Lives for NamespaceResourceScope {
    const SCOPE: Scope = Scope::Namespaced;
}

/// Tells the versions of a storage prefix apart; there are never more than two here.
const OTHER_VERSION: u8 = 1;

/// A row whose objects are stored in another version.
fn other_version(row: Row, stored: &'static str, to_served: Edit, to_stored: Edit) -> Row {
    let served = row.gvk.group_version().to_string();
    Row { convert: Some(Arc::new(Mapped::new(OTHER_VERSION, served, stored, to_served, to_stored))), ..row }
}

/// Group, version, kind, resource and scope are those of the object's type; the rest is told here.
fn row<S: Strategy>(
    strategy: S,
    short: &[&str],
    categories: &[&str],
    storage: &str,
    subresources: &[Subresource],
) -> Row
where
    <S::Object as Resource>::Scope: Lives,
{
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let gvk = Gvk::of::<S::Object>();
    let resource = S::Object::URL_PATH_SEGMENT.into();
    Row {
        gvr: Gvr { group: gvk.group.clone(), version: gvk.version.clone(), resource },
        list_kind: format!("{}List", S::Object::KIND),
        singular: S::Object::KIND.to_lowercase(),
        short_names: owned(short),
        categories: owned(categories),
        scope: <S::Object as Resource>::Scope::SCOPE,
        storage: storage.to_owned(),
        subresources: subresources.to_vec(),
        kind: Arc::new(Typed(strategy)),
        convert: None,
        gvk,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_are_sorted_and_nothing_stands_twice() {
        let rows = rows();
        assert!(rows.is_sorted_by(|a, b| a.gvr < b.gvr));
        let mut words = BTreeSet::new();
        // Rows that are another version of a stored kind share its names and its prefix.
        let stored: Vec<&Row> = rows.iter().filter(|row| row.convert.is_none() && !row.is_virtual()).collect();
        for row in &stored {
            // What kubectl may be told must mean one resource; a resource may be named as its kind is.
            let mut own: BTreeSet<String> = row.short_names.iter().cloned().collect();
            own.extend([row.gvr.resource.to_string(), row.singular.clone()]);
            for word in own {
                assert!(words.insert(word.clone()), "{word}");
            }
        }
        let prefixes: BTreeSet<String> = stored.iter().map(|row| row.prefix()).collect();
        assert_eq!(prefixes.len(), stored.len());
        for (a, b) in prefixes.iter().zip(prefixes.iter().skip(1)) {
            assert!(!b.starts_with(a), "{a} holds {b}");
        }
    }

    #[test]
    fn rows_are_named_as_upstream_names_them() {
        let table = crate::Table::new(rows());
        let names = |group: &str, version: &str, resource: &str| {
            let row = table.find(group, version, resource).unwrap();
            let subresources: Vec<&str> = row.subresources.iter().map(|subresource| subresource.name()).collect();
            format!("{} {} {} {}", row.gvk.kind, row.list_kind, row.key(Some("ns"), "a"), subresources.join(","))
        };
        assert_eq!(names("", "v1", "nodes"), "Node NodeList /registry/minions/a proxy,status");
        assert_eq!(names("", "v1", "services"), "Service ServiceList /registry/services/specs/ns/a proxy,status");
        assert_eq!(names("", "v1", "endpoints"), "Endpoints EndpointsList /registry/services/endpoints/ns/a ");
        assert_eq!(
            names("apps", "v1", "deployments"),
            "Deployment DeploymentList /registry/deployments/ns/a scale,status"
        );
        assert_eq!(names("batch", "v1", "jobs"), "Job JobList /registry/jobs/ns/a status");
        assert_eq!(names("coordination.k8s.io", "v1", "leases"), "Lease LeaseList /registry/leases/ns/a ");
    }

    /// The whole way of a bare object through a row: read, defaults, preparation, bytes, and back.
    #[test]
    fn every_row_carries_an_object_there_and_back() {
        let now = "2024-05-01T12:00:00Z".parse().unwrap();
        for row in rows() {
            let name = &row.gvk.kind;
            let body = json!({
                "apiVersion": row.gvk.group_version().to_string(), "kind": name,
                "metadata": {"name": "a", "uid": "u"}, "oddity": {"deep": 1},
            });
            let mut unknown = Vec::new();
            let mut object = row.kind.decode(&body, &mut |field| unknown.push(field)).unwrap();
            assert_eq!(unknown, ["oddity"], "{name}");
            row.kind.default(&mut *object);
            row.kind.prepare_for_create(&mut *object);
            let once = object.to_vec();
            row.kind.default(&mut *object);
            let twice = object.to_vec();
            assert_eq!(String::from_utf8(twice), String::from_utf8(once.clone()), "{name}: defaults are idempotent");
            let back = row.kind.decode_stored(&once).unwrap();
            assert!(back.same(&*object), "{name}");
            let written: Value = serde_json::from_slice(&once).unwrap();
            assert_eq!(written["kind"], name.as_ref());
            assert_eq!(written["apiVersion"], row.gvk.group_version().to_string());
            let mut again = back.clone_box();
            row.kind.prepare_for_update(&mut *again, &*back);
            assert!(again.same(&*back), "{name}: an update that changes nothing changes nothing");
            assert!(row.kind.validate_update(&*again, &*back).is_empty(), "{name}");
            assert_eq!(row.kind.cells(&once, now).unwrap().len(), row.kind.columns().len(), "{name}");
            let fields: Vec<_> = row.kind.fields(&*back).into_iter().map(|(field, _)| field).collect();
            assert_eq!(fields, row.kind.field_names(), "{name}");
            let scalable = row.has(Scale);
            assert_eq!(row.kind.scale(&*back).is_some(), scalable, "{name}");
            let own = row.gvr.group.ends_with(".wharf.dev");
            assert!(row.kind.schema_name().starts_with(if own { "dev.wharf." } else { "io.k8s." }), "{name}");
        }
    }

    #[test]
    fn zeroes_and_amounts_are_read_as_upstream_reads_them() {
        let table = crate::Table::new(rows());
        let row = table.find("", "v1", "pods").unwrap();
        let body = json!({"spec": {"hostNetwork": false, "colour": "", "containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5}}}]}});
        let mut unknown = Vec::new();
        let pod = row.kind.decode(&body, &mut |field| unknown.push(field)).unwrap();
        assert_eq!(unknown, ["spec.colour"]);
        let written: Value = serde_json::from_slice(&pod.to_vec()).unwrap();
        assert_eq!(written["spec"], json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m"}}}]}));
        let bad = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}});
        let error = row.kind.decode(&bad, &mut |_| {}).err().unwrap();
        assert!(error.to_string().starts_with("quantities must match the regular expression"), "{error}");
    }
}
