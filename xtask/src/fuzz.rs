//! `cargo xtask fuzz`: libFuzzer plays scripts on the targets of `tests/play`. Scripts that reach something new are kept in
//! the cache, beside those of `tests/fuzz/corpus`; scripts that fail, too, until somebody makes tests of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use crate::cache::Cache;
use crate::cli::{Fuzz, FuzzTarget};
use crate::context::Context;
use crate::explain::{Explain as _, advise};
use crate::process;
use crate::suite::{hostile, mutants};

/// A program that is built from nothing takes a while.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);
/// What a run may last longer than it is told to.
const GRACE: Duration = Duration::from_secs(120);
/// The longest script, in bytes.
const SCRIPT_BYTES: u32 = 1024;
/// What each planted fault is to be found within.
const PLANTED_LIMIT: Duration = Duration::from_secs(600);

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What has the compiler count edges and note comparisons, as libFuzzer wants it.
const FLAGS: &str = "-Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How a run went.
pub(crate) struct Played {
    executions: u64,
    /// Edges and features reached, and scripts kept, in libFuzzer's words.
    coverage: String,
    lasted: Duration,
    crash: Option<Crash>,
}

/// A script that failed.
struct Crash {
    said: String,
    script: PathBuf,
}

/// # Errors
/// Something failed, or could not be run.
pub(crate) fn run(context: &Context, options: &Fuzz) -> Result<(), String> {
    if options.target == Some(FuzzTarget::Instructions) {
        return hostile::fuzz(context, &options.instructions);
    }
    if options.planted {
        return mutants::find_planted(context, PLANTED_LIMIT);
    }
    let program = build(&context.root, &context.cache)?;
    let targets: Vec<_> = match options.target {
        Some(target) => vec![target],
        None => FuzzTarget::value_variants()
            .iter()
            .copied()
            .filter(|target| *target != FuzzTarget::Instructions)
            .collect(),
    };
    let each = Duration::from_secs(60 * options.minutes);
    let mut failed = Vec::new();
    for target in targets {
        let name = target.name();
        let work = context.cache.root().join("fuzz/corpus").join(&name);
        let kept = context.root.join("tests/fuzz/corpus").join(&name);
        let played = play(&program, &name, each, &context.cache, &[&work, &kept])?;
        println!("{name}: {}", played.told());
        if let Some(crash) = played.crash {
            println!(
                "{}\nto do: copy {} to tests/fuzz/crashes/{name}/; cargo test -p play plays it from then on",
                crash.said,
                crash.script.display()
            );
            failed.push(name);
        } else if options.keep {
            keep(&program, &name, &work, &kept)?;
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

impl Played {
    /// All figures on one line.
    pub(crate) fn told(&self) -> String {
        let crash = if self.crash.is_some() { "a crash" } else { "no crash" };
        format!(
            "{} executions in {} s, {}, {crash}",
            self.executions,
            self.lasted.as_secs(),
            self.coverage
        )
    }

    /// Whether something was found.
    pub(crate) const fn has_crashed(&self) -> bool {
        self.crash.is_some()
    }

    /// What the failure said.
    pub(crate) fn said(&self) -> &str {
        self.crash.as_ref().map_or("", |crash| &crash.said)
    }
}

/// Builds the program of the repository at `root`. All copies of the repository share what is not theirs.
///
/// # Errors
/// There is no nightly toolchain, or it does not compile.
pub(crate) fn build(root: &Path, cache: &Cache) -> Result<PathBuf, String> {
    let cargo = || {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo"]).current_dir(root.join("tests/fuzz"));
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "CARGO_MANIFEST_DIR", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(variable);
        }
        command
    };
    let found = process::run(cargo().arg("--version"), GRACE, |_| {});
    if !found.is_ok_and(|finished| finished.status.success()) {
        return Err(advise(
            "there is no nightly toolchain, which has the compiler's part of libFuzzer",
            "rustup toolchain install nightly --profile minimal",
        ));
    }
    let folder = cache.root().join("fuzz/target");
    let mut command = cargo();
    command.args(["build", "--release", "--target", TRIPLE]);
    command.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &folder);
    process::run(&mut command, BUILD_LIMIT, |_| {})?.success("cannot build tests/fuzz")?;
    Ok(folder.join(TRIPLE).join("release/fuzz"))
}

/// Plays one target for a time, or until something fails. New scripts go into the first of the corpora.
///
/// # Errors
/// It cannot be run.
pub(crate) fn play(
    program: &Path,
    target: &str,
    time: Duration,
    cache: &Cache,
    corpora: &[&Path],
) -> Result<Played, String> {
    let crashes = cache.root().join("fuzz/crashes").join(target);
    let folders = corpora.iter().copied().chain([&*crashes]);
    for folder in folders {
        fs::create_dir_all(folder).explain(|| folder.display().to_string())?;
    }
    let arguments = [
        format!("-max_total_time={}", time.as_secs()),
        format!("-max_len={SCRIPT_BYTES}"),
        // Long scripts from the start: a step is only a few bytes.
        "-len_control=0".into(),
        "-print_final_stats=1".into(),
        format!("-artifact_prefix={}/", crashes.display()),
    ];
    let started = Instant::now();
    let show = |line: &str| {
        if line.contains("INITED") || line.contains("pulse") {
            println!("  {target} {line}");
        }
    };
    let mut command = fuzzer(program, target);
    let finished = process::run(command.args(arguments).args(corpora), time + GRACE, show)?;
    let text = finished.stdout;
    let crash = match finished.status.success() {
        true => None,
        false => Some(crash(&text).explain(|| format!("{target} ({}): {text}", finished.status))?),
    };
    let (executions, coverage) = figures(&text);
    Ok(Played { executions, coverage, lasted: started.elapsed(), crash })
}

/// The program for a target, all that it says on its output.
fn fuzzer(program: &Path, target: &str) -> Command {
    let mut command = process::leashed("sh");
    command.args(["-c", r#"exec "$@" 2>&1"#, "sh"]).arg(program);
    command.env("KERF_FUZZ_TARGET", target).env("RUST_BACKTRACE", "0");
    command
}

/// Makes of what was found and what was kept a new set that is as small as reaches the same edges.
fn keep(program: &Path, target: &str, work: &Path, kept: &Path) -> Result<(), String> {
    let fresh = kept.with_extension("new");
    fs::create_dir_all(&fresh).explain(|| fresh.display().to_string())?;
    let mut command = fuzzer(program, target);
    command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&fresh, kept, work]);
    process::run(&mut command, BUILD_LIMIT, |_| {})?.success("cannot merge the corpus")?;
    fs::remove_dir_all(kept)
        .and_then(|()| fs::rename(&fresh, kept))
        .explain(|| kept.display().to_string())
}

/// Executions, and the last that is said about coverage.
fn figures(text: &str) -> (u64, String) {
    let executions = text.lines().find_map(|line| {
        let count = line.strip_prefix("stat::number_of_executed_units:")?;
        count.trim().parse().ok()
    });
    let last = text.lines().rfind(|line| line.starts_with('#') && line.contains(" cov: "));
    let field = |name: &str| {
        let mut words = last?.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)
    };
    let word = |name| field(name).unwrap_or("?").split('/').next().unwrap_or("?");
    // A run that ends by a crash counts nothing at the end, but numbers the lines before.
    let numbered = last.and_then(|line| line[1..].split_whitespace().next()?.parse().ok());
    let executions = executions.or(numbered).unwrap_or(0);
    let (edges, features, scripts) = (word("cov:"), word("ft:"), word("corp:"));
    (executions, format!("{edges} edges, {features} features, {scripts} scripts"))
}

