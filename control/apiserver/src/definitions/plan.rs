//! What a definition's status should say. Pure: same definitions and time, same status.
//!
//! Source: `status/naming_controller.go`, `establish/establishing_controller.go`, `apiapproval/apiapproval_controller.go`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wharf_registry::definitions as rules;
use wharf_types::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
};

/// The definition with the status that it should have beside these others.
pub fn status<'a>(
    crd: &CustomResourceDefinition,
    others: impl Iterator<Item = &'a CustomResourceDefinition>,
    now: Timestamp,
) -> CustomResourceDefinition {
    let mut wanted = crd.clone();
    let taken = Taken::by(others.filter(|other| other.spec.group == crd.spec.group));
    let held = crd.status.as_ref().and_then(|status| status.accepted_names.clone()).unwrap_or_default();
    let (accepted, conflict) = accept(&crd.spec.names, held, &taken);
    wanted.status.get_or_insert_default().accepted_names = Some(accepted);
    let is_fine = conflict.is_none();
    let names = match conflict {
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => condition("NamesAccepted", false, reason, &message),
    };
    rules::set_condition(&mut wanted, names, now);
    if !rules::has_condition(&wanted, "Established") {
        let established = if is_fine {
            condition_of_established(true, "InitialNamesAccepted", "the initial names have been accepted")
        } else {
            condition_of_established(false, "NotAccepted", "not all names are accepted")
        };
        rules::set_condition(&mut wanted, established, now);
    }
    if let Some(approval) = approval(crd) {
        rules::set_condition(&mut wanted, approval, now);
    }
    if crd.metadata.deletion_timestamp.is_some() && !is_cleaned_up(&wanted) {
        let why = "CustomResource deletion is in progress";
        rules::set_condition(&mut wanted, condition("Terminating", true, "InstanceDeletionInProgress", why), now);
    }
    wanted
}

/// The end of the objects; what comes after it is the end of the definition.
const COMPLETED: &str = "InstanceDeletionCompleted";

fn is_cleaned_up(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|held| held.type_ == "Terminating" && held.reason.as_deref() == Some(COMPLETED))
}

/// The condition of a definition whose objects are gone.
pub fn cleaned_up() -> CustomResourceDefinitionCondition {
    condition("Terminating", false, COMPLETED, "removed all instances")
}

fn condition(kind: &str, is: bool, reason: &str, message: &str) -> CustomResourceDefinitionCondition {
    CustomResourceDefinitionCondition {
        type_: kind.to_owned(),
        status: if is { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CustomResourceDefinitionCondition::default()
    }
}

fn condition_of_established(is: bool, reason: &str, message: &str) -> CustomResourceDefinitionCondition {
    condition("Established", is, reason, message)
}

/// Names that other definitions of the group have been granted.
#[derive(Default)]
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn by<'a>(others: impl Iterator<Item = &'a CustomResourceDefinition>) -> Self {
        let mut taken = Self::default();
        for other in others {
            let Some(names) = other.status.as_ref().and_then(|status| status.accepted_names.as_ref()) else { continue };
            let words = [Some(names.plural.clone()), names.singular.clone()].into_iter().flatten();
            taken.resources.extend(words.chain(names.short_names.iter().flatten().cloned()));
            taken.kinds.extend([Some(names.kind.clone()), names.list_kind.clone()].into_iter().flatten());
        }
        taken.resources.remove("");
        taken.kinds.remove("");
        taken
    }
}

