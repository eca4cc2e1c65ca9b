//! PriorityLevelConfigurations: how many requests of one priority are served at once, and how the others wait.
//!
//! Source: `pkg/apis/flowcontrol/{v1,validation}`, `pkg/registry/flowcontrol/prioritylevelconfiguration`,
//! `k8s.io/apiserver/pkg/util/shufflesharding`.

use jiff::Timestamp;
use serde_json::Value;
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, PriorityLevelConfigurationStatus, QueuingConfiguration,
};

use super::flowschema::validate_condition_types;
use super::{NONE, created, name};
use crate::checks;
use crate::flowcontrol::mandatory_levels;
use crate::strategy::{AGE, Column, NAME, Strategy};

#[derive(Debug)]
pub struct PriorityLevelConfigurations;

const EXEMPT: &str = "Exempt";
const LIMITED: &str = "Limited";
const RESPONSES: &[&str] = &["Queue", "Reject"];
const SHARES: i32 = 30;
const QUEUES: i32 = 64;
const HAND_SIZE: i32 = 8;
const QUEUE_LENGTH: i32 = 50;
const QUEUES_MAX: i32 = 10_000_000;
/// Bits of a hash that a hand of queues is dealt with.
const HASH_BITS_MAX: u32 = 60;
const NOT_NEGATIVE: &str = "must be a non-negative integer";

impl Strategy for PriorityLevelConfigurations {
    type Object = PriorityLevelConfiguration;

