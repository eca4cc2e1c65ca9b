//! What an AdmissionPlugin's status should say: three conditions, the digest, and what the component exports.

use jiff::Timestamp;
use wharf_admission::wasm::{LoadError, Loaded, Phase, Stage};
use wharf_types::admission::{AdmissionPlugin, AdmissionPluginStatus};
use wharf_types::meta::{Condition, Time};

/// Status, reason and message of a condition.
type Said = (&'static str, &'static str, String);

const PULL_FAILED: &str = "PullFailed";
const NOT_A_PLUGIN: &str = "InvalidComponent";

/// `called` is what a request would meet now: for a load that failed, it may be older.
pub fn of(
    plugin: &AdmissionPlugin,
    load: &Result<Loaded, LoadError>,
    called: Option<&Loaded>,
    now: Timestamp,
) -> AdmissionPluginStatus {
    let [pulled, compiled] = match load {
        Ok(loaded) => {
            [("True", "Pulled", loaded.digest.clone()), ("True", "Compiled", format!("it exports {}", hooks(loaded)))]
        }
        Err(LoadError { stage: Stage::Pull, message, .. }) => {
            [("False", PULL_FAILED, message.clone()), ("Unknown", PULL_FAILED, "there is no image".to_owned())]
        }
        Err(LoadError { stage: Stage::Compile, message, digest }) => {
            [("True", "Pulled", digest.clone().unwrap_or_default()), ("False", NOT_A_PLUGIN, message.clone())]
        }
    };
    let ready = match (load, called) {
        (Ok(_), _) => ("True", "Loaded", "writes are put to it".to_owned()),
        (Err(_), Some(older)) => {
            ("True", "Outdated", format!("writes are put to what was loaded before, {}", older.digest))
        }
        (Err(error), None) if error.stage == Stage::Pull => ("False", PULL_FAILED, error.message.clone()),
        (Err(error), None) => ("False", NOT_A_PLUGIN, error.message.clone()),
    };
    let said: [(&str, Said); 3] = [("ImagePulled", pulled), ("Compiled", compiled), ("Ready", ready)];
    let held = plugin.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let conditions = said.map(|(kind, said)| condition(kind, said, held, plugin.metadata.generation, now));
    AdmissionPluginStatus {
        observed_generation: plugin.metadata.generation,
        image_id: called.map(|loaded| loaded.digest.clone()),
        hooks: called.map(|loaded| loaded.hooks.iter().map(|hook| hook.name().to_owned()).collect()),
        conditions: Some(conditions.into()),
    }
}

fn hooks(loaded: &Loaded) -> String {
    loaded.hooks.iter().map(|hook: &Phase| hook.name()).collect::<Vec<_>>().join(" and ")
}

/// The time is that of the last change between true, false and unknown.
fn condition(
    kind: &str,
    (status, reason, message): Said,
    held: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let before = held.iter().find(|condition| condition.type_ == kind && condition.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Conditions as `type=status reason`, and when each has changed.
    #[track_caller]
    fn check(load: &Result<Loaded, LoadError>, called: Option<&Loaded>, expected: &[&str]) {
        let plugin: AdmissionPlugin = serde_json::from_value(json!({
            "metadata": {"name": "a", "generation": 3},
            "status": {"conditions": [{
                "type": "Ready", "status": "True", "reason": "Loaded", "message": "", "lastTransitionTime": "2024-05-01T10:00:00Z",
            }]},
        }))
        .expect("a plugin");
        let now = "2024-05-01T12:00:00Z".parse().expect("a time");
        let status = of(&plugin, load, called, now);
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(status.image_id.as_deref(), called.map(|called| called.digest.as_str()));
        let conditions = status.conditions.unwrap_or_default();
        let shown = conditions.iter().map(|condition| {
            let Condition { type_, status, reason, last_transition_time, .. } = condition;
            format!("{type_}={status} {reason} {}", last_transition_time.0.strftime("%H"))
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn conditions_tell_how_far_loading_came() {
        let loaded = Loaded { digest: "sha256:a".to_owned(), hooks: vec![Phase::Validating] };
        let failed = |stage| Err(LoadError { stage, message: "no".to_owned(), digest: None });
        check(
            &Ok(loaded.clone()),
            Some(&loaded),
            &["ImagePulled=True Pulled 12", "Compiled=True Compiled 12", "Ready=True Loaded 10"],
        );
        check(
            &failed(Stage::Pull),
            None,
            &["ImagePulled=False PullFailed 12", "Compiled=Unknown PullFailed 12", "Ready=False PullFailed 12"],
        );
        check(
            &failed(Stage::Compile),
            Some(&loaded),
            &["ImagePulled=True Pulled 12", "Compiled=False InvalidComponent 12", "Ready=True Outdated 10"],
        );
    }
}
