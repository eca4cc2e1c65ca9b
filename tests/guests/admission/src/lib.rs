//! An admission plugin that behaves, or misbehaves, as its parameters say: `{"mutate": WHAT, "validate": WHAT}`.

use serde_json::{Value, json};

wit_bindgen::generate!({ path: "../../../guest-sdk/wit", world: "plugin" });

use exports::wharf::admission::{mutation, validation};
use wharf::admission::types::{Change, Denial, Notes, Request, Verdict};

struct Plugin;
export!(Plugin);

impl mutation::Guest for Plugin {
    fn mutate(request: Request) -> mutation::Answer {
        let (what, verdict, mut notes) = act(&request, "mutate");
        let change = match &what["change"] {
            Value::Null if what == "count" => count(&request),
            Value::Null => Change::None,
            change => match (&change["patch"], &change["object"]) {
                (Value::String(text), _) => Change::JsonPatch(text.clone().into_bytes()),
                (Value::Null, Value::String(text)) => Change::Object(text.clone().into_bytes()),
                (Value::Null, object) => Change::Object(object.to_string().into_bytes()),
                (patch, _) => Change::JsonPatch(patch.to_string().into_bytes()),
            },
        };
        if what == "echo" {
            notes.audit_annotations.push(("request".to_owned(), echo(&request).to_string()));
        }
        mutation::Answer { verdict, change, notes }
    }
}

impl validation::Guest for Plugin {
    fn validate(request: Request) -> validation::Answer {
        let (what, verdict, mut notes) = act(&request, "validate");
        if what == "echo" {
            notes.warnings.push(echo(&request).to_string());
        }
        validation::Answer { verdict, notes }
    }
}

fn read(json: &Option<Vec<u8>>) -> Value {
    json.as_ref().map_or(Value::Null, |json| serde_json::from_slice(json).expect("JSON"))
}

fn act(request: &Request, hook: &str) -> (Value, Verdict, Notes) {
    let what = read(&request.parameters)[hook].clone();
    match what.as_str().unwrap_or_default() {
        "spin" => loop {
            std::hint::black_box(0);
        },
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        "hoard" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(vec![1; 1 << 20]);
                std::hint::black_box(&held);
            }
        }
        "panic" => panic!("the plugin has lost its mind"),
        "exit" => std::process::exit(7),
        "recurse" => drop(recurse(u64::MAX)),
        "shout" => (0..100_000).for_each(|line| eprintln!("line {line} of what nobody wants to read")),
        _ => {}
    }
    let text = |field: &str| what[field].as_str().map(str::to_owned);
    let verdict = match text("deny") {
        Some(message) => Verdict::Denied(Denial {
            message,
            code: what["code"].as_u64().and_then(|code| u16::try_from(code).ok()),
            reason: text("reason"),
        }),
        None => Verdict::Allowed,
    };
    let mut notes = Notes { warnings: text("warn").into_iter().collect(), audit_annotations: Vec::new() };
    notes.audit_annotations.extend(text("audit").map(|note| ("note".to_owned(), note)));
    if what == "reach" {
        notes.warnings.push(reach());
    }
    (what, verdict, notes)
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> [u64; 64] {
    let mut frame = [depth; 64];
    frame[1] = std::hint::black_box(recurse(depth - 1))[0];
    frame
}

/// `data.count`, and one.
fn count(request: &Request) -> Change {
    let mut object = read(&request.object);
    let held: u64 = object["data"]["count"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    object["data"]["count"] = json!((held + 1).to_string());
    Change::Object(object.to_string().into_bytes())
}

/// What of the world can be reached.
fn reach() -> String {
    let environment: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    let files = std::fs::read_dir("/").is_ok() || std::fs::read_dir(".").is_ok() || std::fs::write("/x", "x").is_ok();
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).is_ok_and(|time| time.as_secs() > 0);
    format!("environment {environment:?}, arguments {}, files {files}, time {time}", std::env::args().count())
}

fn echo(request: &Request) -> Value {
    json!({
        "operation": format!("{:?}", request.operation),
        "kind": [request.kind.group, request.kind.version, request.kind.kind],
        "target": [request.target.group, request.target.version, request.target.resource, request.target.subresource],
        "name": request.name,
        "namespace": request.namespace,
        "labels": request.namespace_labels,
        "user": [request.user.username, request.user.uid],
        "groups": request.user.groups,
        "dryRun": request.dry_run,
        "object": read(&request.object)["data"],
        "old": read(&request.old_object)["data"],
        "options": read(&request.options)["kind"],
    })
}