    fn default(&self, level: &mut PriorityLevelConfiguration) {
        let spec = level.spec.get_or_insert_default();
        if spec.type_ == EXEMPT {
            let exempt = spec.exempt.get_or_insert_default();
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        if let Some(limited) = &mut spec.limited {
            limited.nominal_concurrency_shares.get_or_insert(SHARES);
            limited.lendable_percent.get_or_insert(0);
            if let Some(queuing) = limited.limit_response.as_mut().and_then(|response| response.queuing.as_mut()) {
                for (field, value) in [
                    (&mut queuing.queues, QUEUES),
                    (&mut queuing.hand_size, HAND_SIZE),
                    (&mut queuing.queue_length_limit, QUEUE_LENGTH),
                ] {
                    if field.is_none_or(|given| given == 0) {
                        *field = Some(value);
                    }
                }
            }
        }
    }

    fn prepare_for_create(&self, level: &mut PriorityLevelConfiguration) {
        level.status = Some(PriorityLevelConfigurationStatus::default());
        level.metadata.generation = Some(1);
    }

    fn prepare_for_update(&self, level: &mut PriorityLevelConfiguration, old: &PriorityLevelConfiguration) {
        level.status.clone_from(&old.status);
        let changed = level.spec != old.spec;
        super::generation(&mut level.metadata, &old.metadata, changed);
    }

    fn prepare_for_status_update(&self, level: &mut PriorityLevelConfiguration, old: &PriorityLevelConfiguration) {
        level.spec.clone_from(&old.spec);
        super::keep_meta(&mut level.metadata, &old.metadata);
    }

    fn validate(&self, level: &PriorityLevelConfiguration) -> Errors {
        let (empty, path) = (PriorityLevelConfigurationSpec::default(), Path::new("spec"));
        let spec = level.spec.as_ref().unwrap_or(&empty);
        let own = level.metadata.name.as_deref().unwrap_or_default();
        let mut errors = validate_spec(own, spec, &path);
        let fixed = mandatory_levels().into_iter().find(|fixed| fixed.metadata.name == level.metadata.name);
        if fixed.is_some_and(|fixed| !allowed(own, spec, fixed.spec.as_ref())) {
            let why = format!("spec of '{own}' must equal the fixed value");
            errors.push(Error::invalid(&path, checks::json(spec), why));
        }
        errors.extend(validate_status(level));
        errors
    }

    fn validate_status_update(&self, new: &PriorityLevelConfiguration, _old: &PriorityLevelConfiguration) -> Errors {
        validate_status(new)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column::new(
                "Type",
                "string",
                "`type` indicates whether this priority level is subject to limitation on request execution.  A value of `\"Exempt\"` means that requests of this priority level are not subject to a limit (and thus are never queued) and do not detract from the capacity made available to other priority levels.  A value of `\"Limited\"` means that (a) requests of this priority level _are_ subject to limits and (b) some of the server's limited capacity is made available exclusively to this priority level. Required.",
            ),
            Column::new(
                "NominalConcurrencyShares",
                "string",
                "`nominalConcurrencyShares` (NCS) contributes to the computation of the NominalConcurrencyLimit (NominalCL) of this level. This is the number of execution seats available at this priority level. This is used both for requests dispatched from this priority level as well as requests dispatched from other priority levels borrowing seats from this level. The server's concurrency limit (ServerCL) is divided among the Limited priority levels in proportion to their NCS values:\n\nNominalCL(i)  = ceil( ServerCL * NCS(i) / sum_ncs ) sum_ncs = sum[priority level k] NCS(k)\n\nBigger numbers mean a larger nominal concurrency limit, at the expense of every other priority level.\n\nIf not specified, this field defaults to a value of 30.\n\nSetting this field to zero supports the construction of a \"jail\" for this priority level that is used to hold some request(s)",
            ),
            Column::new(
                "Queues",
                "string",
                "`queues` is the number of queues for this priority level. The queues exist independently at each apiserver. The value must be positive.  Setting it to 1 effectively precludes shufflesharding and thus makes the distinguisher method of associated flow schemas irrelevant.  This field has a default value of 64.",
            ),
            Column::new(
                "HandSize",
                "string",
                "`handSize` is a small positive number that configures the shuffle sharding of requests into queues.  When enqueuing a request at this priority level the request's flow identifier (a string pair) is hashed and the hash value is used to shuffle the list of queues and deal a hand of the size specified here.  The request is put into one of the shortest queues in that hand. `handSize` must be no larger than `queues`, and should be significantly smaller (so that a few heavy flows do not saturate most of the queues).  See the user-facing documentation for more extensive guidance on setting this field.  This field has a default value of 8.",
            ),
            Column::new(
                "QueueLengthLimit",
                "string",
                "`queueLengthLimit` is the maximum number of requests allowed to be waiting in a given queue of this priority level at a time; excess requests are rejected.  This value must be positive.  If not specified, it will be defaulted to 50.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let spec = level.spec.clone().unwrap_or_default();
        let limited = spec.limited.as_ref();
        let queuing = limited.and_then(|limited| limited.limit_response.as_ref()?.queuing.as_ref());
        let number = |number: Option<i32>| number.map_or_else(|| NONE.into(), Value::from);
        vec![
            name(&level.metadata),
            spec.type_.clone().into(),
            number(limited.and_then(|limited| limited.nominal_concurrency_shares)),
            number(queuing.and_then(|queuing| queuing.queues)),
            number(queuing.and_then(|queuing| queuing.hand_size)),
            number(queuing.and_then(|queuing| queuing.queue_length_limit)),
            created(&level.metadata, now),
        ]
    }
}

/// A mandatory level is as it is, but for the shares of the exempt one.
fn allowed(own: &str, spec: &PriorityLevelConfigurationSpec, fixed: Option<&PriorityLevelConfigurationSpec>) -> bool {
    let Some(fixed) = fixed else { return true };
    let mut fixed = fixed.clone();
    if own == "exempt" {
        fixed.exempt.clone_from(&spec.exempt);
    }
    *spec == fixed
}

fn validate_spec(own: &str, spec: &PriorityLevelConfigurationSpec, path: &Path) -> Errors {
    let (at, mut errors) = (path.child("type"), Vec::new());
    if (own == "exempt") != (spec.type_ == EXEMPT) {
        errors.push(Error::invalid(&at, &spec.type_, "type must be 'Exempt' if and only if name is 'exempt'"));
    }
    let (exempt_at, limited_at) = (path.child("exempt"), path.child("limited"));
    match (spec.type_.as_str(), &spec.exempt, &spec.limited) {
        (EXEMPT, exempt, limited) => {
            if limited.is_some() {
                errors.push(Error::forbidden(&limited_at, "must be nil if the type is not Limited"));
            }
            match exempt {
                None => errors.push(Error::required(&exempt_at, "must not be empty when type is Exempt")),
                Some(exempt) => errors.extend(validate_exempt(exempt, &exempt_at)),
            }
        }
        (LIMITED, exempt, limited) => {
            if exempt.is_some() {
                errors.push(Error::forbidden(&exempt_at, "must be nil if the type is Limited"));
            }
            match limited {
                None => errors.push(Error::required(&limited_at, "must not be empty when type is Limited")),
                Some(limited) => errors.extend(validate_limited(limited, &limited_at)),
            }
        }
        (other, ..) => errors.push(Error::not_supported(&at, other, &[EXEMPT, LIMITED])),
    }
    errors
}

fn validate_shares(shares: Option<i32>, lendable: Option<i32>, path: &Path) -> (Errors, Errors) {
    let at = path.child("nominalConcurrencyShares");
    let shares = shares.filter(|shares| *shares < 0).map(|shares| Error::invalid(&at, shares, NOT_NEGATIVE));
    let at = path.child("lendablePercent");
    let lendable = lendable.filter(|percent| !(0..=100).contains(percent));
    let lendable = lendable.map(|percent| Error::invalid(&at, percent, "must be between 0 and 100, inclusive"));
    (shares.into_iter().collect(), lendable.into_iter().collect())
}

fn validate_exempt(exempt: &ExemptPriorityLevelConfiguration, path: &Path) -> Errors {
    let (mut errors, lendable) = validate_shares(exempt.nominal_concurrency_shares, exempt.lendable_percent, path);
    errors.extend(lendable);
    errors
}

fn validate_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path) -> Errors {
    let (mut errors, lendable) = validate_shares(limited.nominal_concurrency_shares, limited.lendable_percent, path);
    let response = limited.limit_response.clone().unwrap_or_default();
    errors.extend(validate_response(&response, &path.child("limitResponse")));
    errors.extend(lendable);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let why = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(&path.child("borrowingLimitPercent"), percent, why));
    }
    errors
}

