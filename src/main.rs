//! The command line: parses, hands over to one file a command, and says what went wrong. Knows no models.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod commands;
mod signals;

use clap::{Parser, Subcommand};
use commands::{
    bench, compile, doctor, eval, explain, inspect, pareto, run, template, tune, verify,
};
use std::process::ExitCode;

/// Compiles and runs transformer models.
#[derive(Debug, Parser)]
#[command(name = "satura", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Compile(compile::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Verify(verify::Args),
    Explain(explain::Args),
    Pareto(pareto::Args),
    Inspect(inspect::Args),
    Doctor(doctor::Args),
    Tune(tune::Args),
}

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == template::COMMAND)
    {
        return template::run();
    }
    signals::install();
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Compile(args) => compile::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Pareto(args) => pareto::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Tune(args) => tune::run(args),
    };
    done.unwrap_or_else(|error| commands::failed(&error))
}
