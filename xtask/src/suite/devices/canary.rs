//! A device whose DMA runs since before Kerf: QEMU's `edu`, which this program drives from outside by the machine's own
//! registers, bus mastering included. So it is as a device would be that does not let itself be silenced.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::bed::{self, Device, Iommu, Limits, Probe, Verdict};
use crate::explain::Explain as _;
use crate::step::Context;
use crate::suite::devices::{UNIT, ecam, small};
use crate::suite::require;

const TIMEOUT: Duration = Duration::from_secs(240);
/// Vendor and device.
const EDU: u32 = 0x11e8_1234;
/// Source, destination, count and command (QEMU, docs/specs/edu.rst), and the device's own buffer.
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const BUFFER: u64 = 0x4_0000;
const RUN: u32 = 1;
const TO_MEMORY: u32 = 2;
/// Memory that neither the firmware nor Kerf touches here; the step would show if they did.
const CANARY: u64 = 0x1c00_0000;
const WRITTEN: u64 = 0x1eaf_1eaf_1eaf_1eaf;
/// Writes that must have come before Kerf has the IOMMU, and that must not come afterwards.
const BEFORE: usize = 2;
const AFTER: usize = 8;

/// One write of the device's: whether translation was on when it began, and whether it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Try {
    translated: bool,
    came: bool,
}

/// The device's registers.
struct Engine<'a> {
    probe: &'a mut Probe,
    config: u64,
    bar: u64,
}

/// The writes reach memory as long as nobody is there, and never once translation is on.
pub(super) fn stops(context: &Context) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let description = small::describe(context, &[("keeper", "")], ("", Vec::new()))?;
    let devices = vec![Device::Nvme(small::disk(&scratch, 1)?), Device::Edu];
    let session = small::launch(context, &description, Iommu::SecondStage, devices)?;
    let mut probe = session.probe()?;
    let (begin, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let limits = Limits { expect: None, typed: Vec::new(), timeout: Some(TIMEOUT) };
    let (outcome, tries) = thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !begin.load(Ordering::Relaxed) && !end.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            let tries = Engine::find(&mut probe).and_then(|engine| engine.attack());
            end.store(true, Ordering::Relaxed);
            tries
        });
        let outcome = bed::judge(session, limits, |fresh| {
            begin.fetch_or(!fresh.is_empty(), Ordering::Relaxed);
            (!end.load(Ordering::Relaxed)).then(Vec::new)
        });
        end.store(true, Ordering::Relaxed);
        (outcome, attacker.join().unwrap_or(Err("the attacker panicked".into())))
    });
    let tries = tries.map_err(|why| format!("{why}: {}", outcome.describe()))?;
    require(outcome.verdict == Verdict::Quit, || outcome.describe())?;
    println!("     {} writes before translation, {} kept off after", came(&tries), AFTER);
    let told = Regex::new(r"no VM: [^\n]*01:00\.0|no VM: [^\n]*02:00\.0").explain(|| "pattern")?;
    require(told.is_match(&outcome.console_text()), || {
        format!("nobody told of what was blocked: {}", outcome.describe())
    })
}

fn came(tries: &[Try]) -> usize {
    tries.iter().filter(|one| one.came).count()
}

impl<'a> Engine<'a> {
    fn find(probe: &'a mut Probe) -> Result<Self, String> {
        for bus in 0..16 {
            let config = ecam(bus, 0, 0);
            if probe.read32(config)? == EDU {
                let bar = u64::from(probe.read32(config + 0x10)? & !0xf);
                return Ok(Self { probe, config, bar });
            }
        }
        Err("the firmware has shown the device to nobody".into())
    }

    /// Lets it answer and master the bus, and has it do one DMA.
    fn run(&mut self, source: u64, destination: u64, command: u32) -> Result<(), String> {
        self.probe.write32(self.config + 4, 0b110)?;
        for (register, value) in [(SOURCE, source), (DESTINATION, destination), (COUNT, 8)] {
            self.probe.write64(self.bar + register, value)?;
        }
        self.probe.write64(self.bar + COMMAND, (command | RUN).into())?;
        let until = Instant::now() + Duration::from_secs(20);
        while self.probe.read64(self.bar + COMMAND)? & u64::from(RUN) != 0 {
            require(Instant::now() < until, || "the device does not end its DMA".into())?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Writes, until translation has been on for long enough.
    fn attack(mut self) -> Result<Vec<Try>, String> {
        self.probe.write64(CANARY, WRITTEN)?;
        self.run(CANARY, BUFFER, 0)?;
        let mut tries: Vec<Try> = Vec::new();
        while tries.iter().filter(|one| one.translated).count() < AFTER {
            let intact = tries.len() as u64;
            self.probe.write64(CANARY, intact)?;
            let translated = self.translates()?;
            self.run(BUFFER, CANARY, TO_MEMORY)?;
            let found = self.probe.read64(CANARY)?;
            require([intact, WRITTEN].contains(&found), || format!("the canary is {found:#x}"))?;
            let one = Try { translated, came: found == WRITTEN };
            require(!(one.translated && one.came), || {
                format!("after {tries:?} a write came through the IOMMU")
            })?;
            tries.push(one);
        }
        require(came(&tries) >= BEFORE, || format!("it never wrote before: {tries:?}"))?;
        Ok(tries)
    }

    fn translates(&mut self) -> Result<bool, String> {
        use iommu_spec::registers::{GSTS, command};
        Ok(self.probe.read32(UNIT + GSTS.offset())? & command::TE != 0)
    }
}