fn validate_response(response: &LimitResponse, path: &Path) -> Errors {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => Vec::new(),
        ("Reject", Some(_)) => {
            vec![Error::forbidden(&at, "must be nil if limited.limitResponse.type is not Limited")]
        }
        ("Queue", None) => vec![Error::required(&at, "must not be empty if limited.limitResponse.type is Limited")],
        ("Queue", Some(queuing)) => validate_queuing(queuing, &at),
        (other, _) => vec![Error::not_supported(&path.child("type"), other, RESPONSES)],
    }
}

fn validate_queuing(queuing: &QueuingConfiguration, path: &Path) -> Errors {
    let [length, queues, hand] =
        [queuing.queue_length_limit, queuing.queues, queuing.hand_size].map(Option::unwrap_or_default);
    let mut errors = Vec::new();
    if length <= 0 {
        errors.push(Error::invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(Error::invalid(&path.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        let why = format!("must not be greater than {QUEUES_MAX}");
        errors.push(Error::invalid(&path.child("queues"), queues, why));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.push(Error::invalid(&at, hand, "must be positive"));
    } else if hand > queues {
        errors.push(Error::invalid(&at, hand, format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > HASH_BITS_MAX {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        );
        errors.push(Error::invalid(&at, hand, why));
    }
    errors
}

/// How many bits tell apart the hands that can be dealt of a deck.
fn entropy_bits(deck: i32, hand: i32) -> u32 {
    (0..hand).map(|dealt| f64::from(deck - dealt).log2()).sum::<f64>().ceil() as u32
}

fn validate_status(level: &PriorityLevelConfiguration) -> Errors {
    let conditions = level.status.iter().flat_map(|status| status.conditions.iter().flatten());
    validate_condition_types(conditions.map(|condition| condition.type_.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::suggested_levels;
    use crate::testing::{check, check_cells, created};

    fn level(limited: &str) -> String {
        format!("{{metadata: {{name: l}}, spec: {{type: Limited, limited: {limited}}}}}")
    }

    #[test]
    fn what_every_cluster_has_is_valid() {
        for level in suggested_levels().into_iter().chain(mandatory_levels()) {
            let mut defaulted = level.clone();
            PriorityLevelConfigurations.default(&mut defaulted);
            assert_eq!(defaulted, level, "defaults change nothing");
            assert_eq!(PriorityLevelConfigurations.validate(&level), []);
        }
        assert_eq!(suggested_levels().len() + mandatory_levels().len(), 8);
    }

    #[test]
    fn a_level_queues_by_default_numbers() {
        created(
            &PriorityLevelConfigurations,
            &level("{limitResponse: {type: Queue, queuing: {}}}"),
            r#"{"metadata": {"name": "l", "generation": 1}, "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}
            }}, "status": {}}"#,
        );
    }

    #[test]
    fn a_level_is_limited_unless_it_is_the_exempt_one() {
        check(
            &PriorityLevelConfigurations,
            "{metadata: {name: l}, spec: {type: Exempt}}",
            &["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"],
        );
        check(
            &PriorityLevelConfigurations,
            "{metadata: {name: l}, spec: {type: Limited, exempt: {}}}",
            &[
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited: Required value: must not be empty when type is Limited",
            ],
        );
        check(
            &PriorityLevelConfigurations,
            "{metadata: {name: catch-all}, spec: {type: Limited, limited: {limitResponse: {type: Reject}}}}",
            &[
                "spec: Invalid value: {\"limited\":{\"lendablePercent\":0,\"limitResponse\":{\"type\":\"Reject\"},\"nominalConcurrencyShares\":30},\"type\":\"Limited\"}: spec of 'catch-all' must equal the fixed value",
            ],
        );
        check(
            &PriorityLevelConfigurations,
            "{metadata: {name: exempt}, spec: {type: Exempt, exempt: {nominalConcurrencyShares: 7}}}",
            &[],
        );
    }

    #[test]
    fn queues_can_be_dealt() {
        let queue = |queuing: &str| level(&format!("{{limitResponse: {{type: Queue, queuing: {queuing}}}}}"));
        check(&PriorityLevelConfigurations, &queue("{queues: 128, handSize: 6}"), &[]);
        check(
            &PriorityLevelConfigurations,
            &queue("{queues: 4, handSize: 6, queueLengthLimit: -1}"),
            &[
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 6: should not be greater than queues (4)",
            ],
        );
        check(
            &PriorityLevelConfigurations,
            &queue("{queues: 512, handSize: 8}"),
            &[
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
            ],
        );
        check(
            &PriorityLevelConfigurations,
            &level(
                "{nominalConcurrencyShares: -1, lendablePercent: 101, borrowingLimitPercent: -1, limitResponse: {type: Reject, queuing: {}}}",
            ),
            &[
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
            ],
        );
    }

    #[test]
    fn levels_show_their_queues() {
        check_cells(
            &PriorityLevelConfigurations,
            &level("{limitResponse: {type: Queue, queuing: {}}}"),
            "l | Limited | 30 | 64 | 8 | 50 | <unknown>",
        );
        check_cells(
            &PriorityLevelConfigurations,
            "{metadata: {name: exempt}, spec: {type: Exempt}}",
            "exempt | Exempt | <none> | <none> | <none> | <none> | <unknown>",
        );
    }
}
