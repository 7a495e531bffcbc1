//! The DMAR table and what is done by it: its bytes alone, and a machine that is taken over by them.

use arbitrary::{Result, Unstructured};
use hw::{Function, Hpa, PAGE_SIZE, RegisterBus as _, RequesterId, TableMemory as _, Width};
use iommu::dmar::{self, Dmar, UnitEntry};
use iommu::{Config, Event, Hw, Iommu, Message, Mode, StartError};
use models::vtd::{Profile, Request};
use models::{FakeClock, Injecting, Machine, ModelRegs, SplitMemory, Traced};

/// The model as the driver's hardware.
pub(crate) struct ModelHw;

impl Hw for ModelHw {
    type Regs = Injecting<Traced<ModelRegs>>;
    type Tables = SplitMemory;
    type Clock = FakeClock;
}

/// Registers of the first unit; those of the next follow.
const REGISTERS: u64 = 0xfed9_0000;
/// Bytes of a table before its structures.
const HEADER: usize = 48;

/// How units are taken over, if nothing else is said.
pub(crate) const CONFIG: Config = Config {
    mode: Mode::Auto,
    x2apic: true,
    interrupt_bits: 9,
    fault_message: Some(Message { address: 0xfee0_1000, data: 0x4031 }),
    fault_limit: 3,
};

/// A table that gives every device of segment n to unit n.
pub(crate) fn dmar_of(units: u16) -> Dmar {
    let units = (0..units).map(|index| UnitEntry {
        segment: index,
        registers: Hpa::new(REGISTERS + PAGE_SIZE * u64::from(index)),
        register_bytes: PAGE_SIZE,
        include_all: true,
        scopes: Vec::new(),
    });
    Dmar { host_bits: 46, units: units.collect(), ..Dmar::default() }
}

/// Takes the units of a machine as a table says.
pub(crate) fn start(
    machine: &Machine,
    dmar: &Dmar,
    config: Config,
) -> std::result::Result<Iommu<ModelHw>, StartError> {
    let open = |entry: &UnitEntry| {
        let unit = entry.registers.raw().wrapping_sub(REGISTERS) / PAGE_SIZE;
        (unit < UNITS as u64).then(|| machine.regs(unit as usize))
    };
    // Every function is a bridge to the buses behind its own.
    let bridges = |function: Function| Some((function.rid.bus().wrapping_add(1), 0xff));
    Iommu::start(machine.memory.clone(), machine.clock.clone(), dmar, &bridges, config, open)
}

/// Reads a script as a table.
pub(crate) fn dmar(script: &[u8]) {
    read(script);
}

/// Reads a table, and looks at what came of it.
fn read(table: &[u8]) -> Dmar {
    let mut problems = 0;
    let dmar = dmar::read(table, |problem| {
        assert!(problem.offset <= table.len(), "{problem} is outside of the table");
        assert!(!problem.to_string().is_empty());
        problems += 1;
    });
    assert!(problems <= table.len() + 1, "more problems than bytes");
    let end = 1u64 << dmar.host_bits.clamp(32, 52);
    for (index, unit) in dmar.units.iter().enumerate() {
        let (at, bytes) = (unit.registers.raw(), unit.register_bytes);
        assert!(at != 0 && at % PAGE_SIZE == 0 && at + bytes <= end, "{unit:?}");
        let others = &dmar.units[index + 1..];
        assert!(others.iter().all(|other| other.registers != unit.registers), "twice: {unit:?}");
        let rival = |other: &UnitEntry| other.include_all && other.segment == unit.segment;
        assert!(!unit.include_all || !others.iter().any(rival), "two take the rest: {unit:?}");
    }
    for region in &dmar.reserved {
        let (start, bytes) = (region.start.raw(), region.bytes);
        assert!(bytes != 0 && start % PAGE_SIZE == 0 && bytes % PAGE_SIZE == 0, "{region:?}");
        assert!(start + bytes <= end, "{region:?}");
    }
    let listed = [&dmar.ats_ports, &dmar.integrated, &dmar.properties].into_iter().flatten();
    let scopes = listed.map(|listed| &listed.scopes);
    let scopes = scopes.chain(dmar.units.iter().map(|unit| &unit.scopes));
    for scope in scopes.chain(dmar.reserved.iter().map(|region| &region.scopes)).flatten() {
        assert!(!scope.path.is_empty() && scope.offset < table.len(), "{scope:?}");
    }
    dmar
}

