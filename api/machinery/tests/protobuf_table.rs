//! The table of field numbers is what its sources say: numbers and kinds of values from k8s-pb's structs, names from
//! k8s-openapi's schemas.
//!
//! `cargo xtask protobuf-table` runs this with `WHARF_WRITE=1`, which writes the table instead of comparing it. k8s-pb is read
//! as text where cargo has unpacked it, and never compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use wharf_machinery::schema::definitions;

const HEADER: &str = "# Written by `cargo xtask protobuf-table` from k8s-pb and k8s-openapi; not to be edited.\n";

/// Fields of JSON that k8s-pb has no number for: it is made from v1.35, k8s-openapi from v1.36. `newer.txt` numbers those of kinds that
/// are served; the others are lost in protobuf.
const NUMBERLESS: &[&str] = &[
    "api.certificates.v1beta1.PodCertificateRequestSpec.stubPKCS10Request",
    "api.core.v1.PodSpec.schedulingGroup",
    "api.core.v1.PodStatus.nodeAllocatableResourceClaimStatuses",
    "api.core.v1.ResourceHealth.message",
    "api.core.v1.VolumeMountStatus.volumeStatus",
    "api.resource.v1.Device.nodeAllocatableResourceMappings",
    "api.resource.v1.DeviceAttribute.bools",
    "api.resource.v1.DeviceAttribute.ints",
    "api.resource.v1.DeviceAttribute.strings",
    "api.resource.v1.DeviceAttribute.versions",
    "api.resource.v1beta1.BasicDevice.nodeAllocatableResourceMappings",
    "api.resource.v1beta1.DeviceAttribute.bools",
    "api.resource.v1beta1.DeviceAttribute.ints",
    "api.resource.v1beta1.DeviceAttribute.strings",
    "api.resource.v1beta1.DeviceAttribute.versions",
    "api.resource.v1beta2.Device.nodeAllocatableResourceMappings",
    "api.resource.v1beta2.DeviceAttribute.bools",
    "api.resource.v1beta2.DeviceAttribute.ints",
    "api.resource.v1beta2.DeviceAttribute.strings",
    "api.resource.v1beta2.DeviceAttribute.versions",
    "api.storage.v1.CSIDriverSpec.preventPodSchedulingIfMissing",
    "apimachinery.pkg.apis.meta.v1.ListMeta.shardInfo",
];

/// Fields that have a number and are not in JSON: v1.36 no longer has them.
const NAMELESS: &[&str] = &["api.core.v1.PodSpec.workload_ref"];

#[derive(Clone, Debug)]
struct Field {
    snake: String,
    number: u32,
    /// `string`, `message`, …; for a map that of its values.
    kind: String,
    label: &'static str,
    message: Option<String>,
}

type Messages = BTreeMap<String, Vec<Field>>;

#[test]
fn the_table_is_what_its_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protobuf/table.txt");
    let Table { text, numberless, nameless } = Table::make(&messages(&source()));
    if std::env::var_os("WHARF_WRITE").is_some() {
        std::fs::write(&path, &text).expect("write the table");
    }
    assert_eq!(numberless, NUMBERLESS, "fields without a number");
    assert_eq!(nameless, NAMELESS, "fields without a name");
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(held == text, "the table is stale: run `cargo xtask protobuf-table`");
}

#[test]
fn what_is_newer_has_numbers_where_it_is_served() {
    let newer = include_str!("../src/protobuf/newer.txt");
    let mut owner = "";
    let mut numbered = BTreeSet::new();
    for line in newer.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix(' ') {
            Some(field) => {
                numbered.insert(format!("{owner}.{}", field.split(' ').nth(1).expect("a field's name")));
            }
            None => owner = line,
        }
    }
    let lost: Vec<_> = NUMBERLESS.iter().filter(|field| !numbered.contains(**field)).collect();
    assert!(lost.iter().all(|field| field.contains(".v1beta")), "{lost:?}");
}

/// Where cargo has unpacked k8s-pb.
fn source() -> PathBuf {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .exec()
        .expect("cargo metadata");
    let package = metadata.packages.iter().find(|package| package.name.as_str() == "k8s-pb").expect("k8s-pb");
    package.manifest_path.parent().expect("a manifest stands in a folder").join("src").into()
}

