//! Priority and fairness: the objects that every cluster has, and what FlowSchema and PriorityLevelConfiguration share.
//!
//! Source: `k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`, `pkg/apis/flowcontrol/{v1,validation}`. Mandatory objects have a
//! spec that nobody changes; suggested ones are what most clusters want, and theirs to change.

use wharf_types::k8s::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, FlowDistinguisherMethod, FlowSchema, FlowSchemaSpec, GroupSubject, LimitResponse,
    LimitedPriorityLevelConfiguration, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    PriorityLevelConfigurationReference, PriorityLevelConfigurationSpec, QueuingConfiguration, ResourcePolicyRule,
    ServiceAccountSubject, Subject, UserSubject,
};
use wharf_types::meta::ObjectMeta;

/// Tells whether the server keeps the spec of one of its suggestions as it suggests it: `true` or `false`.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

const ALL: &str = "*";
const BY_USER: &str = "ByUser";
const BY_NAMESPACE: &str = "ByNamespace";
const EVERYONE: &[Who] = &[Who::Group("system:unauthenticated"), Who::Group("system:authenticated")];
const CONTROLLERS: Who = Who::User("system:kube-controller-manager");
const SCHEDULER: Who = Who::User("system:kube-scheduler");
const KUBE_SYSTEM: Who = Who::SystemAccount(ALL);

#[derive(Clone, Copy)]
enum Who {
    Group(&'static str),
    User(&'static str),
    /// A service account in `kube-system`.
    SystemAccount(&'static str),
}

#[derive(Clone, Copy)]
enum What {
    Everything,
    /// Verbs, group, resources, and whether objects without a namespace count.
    Resources(&'static [(&'static [&'static str], &'static str, &'static [&'static str], bool)]),
    Paths(&'static [&'static str]),
}

