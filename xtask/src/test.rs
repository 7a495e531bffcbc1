//! `cargo xtask test`: carries out steps in two lanes side by side, names each with its time, and closes with one line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::BedKind;
use crate::cli::Test;
use crate::context::Context;
use crate::step::Step;

/// The longest all tests may take together.
const LIMIT: Duration = Duration::from_secs(35 * 60);

/// The same where emulators, firmware and a Linux are still to be fetched, or everything to be built.
const COLD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The same for the long ones.
const LONG_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// A step that has ended, or a lane that has.
enum Report {
    Step { name: String, elapsed: Duration, result: Result<(), String> },
    Started { lane: usize, name: String },
}

/// Carries out the steps that `options` choose from `all`.
///
/// # Errors
/// A step failed, or nothing was chosen.
pub(crate) fn run(context: Arc<Context>, options: &Test, all: Vec<Step>) -> Result<(), String> {
    let steps: Vec<Step> = all.into_iter().filter(|step| is_chosen(options, step)).collect();
    if options.list {
        for step in &steps {
            println!("{}", title(step));
        }
        return Ok(());
    }
    if steps.is_empty() {
        return Err("no step has that name; `cargo xtask test --list` shows all".into());
    }
    let limit = match () {
        () if options.full || options.mutants => LONG_LIMIT,
        () if is_warm(&context) => LIMIT,
        () => COLD_LIMIT,
    };
    let (passed, failed) = carry_out(&context, steps, limit);
    println!("{passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err(String::new()) }
}

/// Whether an emulator was fetched and Kerf was built before.
fn is_warm(context: &Context) -> bool {
    let has = |bed: &BedKind| context.cache.root().join(bed.name()).exists();
    // This program lies in `target/debug`.
    let target = std::env::current_exe().ok();
    let target = target.as_deref().and_then(|path| path.ancestors().nth(2));
    BedKind::ALL.iter().any(has) && target.is_some_and(|at| at.join("x86_64-unknown-none").exists())
}

fn is_chosen(options: &Test, step: &Step) -> bool {
    if options.host {
        return step.bed.is_none();
    }
    if options.system.is_none() && options.on.is_none() {
        return true;
    }
    let name = options.system.as_deref().unwrap_or_default();
    step.bed.is_some_and(|bed| options.on.is_none_or(|on| on == bed)) && title(step).contains(name)
}

/// A step's name with its bed's.
fn title(step: &Step) -> String {
    match step.bed {
        Some(bed) if !step.name.contains(bed.name()) => format!("{} on {}", step.name, bed.name()),
        _ => step.name.clone(),
    }
}

/// Runs the lanes side by side and counts passes and failures. What has not ended by `limit` has failed.
fn carry_out(context: &Arc<Context>, steps: Vec<Step>, limit: Duration) -> (usize, usize) {
    let deadline = Instant::now() + limit;
    let total = steps.len();
    let mut lanes: Vec<VecDeque<Step>> = Vec::new();
    for step in steps {
        if lanes.len() <= step.lane {
            lanes.resize_with(step.lane + 1, VecDeque::new);
        }
        lanes[step.lane].push_back(step);
    }
    let (sender, reports) = channel();
    let mut current = vec![None; lanes.len()];
    for (number, lane) in lanes.into_iter().enumerate() {
        let (context, sender) = (Arc::clone(context), sender.clone());
        // Emulators are on this thread's leash: it outlives each of its steps.
        thread::spawn(move || {
            for step in lane {
                let name = title(&step);
                let _ = sender.send(Report::Started { lane: number, name: name.clone() });
                let started = Instant::now();
                let result = (step.run)(&context);
                let _ = sender.send(Report::Step { name, elapsed: started.elapsed(), result });
            }
        });
    }
    drop(sender);
    let (mut passed, mut failed) = (0, 0);
    while passed + failed < total {
        match reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Report::Started { lane, name }) => current[lane] = Some(name),
            Ok(Report::Step { name, elapsed, result }) => {
                let seconds = elapsed.as_secs_f64();
                match result {
                    Ok(()) => {
                        passed += 1;
                        println!("pass {seconds:7.1} s  {name}");
                    }
                    Err(error) => {
                        failed += 1;
                        println!(
                            "FAIL {seconds:7.1} s  {name}\n  {}",
                            error.trim_end().replace('\n', "\n  ")
                        );
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let running: Vec<&str> = current.iter().flatten().map(String::as_str).collect();
                println!(
                    "FAIL the limit of {} s is reached; last started: {}",
                    limit.as_secs(),
                    running.join(", ")
                );
                return (passed, total - passed);
            }
            // A lane that panicked has taken its steps with it.
            Err(RecvTimeoutError::Disconnected) => {
                println!("FAIL {} steps were not carried out", total - passed - failed);
                return (passed, total - passed);
            }
        }
    }
    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(
        name: &str,
        lane: usize,
        run: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Step {
        Step { name: name.into(), bed: None, lane, run: Box::new(move |_| run()) }
    }

    fn context() -> Arc<Context> {
        Arc::new(Context::new().unwrap())
    }

    #[test]
    fn failures_are_counted_and_later_steps_still_run() {
        let steps = vec![
            step("a", 0, || Err("bad".into())),
            step("b", 0, || Ok(())),
            step("c", 1, || Ok(())),
        ];
        assert_eq!(carry_out(&context(), steps, Duration::from_secs(20)), (2, 1));
    }

    #[test]
    fn a_step_that_never_ends_fails_at_the_limit() {
        let steps = vec![
            step("a", 0, || Ok(())),
            step("b", 1, || {
                loop {
                    thread::park()
                }
            }),
        ];
        assert_eq!(carry_out(&context(), steps, Duration::from_millis(300)), (1, 1));
    }

    #[test]
    fn a_lane_that_panics_fails_all_its_steps() {
        let steps = vec![step("a", 0, || panic!("on purpose")), step("b", 0, || Ok(()))];
        assert_eq!(carry_out(&context(), steps, Duration::from_secs(20)), (0, 2));
    }

    #[test]
    fn options_choose_by_kind_name_and_bed() {
        let on = |bed| Step { bed: Some(bed), ..step("linux boots", 0, || Ok(())) };
        let steps = [on(BedKind::Qemu), on(BedKind::Bochs), step("host tests", 0, || Ok(()))];
        let chosen = |host, system: Option<&str>, on| {
            let system = system.map(str::to_owned);
            let options = Test { host, system, on, mutants: false, full: false, list: false };
            steps.iter().map(|step| is_chosen(&options, step)).collect::<Vec<_>>()
        };
        assert_eq!(chosen(false, None, None), [true, true, true]);
        assert_eq!(chosen(true, None, None), [false, false, true]);
        assert_eq!(chosen(false, Some(""), None), [true, true, false]);
        assert_eq!(chosen(false, None, Some(BedKind::Bochs)), [false, true, false]);
        assert_eq!(chosen(false, Some("linux"), Some(BedKind::Qemu)), [true, false, false]);
        assert_eq!(chosen(false, Some("guests"), None), [false, false, false]);
    }
}