/// Every message of the crate, under a name as schemas have it.
fn messages(source: &Path) -> Messages {
    let (mut found, mut folders) = (Messages::new(), vec![source.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of k8s-pb") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "mod.rs") {
                let module: Vec<&str> =
                    folder.strip_prefix(source).unwrap().iter().map(|part| part.to_str().unwrap()).collect();
                read_module(&module, &std::fs::read_to_string(&path).unwrap(), &mut found);
            }
        }
    }
    promote(&mut found);
    found
}

/// v1.36 made these stable, with the numbers that they had in beta.
const PROMOTED: (&str, &str) = ("api.admissionregistration.v1beta1.", "api.admissionregistration.v1.");

fn promote(found: &mut Messages) {
    let (beta, stable) = PROMOTED;
    let stable_name = |name: &str| name.strip_prefix(beta).map(|kind| format!("{stable}{kind}"));
    let promoted: Vec<_> = found
        .iter()
        .filter_map(|(name, fields)| Some((stable_name(name)?, fields.clone())))
        .filter(|(name, _)| !found.contains_key(name))
        .collect();
    for (name, mut fields) in promoted {
        for message in fields.iter_mut().filter_map(|field| field.message.as_mut()) {
            *message = stable_name(message).unwrap_or_else(|| message.clone());
        }
        found.insert(name, fields);
    }
}

fn read_module(module: &[&str], text: &str, found: &mut Messages) {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let (mut message, mut attribute) = (None, None);
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = qualified(module, rest.split([' ', '{', ';']).next().unwrap());
            found.insert(name.clone(), Vec::new());
            message = Some(name);
        } else if let Some(rest) = line.strip_prefix("#[prost(") {
            let mut whole = rest.to_owned();
            while !whole.ends_with(")]") {
                whole.push_str(lines.next().expect("the rest of an attribute"));
            }
            attribute = Some(whole.trim_end_matches(")]").to_owned());
        } else if let (Some(rest), Some(_)) = (line.strip_prefix("pub "), &attribute) {
            let (name, first) = rest.split_once(':').expect("a field has a type");
            let mut declared = first.trim().to_owned();
            while !declared.ends_with(',') || declared.matches('<').count() != declared.matches('>').count() {
                declared.push_str(lines.next().expect("the rest of a type"));
            }
            let field = field(module, name, &attribute.take().unwrap(), declared.trim_end_matches(','));
            found.get_mut(message.as_ref().unwrap()).unwrap().push(field);
        }
    }
}

fn field(module: &[&str], name: &str, attribute: &str, declared: &str) -> Field {
    let tag = attribute.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a tag");
    let (kind, label) = match attribute.strip_prefix("btree_map = \"string, ") {
        Some(rest) => (rest.split('"').next().unwrap(), "map"),
        None if attribute.contains(", repeated") => (attribute.split([',', ' ']).next().unwrap(), "repeated"),
        None => (attribute.split([',', ' ']).next().unwrap(), "one"),
    };
    let message = (kind == "message").then(|| {
        let path = declared.trim_end_matches(['>', ' ', ',']);
        resolve(module, path[path.rfind(['<', ',', ' ']).map_or(0, |at| at + 1)..].trim())
    });
    let snake = name.trim_start_matches("r#").to_owned();
    Field { snake, number: tag.parse().expect("a number"), kind: kind.to_owned(), label, message }
}

fn resolve(module: &[&str], path: &str) -> String {
    let mut parts: Vec<&str> = path.split("::").collect();
    let name = parts.pop().unwrap();
    let mut module = module.to_vec();
    for part in parts {
        if part == "super" {
            module.pop();
        } else {
            module.push(part);
        }
    }
    qualified(&module, name)
}

fn qualified(module: &[&str], name: &str) -> String {
    let module: Vec<String> = module.iter().map(|part| part.replace('_', "-")).collect();
    format!("{}.{name}", module.join("."))
}

struct Table {
    text: String,
    numberless: Vec<String>,
    nameless: Vec<String>,
}

/// A type's fields in JSON by their plain names.
type Names = BTreeMap<String, String>;

