//! The one serial line between guests and monitor: [`manage::Terminal`] decides, this wires it to the console and to the
//! virtual machines. What guests print comes from any CPU; what is typed is looked after by the boot CPU.
//!
//! Locks: the terminal's, then the console's.

use alloc::string::String;

use manage::{Background, Focus, Input, Terminal};
use spin::Mutex;

use crate::platform::rdtsc;
use crate::vm::Vm;
use crate::{console, sched};

/// Part of a second for which other guests wait for the focused one to end its line.
const PATIENCE: u64 = 4;

static TERMINAL: Mutex<Option<Terminal>> = Mutex::new(None);

/// Gives the terminal to the first of `vms` that runs, and says how it goes on.
pub(crate) fn init(vms: &[Vm], background: config::Background, tsc_hz: u64) {
    let background = match background {
        config::Background::Show => Background::Show,
        config::Background::Keep => Background::Keep,
    };
    let names = || vms.iter().map(|vm| vm.config.name.as_str());
    let mut terminal = Terminal::new(names(), background, tsc_hz / PATIENCE);
    if let Some(first) = vms.iter().position(|vm| vm.verdict().is_none()) {
        terminal.start_with(first);
    }
    *TERMINAL.lock() = Some(terminal);
    let mut ring = String::new();
    for name in names() {
        ring += name;
        ring += ", ";
    }
    console::say(format_args!("the terminal goes round by Ctrl-\\: {ring}monitor"));
}

/// Takes what a guest printed.
pub(crate) fn print(vm: usize, bytes: &[u8]) {
    let mut terminal = TERMINAL.lock();
    let Some(terminal) = terminal.as_mut() else { return };
    let waited = terminal.due().is_some();
    terminal.print(vm, bytes, rdtsc(), &mut console::write);
    if terminal.due().is_some() && !waited {
        // The boot CPU is to see to it in time.
        sched::order(0);
    }
}

/// Shows what an ended guest left.
pub(crate) fn ended(vm: usize) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        terminal.ended(vm, &mut console::write);
    }
}

/// Hands on what was typed, until the monitor has a line or nothing more is there.
pub(crate) fn serve(vms: &[Vm]) -> Option<String> {
    while let Some(byte) = console::read() {
        let input = TERMINAL.lock().as_mut()?.key(byte, &mut console::write);
        match input {
            Input::None => {}
            Input::Line(line) => return Some(line),
            Input::Guest(index) => {
                if let Some(vm) = vms.get(index) {
                    vm.type_in(byte);
                }
            }
        }
    }
    None
}

/// Shows the monitor's answer.
pub(crate) fn answer(text: &str) {
    if let Some(terminal) = TERMINAL.lock().as_mut() {
        terminal.answer(text, &mut console::write);
    }
}

/// Whether the monitor has the terminal.
pub(crate) fn is_monitors() -> bool {
    TERMINAL.lock().as_ref().is_some_and(|terminal| terminal.focus() == Focus::Monitor)
}

/// Shows what waited long enough; says when to ask again.
pub(crate) fn poll() -> Option<u64> {
    let mut terminal = TERMINAL.lock();
    let terminal = terminal.as_mut()?;
    terminal.due()?;
    terminal.poll(rdtsc(), &mut console::write);
    terminal.due()
}