/// What failed, and by which script.
fn crash(text: &str) -> Option<Crash> {
    let script =
        text.lines().find_map(|line| line.split_once("Test unit written to ")?.1.into())?;
    let lines = text
        .lines()
        .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: libFuzzer"));
    let said: Vec<_> = lines.take_while(|line| !line.starts_with("NOTE: ")).take(12).collect();
    Some(Crash { said: said.join("\n"), script: PathBuf::from(script.trim()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = "#2\tINITED cov: 1 ft: 1 corp: 1/1b\n#7\tDONE   cov: 20 ft: 43 corp: 29/1453b lim: 8\n\
        stat::number_of_executed_units: 9\n";
    const BAD: &str = "#5\tNEW    cov: 20 ft: 43 corp: 29/1453b\n\nthread 'x' panicked at a.rs:1:2:\nleft\n\
        ==1== ERROR: libFuzzer: deadly signal\nNOTE: libFuzzer\nTest unit written to f/crash-1\n";

    #[test]
    fn figures_are_read_from_what_the_fuzzer_says() {
        assert_eq!(figures(WELL), (9, "20 edges, 43 features, 29 scripts".into()));
        assert_eq!(figures(BAD).0, 5);
    }

    #[test]
    fn a_crash_is_told_with_its_script() {
        assert!(crash(WELL).is_none());
        let crash = crash(BAD).unwrap();
        assert!(crash.said.starts_with("thread 'x' panicked") && !crash.said.contains("NOTE"));
        assert_eq!(crash.script, Path::new("f/crash-1"));
    }
}
