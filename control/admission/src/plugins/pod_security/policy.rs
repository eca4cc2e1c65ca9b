//! Which policy a namespace asks for, in its labels. Source: `k8s.io/pod-security-admission/api/helpers.go`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use wharf_types::field::{Error, Errors, Path};

pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// From the loosest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A version of the policy, of which only the minor number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Latest,
    Minor(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

/// What is refused, what is noted in the audit log, and what the client is warned of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").filter(|digits| *digits == "0" || !digits.starts_with('0'));
        let minor = minor.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let minor = minor.and_then(|digits| digits.parse().ok());
        minor.map(Version::Minor).ok_or(r#"must be "latest" or "v1.x""#)
    }
}

impl Policy {
    /// True where nothing is asked.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    /// The namespace's policy, and what is wrong with its labels. What cannot be read is as strict as can be where pods are
    /// refused by it, and asks for nothing elsewhere.
    pub fn of(labels: Option<&BTreeMap<String, String>>, defaults: &Policy) -> (Self, Errors) {
        let (mut policy, mut errors) = (*defaults, Vec::new());
        let label = |name: &str| labels.and_then(|labels| labels.get(&format!("{PREFIX}{name}")));
        for (name, mode, otherwise) in [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ] {
            let mut wrong = |name: &str, value: &str, why: &str| {
                let path = Path::new("metadata").child("labels").key(&format!("{PREFIX}{name}"));
                errors.push(Error::invalid(&path, value, why));
            };
            if let Some(text) = label(name) {
                mode.level = text.parse().unwrap_or_else(|why| {
                    wrong(name, text, why);
                    otherwise
                });
            }
            let name = format!("{name}-version");
            if let Some(text) = label(&name) {
                mode.version = text.parse().unwrap_or_else(|why| {
                    wrong(&name, text, why);
                    Version::Latest
                });
            }
        }
        // Whoever is refused pods is warned of workloads that will not have any.
        let is_stricter = policy.enforce.level > policy.warn.level;
        if label("enforce").is_some() && label("warn").is_none() && is_stricter {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[(&str, &str)], expected: &str, errors: &[&str]) {
        let labels = labels.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect();
        let (policy, found) = Policy::of(Some(&labels), &Policy::default());
        assert_eq!(format!("{} {} {}", policy.enforce, policy.audit, policy.warn), expected);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), errors);
    }

    #[test]
    fn labels_say_what_is_asked() {
        check(&[], "privileged:latest privileged:latest privileged:latest", &[]);
        check(
            &[("enforce", "baseline"), ("enforce-version", "v1.25"), ("audit", "restricted")],
            "baseline:v1.25 restricted:latest baseline:v1.25",
            &[],
        );
        check(
            &[("enforce", "baseline"), ("warn", "privileged")],
            "baseline:latest privileged:latest privileged:latest",
            &[],
        );
        check(
            &[("enforce", "strict"), ("warn-version", "1.2")],
            "restricted:latest privileged:latest restricted:latest",
            &[
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
            ],
        );
    }
}
