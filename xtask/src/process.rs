//! Child processes: on a leash, so that they die with this one however it ends, and never waited for without a limit.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::explain::{Explain as _, advise};

/// A command whose process is killed by the kernel when the thread that started it ends, so also when xtask is killed.
///
/// `setpriv` (util-linux) asks for the parent-death signal, which outlives `exec`; the shell closes the gap before that
/// by going on only while xtask is still its parent.
pub(crate) fn leashed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", r#"[ "$PPID" = "$0" ] && exec "$@""#])
        .arg(std::process::id().to_string())
        .arg(program);
    command
}

/// Starts a leashed command.
///
/// # Errors
/// Says so where `setpriv` itself is missing.
pub(crate) fn spawn(command: &mut Command) -> Result<std::process::Child, String> {
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => advise(
            "cannot find the program setpriv, which ties the emulator's life to ours",
            "install util-linux",
        ),
        _ => format!("cannot start {:?}: {error}", command.get_program()),
    })
}

/// What a finished process left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The output, or the error output with `what` before it.
    pub(crate) fn success(self, what: impl std::fmt::Display) -> Result<String, String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let stderr = self.stderr.trim();
        let said = if stderr.is_empty() { self.stdout.trim() } else { stderr };
        Err(format!("{what} ({}): {said}", self.status))
    }
}

/// Runs a command to its end, handing each line of its output to `line`; kills it after `limit`.
///
/// # Errors
/// It cannot be started, or lasts too long.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<Finished, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .explain(|| format!("cannot start {:?}", command.get_program()))?;
    let (sender, lines) = mpsc::channel::<String>();
    let stdout = child.stdout.take().map(BufReader::new);
    let reader = thread::spawn(move || {
        for line in stdout.into_iter().flat_map(|stdout| stdout.lines().map_while(Result::ok)) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut stderr = child.stderr.take();
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stderr) = &mut stderr {
            let _ = stderr.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + limit;
    let mut stdout = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => {
                line(&text);
                stdout += &text;
                stdout.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "{:?} has not finished within {} s",
                    command.get_program(),
                    limit.as_secs()
                ));
            }
        }
    }
    let status = wait(&mut child, deadline)?;
    let _ = reader.join();
    Ok(Finished { status, stdout, stderr: errors.join().unwrap_or_default() })
}

/// Waits for a process until `deadline`, then kills it.
///
/// # Errors
/// It had to be killed, or cannot be waited for.
pub(crate) fn wait(
    child: &mut std::process::Child,
    deadline: Instant,
) -> Result<ExitStatus, String> {
    loop {
        if let Some(status) = child.try_wait().explain(|| "cannot wait for a process")? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err("a process did not end in time and was killed".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lasts_too_long_is_killed() {
        let started = Instant::now();
        let result = run(leashed("sleep").arg("60"), Duration::from_millis(200), |_| {});
        assert!(result.unwrap_err().contains("has not finished"));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_leashed_process_dies_with_the_thread_that_started_it() {
        let start = || {
            let mut command = leashed("sh");
            let mut child =
                spawn(command.args(["-c", "echo up; exec sleep 60"]).stdout(Stdio::piped()))
                    .unwrap();
            // The leash is on once the command itself runs.
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            child
        };
        let mut child = thread::spawn(start).join().unwrap();
        let status = wait(&mut child, Instant::now() + Duration::from_secs(5)).unwrap();
        assert!(!status.success());
    }

    #[test]
    fn output_and_status_are_handed_on() {
        let mut lines = Vec::new();
        let finished = run(
            leashed("sh").args(["-c", "echo one; echo two; echo bad >&2; exit 3"]),
            Duration::from_secs(20),
            |line| lines.push(line.to_owned()),
        );
        let finished = finished.unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.success("sh").unwrap_err(), "sh (exit status: 3): bad");
    }
}