impl Table {
    fn make(messages: &Messages) -> Self {
        // Names of types as schemas spell them, by their lowercase: prost spells acronyms in its own way.
        let (mut spelling, mut schemas) = (BTreeMap::new(), BTreeMap::new());
        for (name, schema) in definitions() {
            let Some(name) = name.strip_prefix("io.k8s.") else { continue };
            spelling.insert(name.to_lowercase(), name.to_owned());
            if let Some(properties) = schema["properties"].as_object() {
                let names: Names = properties.keys().map(|json| (plain(json), json.clone())).collect();
                schemas.insert(name.to_lowercase(), names);
            }
        }
        let mut todo: Vec<(&String, Option<&Names>)> = Vec::new();
        for (name, fields) in messages {
            let lower = name.to_lowercase();
            let items = fields.iter().find(|field| field.snake == "items" && field.label == "repeated");
            let lists = items.and_then(|field| field.message.as_ref()).filter(|_| lower.ends_with("list"));
            let served = spelling.contains_key(&lower)
                || lists.is_some_and(|item| spelling.contains_key(&item.to_lowercase()))
                || lower == "apimachinery.pkg.runtime.unknown";
            if served {
                todo.push((name, None));
            }
        }
        let (mut done, mut blocks) = (BTreeSet::new(), BTreeMap::new());
        let (mut numberless, mut nameless) = (BTreeSet::new(), BTreeSet::new());
        while let Some((name, outer)) = todo.pop() {
            if !done.insert(name) {
                continue;
            }
            let spelled = |name: &str| spelling.get(&name.to_lowercase()).map_or(name, |name| name).to_owned();
            let own = schemas.get(&name.to_lowercase());
            let names = own.or(outer);
            let (mut lines, mut left) = (BTreeMap::new(), own.cloned().unwrap_or_default());
            for field in &messages[name] {
                let target = field.message.as_ref().map(|target| {
                    messages.get_key_value(target).unwrap_or_else(|| panic!("{name}.{} of {target}", field.snake))
                });
                let json = match names {
                    Some(names) => names.get(&plain(&field.snake)).cloned(),
                    None => Some(camel(&field.snake)),
                };
                left.remove(&plain(&field.snake));
                let (json, label, outer) = match (json, target) {
                    (Some(json), _) => (json, field.label, None),
                    (None, Some((target, inner))) if own.is_some() && field.label == "one" => {
                        let theirs = left.clone();
                        if !claim(messages, inner, &mut left) {
                            nameless.insert(format!("{}.{}", spelled(name), field.snake));
                            continue;
                        }
                        let has_schema = schemas.contains_key(&target.to_lowercase());
                        ("-".to_owned(), "inline", (!has_schema).then_some(theirs))
                    }
                    (None, _) => {
                        nameless.insert(format!("{}.{}", spelled(name), field.snake));
                        continue;
                    }
                };
                let mut line = format!("{} {json} {label} {}", field.number, field.kind);
                if let Some((target, _)) = target {
                    write!(line, " {}", spelled(target)).unwrap();
                    todo.push((target, outer.map(|names| &*Box::leak(Box::new(names)))));
                }
                lines.insert(field.number, line);
            }
            // A kind's own type stands in the envelope.
            let is_kind = left.contains_key("apiversion") && left.contains_key("kind");
            numberless.extend(
                left.values()
                    .filter(|json| !(is_kind && ["apiVersion", "kind"].contains(&json.as_str())))
                    .map(|json| format!("{}.{json}", spelled(name))),
            );
            blocks.insert(spelled(name), lines);
        }
        let mut text = HEADER.to_owned();
        for (name, lines) in blocks {
            writeln!(text, "{name}").unwrap();
            lines.values().for_each(|line| writeln!(text, " {line}").unwrap());
        }
        let (numberless, nameless) = (numberless.into_iter().collect(), nameless.into_iter().collect());
        Table { text, numberless, nameless }
    }
}

/// Takes from the parent's names those of an embedded message, and of what is embedded in that; true if there were any.
fn claim(messages: &Messages, inner: &[Field], left: &mut Names) -> bool {
    let mut any = false;
    for field in inner {
        any |= left.remove(&plain(&field.snake)).is_some()
            || (field.label == "one"
                && field.message.as_ref().is_some_and(|next| claim_embedded(messages, next, left)));
    }
    any
}

/// What is embedded twice is embedded in whole: all of its fields have names.
fn claim_embedded(messages: &Messages, name: &str, left: &mut Names) -> bool {
    let fields = &messages[name];
    !fields.is_empty()
        && fields.iter().all(|field| left.contains_key(&plain(&field.snake)))
        && claim(messages, fields, left)
}

/// What `cluster_i_ps`, `clusterIPs` and `$ref` have in common with what they are called elsewhere.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn camel(snake: &str) -> String {
    let mut parts = snake.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &part[..1].to_ascii_uppercase() + &part[1..])
}
