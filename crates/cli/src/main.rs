//! The binary `naru`: parse, load configuration, call one crate, print.
//!
//! [`arguments`] says what can be asked for and [`commands`] has a file for each verb. [`environment`] is the only
//! place that reads the environment, [`terminal`] the only one that writes for people; [`failure`] makes an error one
//! line and a hint, and [`exit`] a number for scripts.

mod arguments;
mod commands;
mod environment;
mod exit;
mod failure;
mod image;
mod output;
mod signals;
mod size;
mod tar;
mod terminal;
mod thing;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;

use crate::arguments::Arguments;
use crate::commands::Context;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::failure::{Failure, Report};
use crate::terminal::{Speaker, Terminal};

fn main() -> ExitCode {
    let Arguments { store, list, json, quiet, offline, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refused(&error),
    };
    log(matches!(command, commands::Command::Serve(_)));
    // A bundle may have more volumes, and a layout's folder more files, than the usual limit.
    serve::raise_descriptors();
    let terminal = Arc::new(Terminal::new(json, quiet));
    let voice: Speaker = terminal.clone();
    let context = Context { store, list, environment: Environment::read().offline(offline) };
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let result = runtime.block_on(async {
                signals::hear_of_large_files();
                let end = signals::end();
                Box::pin(commands::run_until(command, &context, &voice, end)).await
            });
            // What blocks on a disk or a dead network mount must not keep the process; nothing of it is visible yet.
            runtime.shutdown_timeout(Duration::from_secs(2));
            result
        }
        Err(error) => Err(anyhow::Error::new(error).context(Failure::new("the threads cannot be started"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => match Report::of(&error) {
            Some(report) => {
                terminal.fail(&report);
                report.exit.into()
            }
            None => Exit::Done.into(),
        },
    }
}

/// A command line that makes no sense, or that asks for help.
fn refused(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && wants_json {
        let report = Report::of_usage(error);
        Terminal::new(true, false).fail(&report);
        return report.exit.into();
    }
    // Nobody may be there to read it.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// `RUST_LOG` says how much of the log goes to stderr. By default that is what is wrong, and of a server what its operator
/// should look at, too: a command says such things itself.
fn log(serves: bool) {
    let usual = if serves { "error,naru=warn,serve=warn,store=warn,bundle=warn,upstream=warn" } else { "error" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