/// The names that are granted, and the last conflict, as upstream tells it.
fn accept(
    asked: &CustomResourceDefinitionNames,
    held: CustomResourceDefinitionNames,
    taken: &Taken,
) -> (CustomResourceDefinitionNames, Option<(&'static str, String)>) {
    let mut accepted = held.clone();
    let mut conflict = None;
    let in_use = |name: &str, held: &str, taken: &BTreeSet<String>| {
        (name != held && taken.contains(name)).then(|| format!("{name:?} is already in use"))
    };
    match in_use(&asked.plural, &held.plural, &taken.resources) {
        Some(why) => conflict = Some(("PluralConflict", why)),
        None => accepted.plural = asked.plural.clone(),
    }
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    match in_use(&text(&asked.singular), &text(&held.singular), &taken.resources) {
        Some(why) => conflict = Some(("SingularConflict", why)),
        None => accepted.singular = asked.singular.clone(),
    }
    let held_short = held.short_names.clone().unwrap_or_default();
    let clashes: Vec<String> = asked
        .short_names
        .iter()
        .flatten()
        .filter(|name| !held_short.contains(name) && taken.resources.contains(*name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    if clashes.is_empty() {
        accepted.short_names = asked.short_names.clone();
    } else {
        let all = if clashes.len() == 1 { clashes[0].clone() } else { format!("[{}]", clashes.join(", ")) };
        conflict = Some(("ShortNamesConflict", all));
    }
    match in_use(&asked.kind, &held.kind, &taken.kinds) {
        Some(why) => conflict = Some(("KindConflict", why)),
        None => accepted.kind = asked.kind.clone(),
    }
    match in_use(&text(&asked.list_kind), &text(&held.list_kind), &taken.kinds) {
        Some(why) => conflict = Some(("ListKindConflict", why)),
        None => accepted.list_kind = asked.list_kind.clone(),
    }
    accepted.categories = asked.categories.clone();
    (accepted, conflict)
}

const APPROVAL: &str = "api-approved.kubernetes.io";

fn approval(crd: &CustomResourceDefinition) -> Option<CustomResourceDefinitionCondition> {
    if !rules::is_protected(&crd.spec.group) {
        return None;
    }
    let text = crd.metadata.annotations.as_ref().and_then(|held| held.get(APPROVAL)).map(String::as_str);
    let kind = "KubernetesAPIApprovalPolicyConformant";
    Some(match text {
        None | Some("") => condition(
            kind,
            false,
            "MissingAnnotation",
            &format!(
                "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        ),
        Some(text) if text.starts_with("unapproved") => {
            condition(kind, false, "UnapprovedAnnotation", &format!("not approved: {text:?}"))
        }
        Some(url) => condition(kind, true, "ApprovedAnnotation", &format!("approved in {url}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn crd(plural: &str, kind: &str, accepted: bool) -> CustomResourceDefinition {
        let names = json!({"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List"), "shortNames": ["x"]});
        serde_json::from_value(json!({
            "metadata": {"name": format!("{plural}.a.b")},
            "spec": {"group": "a.b", "names": names, "scope": "Cluster", "versions": []},
            "status": if accepted { json!({"acceptedNames": names}) } else { json!({}) },
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(own: &CustomResourceDefinition, others: &[CustomResourceDefinition], expected: &[&str]) {
        let planned = status(own, others.iter(), Timestamp::UNIX_EPOCH);
        let conditions = planned.status.clone().unwrap().conditions.unwrap();
        let shown: Vec<String> = conditions
            .iter()
            .map(|held| {
                format!(
                    "{}={} {}: {}",
                    held.type_,
                    held.status,
                    held.reason.clone().unwrap(),
                    held.message.clone().unwrap()
                )
            })
            .collect();
        assert_eq!(shown, expected);
        assert_eq!(status(&planned, others.iter(), Timestamp::UNIX_EPOCH), planned, "a plan carried out is the plan");
    }

    #[test]
    fn names_are_granted_to_who_comes_first() {
        let fine = [
            "NamesAccepted=True NoConflicts: no conflicts found",
            "Established=True InitialNamesAccepted: the initial names have been accepted",
        ];
        check(&crd("things", "Thing", false), &[], &fine);
        check(&crd("things", "Thing", false), &[crd("others", "Other", false)], &fine);
        check(
            &crd("things", "Thing", false),
            &[crd("others", "Other", true)],
            &[
                "NamesAccepted=False ShortNamesConflict: \"x\" is already in use",
                "Established=False NotAccepted: not all names are accepted",
            ],
        );
        // What was granted stays granted.
        check(&crd("things", "Thing", true), &[crd("others", "Other", true)], &fine);
    }
}
