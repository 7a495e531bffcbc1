//! Devices that go wrong in a guest's hands: one that its guest has write to others and to the interrupt range, one whose
//! guest writes garbage over what it has of it, one that never stops, one that is gone.

use std::cell::RefCell;
use std::time::Duration;

use crate::bed::{Device, Iommu, Probe};
use crate::step::Context;
use crate::suite::devices::lives::{COUNTED, Counts, SWITCH, compare};
use crate::suite::devices::{UNIT, ecam, script::Script, small, tables};
use crate::suite::require;

const TIMEOUT: Duration = Duration::from_secs(400);
/// As the hostile guest does it.
const STEP: u64 = 8 << 20;
const OFFSET: u64 = 0x3000;
const HOSTILE: u64 = 2;

/// Only the VM that has the device notices, and all of it is given back.
pub(super) fn concerns_its_owner_alone(context: &Context, iommu: Iommu) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let guests = [("keeper", ""), ("hostile", "hostile"), ("loser", "")];
    let description = small::describe(context, &guests, ("", Vec::new()))?;
    let devices = [1, 2, 3].map(|seed| small::disk(&scratch, seed).map(Device::Nvme));
    let devices = devices.into_iter().collect::<Result<_, _>>()?;
    let session = small::launch(context, &description, iommu, devices)?;
    let probe = RefCell::new(session.probe()?);
    let before = RefCell::new(None);
    let mut script = Script::default();
    script.typed(r"\[loser\] beat 1\r", &SWITCH.repeat(3))?;
    script.act(r"wrote to others (\d+) times", |_| {
        none_came(&mut probe.borrow_mut()).map(|()| String::new())
    })?;
    script.typed("wrote messages", "")?;
    script.typed(r"wrote garbage \d+ times", "")?;
    script.typed("PASS disk-reads-after-garbage", "")?;
    script.typed("PASS stopped-disk-is-silent", "")?;
    script.typed("hostile ended: exit 0", "faults\n")?;
    script.typed(r"\n +\d+  hostile: [^\n]*\n", "memory\niommu\n")?;
    script.act(COUNTED, |text| {
        let counts = Counts::of(text)?;
        compare(&mut probe.borrow_mut(), &counts, 2)?;
        *before.borrow_mut() = Some(counts);
        // What it did is forgiven with its next life.
        Ok("reset hostile\n".into())
    })?;
    script.typed(r"\[hostile\] beat 2\r", "stop hostile\n")?;
    script.typed("hostile is stopped", "memory\niommu\n")?;
    script.act(COUNTED, |text| {
        let (was, is) = (before.borrow(), Counts::of(text)?);
        require(*was == Some(is), || format!("{was:?} have become {is:?}"))?;
        take_away(&mut probe.borrow_mut()).map(|()| String::new())
    })?;
    script.typed(r"\[loser\] without a disk \d+\r", "")?;
    script.typed(r"(?s)\[keeper\] beat \d+\r.*\[keeper\] beat \d+\r", "stop loser\n")?;
    script.typed("loser is stopped", "memory\niommu\n")?;
    script.act(COUNTED, |text| {
        let counts = Counts::of(text)?;
        compare(&mut probe.borrow_mut(), &counts, 1)?;
        Ok("reset loser\n".into())
    })?;
    script.typed("loser: [^\n]*cannot be reset: Gone", "")?;
    script.typed(r"(?s)\[keeper\] beat \d+\r.*\[keeper\] beat \d+\r", "poweroff\n")?;
    let outcome = script.lead(session, TIMEOUT)?;
    let text = outcome.console_text();
    require(!text.contains("FAIL ") && text.matches("the disk gives").count() == 1, || {
        outcome.describe()
    })
}

/// None of what the hostile guest's disk wrote to others is there.
fn none_came(probe: &mut Probe) -> Result<(), String> {
    for at in (small::GUEST_BYTES..small::MACHINE_MIB << 20).step_by(STEP as usize) {
        let found = probe.read64(at + OFFSET)?;
        require(found != small::first_word(HOSTILE, 0), || format!("a write came to {at:#x}"))?;
    }
    Ok(())
}

/// The last guest's disk is drawn: its root port's slot loses power, as by a hand at the server (PCIe 6.0, 7.5.3.10).
fn take_away(probe: &mut Probe) -> Result<(), String> {
    const EXPRESS: u32 = 0x10;
    const SLOT_CONTROL: u64 = 0x18;
    /// Power off, power indicator off, with nothing else asked for.
    const OFF: u32 = 1 << 10 | 3 << 8;
    let function = tables::read(probe, UNIT)?.functions.into_iter().max().unwrap_or_default();
    for device in 0..32 {
        let port = ecam(0, device, 0);
        if probe.read32(port)? == u32::MAX
            || probe.read32(port + 0x18)? >> 8 & 0xff != u32::from(function >> 8)
        {
            continue;
        }
        let mut at = u64::from(probe.read32(port + 0x34)? & 0xfc);
        while at != 0 {
            let header = probe.read32(port + at)?;
            if header & 0xff == EXPRESS {
                let control = probe.read32(port + at + SLOT_CONTROL)?;
                probe.write32(port + at + SLOT_CONTROL, control & 0xffff | OFF)?;
                let id = probe.read32(ecam((function >> 8).into(), 0, 0))?;
                return require(id == u32::MAX, || format!("{id:#x} is still there"));
            }
            at = u64::from(header >> 8 & 0xfc);
        }
    }
    Err(format!("no root port leads to {function:#x}"))
}
