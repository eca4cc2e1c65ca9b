//! Runs a command component (`wasi:cli/run` 0.2 or 0.3) from start to end.

use wasmtime_wasi::I32Exit;

use crate::artifact::{Artifact, Program, one_line};
use crate::engine::Engine;
use crate::guest::{Guest, Spec, Stdio};

/// What a trap is for a Linux container: an abort.
const EXIT_TRAPPED: i32 = 134;
/// What ^C does to a program that does not handle it.
pub const EXIT_INTERRUPTED: i32 = 130;
pub const EXIT_KILLED: i32 = 137;
pub const EXIT_TERMINATED: i32 = 143;

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
}

impl End {
    pub fn exited(code: i32) -> End {
        End { code, reason: if code == 0 { "Completed" } else { "Error" }, message: String::new() }
    }

    pub fn out_of_memory(limit: u64) -> End {
        End { code: EXIT_KILLED, reason: "OOMKilled", message: format!("memory limit of {limit} bytes exceeded") }
    }

    fn trapped(message: String) -> End {
        End { code: EXIT_TRAPPED, reason: "Error", message }
    }
}

/// Runs the command; dropping the future ends the guest where it stands.
pub async fn run(engine: &Engine, artifact: &Artifact, spec: &Spec, argv: &[String], stdio: Stdio) -> End {
    let mut store = match Guest::store(engine, spec, argv, stdio) {
        Ok(store) => store,
        Err(error) => return End { code: 128, reason: "ContainerCannotRun", message: one_line(&error) },
    };
    let result = match &artifact.program {
        Program::Command2(pre) => {
            async {
                let command = pre.instantiate_async(&mut store).await?;
                command.wasi_cli_run().call_run(&mut store).await
            }
            .await
        }
        Program::Command3(pre) => {
            async {
                let command = pre.instantiate_async(&mut store).await?;
                store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await).await?
            }
            .await
        }
        Program::Http(_) => Err(wasmtime::format_err!("an HTTP component is not a command")),
    };
    end(result, store.data().out_of_memory(), spec.memory.limit())
}

/// What the outcome of a run means for the container.
fn end(result: wasmtime::Result<Result<(), ()>>, out_of_memory: bool, limit: u64) -> End {
    match result {
        Ok(Ok(())) => End::exited(0),
        Ok(Err(())) => End::exited(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => End::exited(code & 0xff),
            None if out_of_memory => End::out_of_memory(limit),
            None => End::trapped(one_line(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(result: wasmtime::Result<Result<(), ()>>, out_of_memory: bool, code: i32, reason: &str) {
        let end = end(result, out_of_memory, 1024);
        assert_eq!((end.code, end.reason), (code, reason), "{end:?}");
    }

    #[test]
    fn outcomes_are_what_they_are_for_linux_containers() {
        check(Ok(Ok(())), false, 0, "Completed");
        check(Ok(Err(())), false, 1, "Error");
        check(Err(I32Exit(0).into()), false, 0, "Completed");
        check(Err(I32Exit(7).into()), true, 7, "Error");
        check(Err(I32Exit(-1).into()), false, 255, "Error");
        check(Err(wasmtime::Trap::UnreachableCodeReached.into()), false, 134, "Error");
        check(Err(wasmtime::Trap::UnreachableCodeReached.into()), true, 137, "OOMKilled");
    }
}
