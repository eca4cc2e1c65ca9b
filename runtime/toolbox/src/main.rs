//! The toolbox: one component that is every tool, by the name that it is called with.
//!
//! A Wasm container has no programs in it but its own. `kubectl exec` and `kubectl cp` expect some, so the node starts this
//! component in the container's place, with its environment, volumes and addresses. Tools are functions over [`Io`], so that the
//! shell runs them without processes, which WASI has none of. They do what scripts and kubectl ask of them, and refuse options
//! that they do not know. Absent on purpose: whatever needs a terminal in raw mode, users, or other processes.

mod archive;
mod digest;
mod edit;
mod files;
mod find;
mod io;
mod lines;
mod links;
mod net;
mod pattern;
mod shell;
mod show;
mod text;
mod time;

use std::process::ExitCode;

use io::{Failure, Io};

/// A tool: its arguments without its name.
type Tool = fn(&mut Io<'_>, &[String]) -> Result<i32, Failure>;

/// Every tool by its name, in the order of the names. The node reads the list of names by calling the toolbox with none.
const TOOLS: &[(&str, Tool)] = &[
    ("[", show::test),
    ("ash", shell::main),
    ("base64", digest::base64),
    ("basename", show::basename),
    ("cat", text::cat),
    ("chmod", links::chmod),
    ("cp", files::cp),
    ("cut", lines::cut),
    ("date", time::date),
    ("dirname", show::dirname),
    ("du", files::du),
    ("echo", show::echo),
    ("env", show::env),
    ("false", show::no),
    ("find", find::find),
    ("grep", text::grep),
    ("head", text::head),
    ("hostname", show::hostname),
    ("id", show::id),
    ("ln", links::ln),
    ("ls", files::ls),
    ("md5sum", digest::md5sum),
    ("mkdir", files::mkdir),
    ("mv", files::mv),
    ("nc", net::nc),
    ("nslookup", net::nslookup),
    ("printenv", show::printenv),
    ("printf", show::printf),
    ("ps", show::ps),
    ("pwd", show::pwd),
    ("readlink", links::readlink),
    ("rm", files::rm),
    ("rmdir", files::rmdir),
    ("sed", edit::sed),
    ("seq", lines::seq),
    ("sh", shell::main),
    ("sha256sum", digest::sha256sum),
    ("sleep", time::sleep),
    ("sort", text::sort),
    ("stat", links::stat),
    ("tail", text::tail),
    ("tar", archive::tar),
    ("tee", text::tee),
    ("test", show::test),
    ("touch", files::touch),
    ("tr", lines::tr),
    ("true", show::yes),
    ("uname", show::uname),
    ("uniq", lines::uniq),
    ("wc", text::wc),
    ("wget", net::wget),
    ("which", show::which),
    ("whoami", show::whoami),
    ("xargs", lines::xargs),
];

fn main() -> ExitCode {
    let mut words = std::env::args();
    let called = words.next().unwrap_or_default();
    let name = io::base_name(&called).to_owned();
    let mut arguments: Vec<String> = words.collect();
    let mut io = Io::of_process();
    // `toolbox NAME …` is the tool as well.
    let name = match find(&name) {
        Some(_) => name,
        None if arguments.is_empty() => {
            TOOLS.iter().for_each(|(name, _)| io.line(name));
            return ExitCode::SUCCESS;
        }
        None => arguments.remove(0),
    };
    let code = run(&mut io, &name, &arguments);
    // WASI knows success and failure alone.
    if code == 0 { ExitCode::SUCCESS } else { ExitCode::from(code.clamp(1, 255) as u8) }
}

fn find(name: &str) -> Option<Tool> {
    TOOLS.iter().find(|(known, _)| *known == name).map(|(_, tool)| *tool)
}

/// Runs a tool and says what went wrong.
fn run(io: &mut Io<'_>, name: &str, arguments: &[String]) -> i32 {
    let Some(tool) = find(name) else {
        io.complain(&format!("{name}: not found"));
        return 127;
    };
    match tool(io, arguments) {
        Ok(code) => code,
        // Whoever reads has read enough.
        Err(Failure::Closed) => 0,
        Err(Failure::Said(code, text)) => {
            io.complain(&format!("{name}: {text}"));
            code
        }
    }
}
