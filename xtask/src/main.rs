//! `cargo xtask`: builds, runs and tests Kerf. What it fetches and builds, how it starts the beds and how it judges what
//! they print is each a module of its own.

#![forbid(unsafe_code)]

mod apt;
mod artefacts;
mod bed;
mod bench;
mod cache;
mod cli;
mod context;
mod debris;
mod description;
mod doctor;
mod elf;
mod explain;
mod fuzz;
mod image;
mod initrd;
mod linux_module;
mod meaning;
mod own;
mod process;
mod program;
mod roots;
mod run;
mod step;
mod suite;
mod symbols;
mod sysroot;
mod terminal;
mod test;
mod tidy;
mod topology;
mod volume;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::explain::Explain as _;

fn main() -> ExitCode {
    match carry_out(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_empty() {
                eprintln!("error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn carry_out(cli: &Cli) -> Result<(), String> {
    // A signal that ends this process ends the emulators too: they are on its leash.
    ctrlc::set_handler(|| {
        terminal::restore();
        debris::clear();
        std::process::exit(130);
    })
    .explain(|| "cannot handle signals")?;
    cli.files.set();
    let context = Context::new()?;
    match &cli.command {
        Command::Run(options) => run::run(&context, options),
        Command::Config(options) => meaning::print(&options.file, options.bounds()),
        Command::Topology(options) => topology::run(&options.file, options.out.as_deref()),
        Command::Doctor => doctor::print(&context),
        Command::Image(options) => run::write_image(&context, options),
        Command::Test(options) => {
            let context = Arc::new(context);
            let steps = match (options.mutants, options.full) {
                (true, _) => suite::mutants::steps(),
                (_, full) => suite::steps(full),
            };
            test::run(context, options, steps)
        }
        Command::Fuzz(options) => fuzz::run(&context, options),
        Command::Bench(what) => bench::run(&context, what),
        Command::Tidy => context.sysroot().and_then(|()| tidy::run(&context.root)),
        Command::Sysroot => context.sysroot(),
    }
}