const UNITS: usize = 2;

/// Takes a machine over by a table: whatever it says, a unit that is taken denies what nothing grants.
pub(crate) fn bring_up(script: &[u8]) {
    let _ = bring_up_by(&mut Unstructured::new(script));
}

fn bring_up_by(script: &mut Unstructured<'_>) -> Result<()> {
    let kinds = Profile::every_kind();
    let mut profiles = [Profile::legacy(); UNITS];
    for profile in &mut profiles {
        *profile = script.choose(&kinds)?.1;
        profile.ecap = profile.ecap.with_ir(profile.ecap.ir() && script.ratio(7, 8)?);
    }
    let machine = Machine::new(&profiles);
    machine.clock.set_step(100_000);
    let mut lies = [false; UNITS];
    for (unit, lies) in lies.iter_mut().enumerate() {
        *lies = trouble(script, &machine, unit)?;
    }
    let config = Config {
        mode: *script.choose(&[
            Mode::Auto,
            Mode::Legacy,
            Mode::ScalableSecond,
            Mode::ScalableFirst,
        ])?,
        x2apic: script.arbitrary()?,
        interrupt_bits: script.int_in_range(0..=16)?,
        ..CONFIG
    };
    if script.ratio(1, 4)? {
        machine.memory.limit(Some(script.int_in_range(0..=40)?));
    } else {
        // A region without large pages takes many tables.
        machine.memory.limit(Some(3000));
    }
    let mut table = vec![0; HEADER];
    table[36] = 45;
    for unit in 0..UNITS as u64 {
        let [flags, segment]: [u8; 2] = script.arbitrary()?;
        table.extend([0, 0, 16, 0, flags & 1, 0, segment & 1, 0]);
        table.extend((REGISTERS + PAGE_SIZE * unit).to_le_bytes());
    }
    table.extend_from_slice(script.bytes(script.len())?);
    let dmar = read(&table);
    let Ok(mut iommu) = start(&machine, &dmar, config) else { return Ok(()) };
    let events = iommu.take_events();
    let request = |address| Request { rid: RequesterId(0x1234), pasid: None, address, write: true };
    let sound = lies == [false; UNITS];
    for (unit, lies) in lies.into_iter().enumerate() {
        let at = Hpa::new(REGISTERS + PAGE_SIZE * unit as u64);
        let lost =
            |event: &Event| matches!(event, Event::UnitLost { registers, .. } if *registers == at);
        // The registers of one of them may be all that a unit of the table's own shows.
        let named = dmar.units.iter().any(|unit| unit.registers == at);
        if !named || lies || events.iter().any(lost) {
            continue;
        }
        assert_eq!(machine.regs(unit).load(0x1c, Width::W4) >> 31, 1, "unit {unit} is not on");
        for address in [0x1000, 0x1234_5000, 0x7_0000_0000] {
            let grants = |region: &dmar::ReservedRegion| {
                (region.start.raw()..region.start.raw() + region.bytes).contains(&address)
            };
            if !dmar.reserved.iter().any(grants) {
                let got = machine.unit(unit).dma(request(address));
                assert!(got.is_err(), "unit {unit} lets {address:#x} through: {got:?}");
            }
        }
    }
    let is_lost = |event: &Event| matches!(event, Event::UnitLost { .. });
    if sound && !events.iter().any(is_lost) {
        machine.assert_clean();
    }
    Ok(())
}

/// What firmware left on, or what is broken. Whether the status that the unit shows is not its own.
fn trouble(script: &mut Unstructured<'_>, machine: &Machine, unit: usize) -> Result<bool> {
    match script.int_in_range(0..=7)? {
        0 => machine.regs(unit).vanish(),
        1 => machine.regs(unit).deafen(*script.choose(&[0x18, 0x88, 0x90, 0x20, 0xb8])?),
        2 => {
            let (bit, value) = (script.int_in_range(22..=31)?, script.arbitrary()?);
            machine.regs(unit).stick(0x1c, 1 << bit, value);
            return Ok(true);
        }
        3..=4 => {
            let frames = machine.memory.data(4);
            for word in 0..4 * 512 {
                machine.memory.clone().store(frames, word, 0);
            }
            machine.unit(unit).dirty_hand_over(frames, script.arbitrary()?);
        }
        _ => {}
    }
    Ok(false)
}