/// Shares, percent that may be lent, and queues, hand size and queue length (none: requests in excess are refused).
type Level = (&'static str, i32, i32, Option<(i32, i32, i32)>);
type Schema = (&'static str, &'static str, i32, Option<&'static str>, &'static [Who], What);

const LOCKS: &[&str] = &["get", "create", "update"];
const LEASES: What = What::Resources(&[(LOCKS, "coordination.k8s.io", &["leases"], false)]);

const MANDATORY_LEVELS: &[Level] = &[("catch-all", 5, 0, None)];
#[rustfmt::skip]
const SUGGESTED_LEVELS: &[Level] = &[
    ("system",           30, 33, Some((64, 6, 50))),
    ("node-high",        40, 25, Some((64, 6, 50))),
    ("leader-election",  10, 0,  Some((16, 4, 50))),
    ("workload-high",    40, 50, Some((128, 6, 50))),
    ("workload-low",    100, 90, Some((128, 6, 50))),
    ("global-default",   20, 50, Some((128, 6, 50))),
];
#[rustfmt::skip]
const MANDATORY_SCHEMAS: &[Schema] = &[
    ("exempt",    "exempt",    1,      None,          &[Who::Group("system:masters")], What::Everything),
    ("catch-all", "catch-all", 10_000, Some(BY_USER), EVERYONE,                        What::Everything),
];
#[rustfmt::skip]
const SUGGESTED_SCHEMAS: &[Schema] = &[
    ("system-nodes",             "system",          500, Some(BY_USER), &[Who::Group("system:nodes")], What::Everything),
    ("system-node-high",         "node-high",       400, Some(BY_USER), &[Who::Group("system:nodes")],
        What::Resources(&[(&[ALL], "", &["nodes", "nodes/status"], true), (&[ALL], "coordination.k8s.io", &["leases"], false)])),
    ("probes",                   "exempt",          2,   None,          EVERYONE, What::Paths(&["/healthz", "/readyz", "/livez"])),
    ("system-leader-election",   "leader-election", 100, Some(BY_USER), &[CONTROLLERS, SCHEDULER, KUBE_SYSTEM], LEASES),
    ("endpoint-controller",      "workload-high",   150, Some(BY_USER),
        &[CONTROLLERS, Who::SystemAccount("endpoint-controller"), Who::SystemAccount("endpointslicemirroring-controller")],
        What::Resources(&[(LOCKS, "", &["endpoints"], false)])),
    ("workload-leader-election", "leader-election", 200, Some(BY_USER), &[KUBE_SYSTEM], LEASES),
    ("kube-controller-manager",  "workload-high",   800, Some(BY_NAMESPACE), &[CONTROLLERS], What::Everything),
    ("kube-scheduler",           "workload-high",   800, Some(BY_NAMESPACE), &[SCHEDULER], What::Everything),
    ("kube-system-service-accounts", "workload-high", 900, Some(BY_NAMESPACE), &[KUBE_SYSTEM], What::Everything),
    ("service-accounts",         "workload-low",    9000, Some(BY_USER), &[Who::Group("system:serviceaccounts")], What::Everything),
    ("global-default",           "global-default",  9900, Some(BY_USER), EVERYONE, What::Everything),
];

pub fn mandatory_levels() -> Vec<PriorityLevelConfiguration> {
    let exempt = ExemptPriorityLevelConfiguration { nominal_concurrency_shares: Some(0), lendable_percent: Some(0) };
    let exempt =
        PriorityLevelConfigurationSpec { type_: "Exempt".to_owned(), exempt: Some(exempt), ..Default::default() };
    let exempt = PriorityLevelConfiguration { metadata: meta("exempt"), spec: Some(exempt), ..Default::default() };
    MANDATORY_LEVELS.iter().map(level).chain([exempt]).collect()
}

pub fn suggested_levels() -> Vec<PriorityLevelConfiguration> {
    SUGGESTED_LEVELS.iter().map(level).collect()
}

pub fn mandatory_schemas() -> Vec<FlowSchema> {
    MANDATORY_SCHEMAS.iter().map(schema).collect()
}

pub fn suggested_schemas() -> Vec<FlowSchema> {
    SUGGESTED_SCHEMAS.iter().map(schema).collect()
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        annotations: Some([(AUTO_UPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn level((name, shares, lendable, queues): &Level) -> PriorityLevelConfiguration {
    let queuing = queues.map(|(queues, hand_size, length)| QueuingConfiguration {
        queues: Some(queues),
        hand_size: Some(hand_size),
        queue_length_limit: Some(length),
    });
    let response = if queuing.is_some() { "Queue" } else { "Reject" };
    let limited = LimitedPriorityLevelConfiguration {
        nominal_concurrency_shares: Some(*shares),
        lendable_percent: Some(*lendable),
        limit_response: Some(LimitResponse { type_: response.to_owned(), queuing }),
        borrowing_limit_percent: None,
    };
    let spec = PriorityLevelConfigurationSpec { type_: "Limited".to_owned(), limited: Some(limited), exempt: None };
    PriorityLevelConfiguration { metadata: meta(name), spec: Some(spec), ..Default::default() }
}

fn schema((name, level, precedence, method, who, what): &Schema) -> FlowSchema {
    let mut rules = PolicyRulesWithSubjects {
        subjects: who.iter().map(|who| who.subject()).collect(),
        ..PolicyRulesWithSubjects::default()
    };
    match what {
        What::Everything => {
            rules.resource_rules = Some(vec![resources(&[ALL], ALL, &[ALL], true)]);
            rules.non_resource_rules = Some(vec![paths(&[ALL], &[ALL])]);
        }
        What::Resources(all) => {
            let all = all.iter().map(|(verbs, group, names, cluster)| resources(verbs, group, names, *cluster));
            rules.resource_rules = Some(all.collect());
        }
        What::Paths(all) => rules.non_resource_rules = Some(vec![paths(&["get"], all)]),
    }
    let spec = FlowSchemaSpec {
        priority_level_configuration: PriorityLevelConfigurationReference { name: (*level).to_owned() },
        matching_precedence: Some(*precedence),
        distinguisher_method: method.map(|method| FlowDistinguisherMethod { type_: method.to_owned() }),
        rules: Some(vec![rules]),
    };
    FlowSchema { metadata: meta(name), spec: Some(spec), ..FlowSchema::default() }
}

impl Who {
    fn subject(self) -> Subject {
        match self {
            Who::Group(name) => Subject {
                kind: "Group".to_owned(),
                group: Some(GroupSubject { name: name.to_owned() }),
                ..Subject::default()
            },
            Who::User(name) => Subject {
                kind: "User".to_owned(),
                user: Some(UserSubject { name: name.to_owned() }),
                ..Subject::default()
            },
            Who::SystemAccount(name) => {
                let account = ServiceAccountSubject { namespace: "kube-system".to_owned(), name: name.to_owned() };
                Subject { kind: "ServiceAccount".to_owned(), service_account: Some(account), ..Subject::default() }
            }
        }
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool) -> ResourcePolicyRule {
    ResourcePolicyRule {
        verbs: owned(verbs),
        api_groups: owned(&[group]),
        resources: owned(resources),
        namespaces: Some(owned(&[ALL])),
        cluster_scope: cluster_scope.then_some(true),
    }
}

fn paths(verbs: &[&str], paths: &[&str]) -> NonResourcePolicyRule {
    NonResourcePolicyRule { verbs: owned(verbs), non_resource_urls: owned(paths) }
}
