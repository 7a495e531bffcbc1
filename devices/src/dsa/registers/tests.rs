//! A virtual device under a driver as Linux's, under a hostile one, and on interfaces of the model.

use device_spec::dsa::command::{Command as Register, IMS, error, queues};
use device_spec::dsa::completion::status;
use device_spec::dsa::registers::Offsets;
use hw::Pasid;
use proptest::prelude::*;

use super::*;
use crate::dsa::tests::{Taken, V1, V2, copy};
use crate::{Fault, HostingFunction, InterfaceId, Mode, Setting, Trouble, Want};

fn handles(numbers: &[u16]) -> Vec<Handle> {
    numbers.iter().copied().map(Handle).collect()
}

fn part(entries: u16, version: Version, numbers: &[u16]) -> Part {
    let general = GeneralCapabilities::default()
        .with_overlapping_copy(true)
        .with_max_transfer(31)
        .with_max_batch(10);
    let queue = Queue {
        mode: Mode::Dedicated,
        entries,
        general,
        operations: [0x3_027f, 0, 0, 0],
        chooses: version >= V2,
    };
    Part { queue, handles: handles(numbers) }
}

/// As Linux's driver would reach it.
struct Guest {
    regs: VirtualRegisters,
    /// Of the last command with an interrupt.
    interrupts: usize,
}

impl Guest {
    fn new(version: Version, parts: &[Part]) -> Self {
        Self { regs: VirtualRegisters::new(version, parts).unwrap(), interrupts: 0 }
    }

    fn note(&mut self, effect: Effect) {
        self.interrupts += usize::from(effect == Effect::Interrupt);
    }

    fn read(&self, offset: u64) -> u64 {
        self.regs.read(offset, Width::W8)
    }

    fn write(&mut self, offset: u64, value: u64) {
        let effect = self.regs.write(offset, Width::W8, value);
        assert_ne!(effect, Effect::Start);
        self.note(effect);
    }

    fn status(&self) -> CommandStatus {
        CommandStatus([self.regs.read(regs::CMDSTATUS.offset(), Width::W4)])
    }

    /// Writes a command, with an interrupt at its end.
    fn begin(&mut self, code: u8, operand: u32) -> Effect {
        let command = Register::default().with_code(code).with_operand(operand);
        let [raw] = command.with_interrupt(true).0;
        self.regs.write(regs::CMD.offset(), Width::W4, raw)
    }

    /// A command that the interfaces carry out as told by `outcome`; how it ended.
    fn command(
        &mut self,
        code: u8,
        operand: u32,
        mut outcome: impl FnMut(Order) -> Result<(), Fault>,
    ) -> CommandStatus {
        let before = self.interrupts;
        let effect = self.begin(code, operand);
        if effect == Effect::Start {
            assert!(self.status().active());
        }
        self.note(effect);
        for order in self.regs.orders().collect::<Vec<_>>() {
            let effect = self.regs.finish(order.queue, outcome(order));
            self.note(effect);
        }
        assert_eq!(self.interrupts, before + 1, "command {code}");
        let causes = self.regs.read(regs::INTCAUSE.offset(), Width::W4);
        assert_ne!(causes & u64::from(cause::COMMAND), 0);
        self.note_none(regs::INTCAUSE.offset(), causes);
        assert!(!self.status().active());
        self.status()
    }

    fn note_none(&mut self, offset: u64, value: u64) {
        assert_eq!(self.regs.write(offset, Width::W4, value), Effect::None);
    }

    fn well(&mut self, code: u8, operand: u32) -> Vec<Order> {
        let mut orders = Vec::new();
        let status = self.command(code, operand, |order| {
            orders.push(order);
            Ok(())
        });
        assert_eq!(status.error(), error::NONE, "command {code}");
        orders
    }

    fn error(&mut self, code: u8, operand: u32) -> u8 {
        self.command(code, operand, |_| panic!("nothing is to be done")).error()
    }

    fn offsets(&self) -> Offsets {
        let at = regs::OFFSETS.offset();
        Offsets([self.read(at), self.read(at + 8)])
    }

    fn queue_at(&self, index: u64) -> u64 {
        let config_size = QueueCapabilities([self.read(regs::WQCAP.offset())]).config_size();
        u64::from(self.offsets().queues()) * 0x100 + index * queue::bytes(config_size)
    }

    /// In words of four bytes, over what is there, as Linux does.
    fn configure(&mut self, index: u64, config: QueueConfiguration) {
        let at = self.queue_at(index);
        let words = if self.queue_at(1) - self.queue_at(0) == 64 { 8 } else { 4 };
        for (word, value) in (0..words).zip(config.0) {
            for (half, value) in [value & 0xffff_ffff, value >> 32].into_iter().enumerate() {
                let at = at + 8 * word + 4 * half as u64;
                let value = value | self.regs.read(at, Width::W4);
                self.note_none(at, value);
            }
        }
    }

    fn configured(&self, index: u64) -> QueueConfiguration {
        let at = self.queue_at(index);
        let [first, second, third, fourth] = [0, 8, 16, 24].map(|word| self.read(at + word));
        QueueConfiguration([first, second, third, fourth, 0, 0, 0, 0])
    }

    fn group(&mut self, index: u64, members: u64, engines: u64) {
        let at = u64::from(self.offsets().groups()) * 0x100 + 64 * index;
        self.write(at, members);
        self.write(at + 32, engines);
        self.write(at + 40, 1 | 1 << 3);
    }

    /// Up to a device that is enabled, with its queues in groups of their own.
    fn enabled(version: Version, parts: &[Part]) -> Self {
        let mut guest = Self::new(version, parts);
        guest.well(code::RESET_DEVICE, 0);
        for (index, part) in (0..).zip(parts) {
            guest.configure(index, wanted(part.queue.entries));
            guest.group(index, 1 << index, 1 << index);
        }
        assert_eq!(guest.well(code::ENABLE_DEVICE, 0), []);
        guest
    }
}

fn wanted(entries: u16) -> QueueConfiguration {
    QueueConfiguration::default()
        .with_size(entries)
        .with_dedicated(true)
        .with_priority(10)
        .with_privileged(true)
        .with_max_transfer(21)
        .with_max_batch(5)
}

#[test]
fn linux_finds_its_way() {
    let parts = [part(16, V1, &[0x105, 0x106]), part(32, V1, &[7])];
    let mut guest = Guest::enabled(V1, &parts);
    assert_eq!(GeneralStatus([guest.read(regs::GENSTS.offset())]).state(), state::ENABLED);
    guest.write(regs::GENCTRL.offset(), 3);
    let [order] = guest.well(code::ENABLE_QUEUE, 1).try_into().unwrap();
    assert_eq!((order.queue, order.command), (1, Command::Enable));
    let settings = order.settings.unwrap();
    assert_eq!((settings.max_transfer, settings.max_batch), (21, 5));
    assert_eq!(guest.configured(1).state(), state::ENABLED);
    // Entry 1 is queue 0's, 2 is queue 1's, 3 the second of queue 0.
    let found = [1, 2, 3].map(|entry| {
        let status = guest.command(code::REQUEST_HANDLE, entry, |_| unreachable!());
        (status.error(), status.result())
    });
    assert_eq!(found, [(0, 0x105), (0, 7), (0, 0x106)]);
    let entries = [0, 1, 2, 3, 4].map(|entry| guest.regs.entry(entry));
    assert_eq!(entries, [None, Some((0, 0)), Some((1, 0)), Some((0, 1)), None]);
    for wrong in [0, 4, 0xffff, 1 | IMS] {
        assert_eq!(guest.error(code::REQUEST_HANDLE, wrong), error::ENTRY_INDEX);
    }
    let orders = guest.well(code::DRAIN_QUEUE, queues(1));
    assert_eq!(orders, [Order { queue: 1, command: Command::Drain, settings: None }]);
    guest.well(code::RELEASE_HANDLE, 2);
    guest.well(code::RESET_QUEUE, queues(1));
    assert_eq!(guest.configured(1).0[..2], [32, 0], "its size is left");
    guest.well(code::ENABLE_QUEUE, 0);
    let orders = guest.well(code::DISABLE_DEVICE, 0);
    assert_eq!(orders, [Order { queue: 0, command: Command::Disable, settings: None }]);
    assert_eq!(guest.well(code::RESET_DEVICE, 0).len(), 2);
    assert_eq!(guest.configured(0).0, [0; 8]);
}

#[test]
fn an_old_version_shows_nothing_of_a_new_one() {
    let v2 = part(16, V2, &[1]);
    let of_v2 = v2.queue.general.with_batch_continuation(true).with_fill16(true);
    let v2 = Part { queue: Queue { general: of_v2, ..v2.queue }, ..v2 };
    let new = Guest::new(V2, core::slice::from_ref(&v2));
    let capabilities = QueueCapabilities([new.read(regs::WQCAP.offset())]);
    assert_eq!((new.read(0), capabilities.config_size()), (0x200, queue::WHOLE));
    assert!(capabilities.operations());
    assert_eq!(new.read(new.queue_at(0) + 32), v2.queue.operations[0]);
    let old = Guest::new(V1, &[part(16, V1, &[1])]);
    let capabilities = QueueCapabilities([old.read(regs::WQCAP.offset())]);
    assert_eq!((old.read(0), capabilities.config_size()), (0x100, 0));
    assert!(!capabilities.operations() && !capabilities.ats() && !capabilities.prs());
    let general = GeneralCapabilities([old.read(regs::GENCAP.offset())]);
    assert!(general.configuration() && general.command_capabilities());
    assert!(!general.block_on_fault() && !general.batch_continuation());
    assert_eq!((general.ims_size(), general.event_log(), old.offsets().ims()), (0, 0, 0));
    let pasids = 1 << code::DRAIN_PASID | 1 << code::ABORT_PASID;
    assert_eq!(old.read(regs::CMDCAP.offset()) & pasids, 0);
}

#[test]
fn queues_of_several_functions_show_what_they_have_in_common() {
    let mut other = part(32, V1, &[2]);
    let general = other.queue.general.with_overlapping_copy(false).with_max_transfer(20);
    other.queue = Queue { general, operations: [0xff, 0, 0, 0], ..other.queue };
    let guest = Guest::new(V1, &[part(16, V1, &[1]), other]);
    let general = GeneralCapabilities([guest.read(regs::GENCAP.offset())]);
    assert_eq!((general.max_transfer(), general.max_batch()), (20, 10));
    assert!(!general.overlapping_copy());
    assert_eq!(guest.read(regs::OPCAP.offset()), 0x7f);
    let queues = QueueCapabilities([guest.read(regs::WQCAP.offset())]);
    assert_eq!((queues.queues(), queues.total_size()), (2, 48));
    assert_eq!(guest.read(regs::GRPCAP.offset()), 2);
    assert_eq!(guest.read(regs::ENGCAP.offset()), 2);
}

#[test]
fn a_wrong_configuration_is_refused_as_a_device_does() {
    let parts = [part(16, V2, &[1]), part(16, V2, &[2])];
    let fresh = || {
        let mut guest = Guest::new(V2, &parts);
        guest.configure(0, wanted(16));
        guest
    };
    let device = |guest: &mut Guest| guest.error(code::ENABLE_DEVICE, 0);
    let mut guest = fresh();
    assert_eq!(device(&mut guest), error::GROUP_QUEUES, "a queue is in no group");
    guest.group(0, 1, 0);
    assert_eq!(device(&mut guest), error::GROUP, "a group has no engine");
    guest.group(0, 1, 4);
    assert_eq!(device(&mut guest), error::GROUP_ENGINES, "there is no such engine");
    guest.group(0, 3, 1);
    assert_eq!(device(&mut guest), error::GROUP_QUEUES, "the other queue has no size");
    guest.group(0, 1, 1);
    guest.group(1, 1, 2);
    assert_eq!(device(&mut guest), error::GROUP_QUEUES, "a queue is in two groups");
    guest.group(1, 0, 0);
    guest.configure(0, wanted(17));
    assert_eq!(device(&mut guest), error::SIZES, "it has less");
    guest.write(guest.queue_at(0), 16);
    assert_eq!(device(&mut guest), error::NONE);
    assert_eq!(device(&mut guest), error::DEVICE_NOT_DISABLED);

    let good = wanted(16);
    let wrong = [
        (good.with_dedicated(false), error::MODE),
        (good.with_block_on_fault(true), error::BLOCK_ON_FAULT),
        (good.with_pasid_enable(true), error::PASID_ENABLE),
        (good.with_max_batch(11), error::BATCH_SIZE),
        (good.with_ats_disable(true), error::ATS),
        (good.with_prs_disable(true), error::PRS),
        (good.with_operations(1 << 0x3f), error::OPERATIONS),
    ];
    for (config, expected) in wrong {
        let at = guest.queue_at(0);
        (1..8).for_each(|word| guest.write(at + 8 * word as u64, config.0[word]));
        assert_eq!(guest.error(code::ENABLE_QUEUE, 0), expected);
    }
    assert_eq!(guest.error(code::ENABLE_QUEUE, 1), error::QUEUE_SIZE);
    assert_eq!(guest.error(code::ENABLE_QUEUE, 2), error::QUEUE_INDEX);
    assert_eq!(guest.error(code::DRAIN_QUEUE, queues(0)), error::QUEUE_NOT_ENABLED);
    assert_eq!(guest.error(code::RESET_QUEUE, 1 << 2), error::QUEUE_INDEX);
    assert_eq!(guest.error(code::RESET_QUEUE, queues(0) | 1 << 16), error::QUEUE_INDEX);
    for command in [0, code::DRAIN_PASID, code::ABORT_PASID, 15, 31] {
        assert_eq!(guest.error(command, 0), error::COMMAND);
    }
}

#[test]
fn what_is_enabled_cannot_be_configured() {
    let mut guest = Guest::enabled(V1, &[part(16, V1, &[1])]);
    let groups = u64::from(guest.offsets().groups()) * 0x100;
    guest.write(groups, 0);
    assert_eq!(guest.read(groups), 1);
    guest.well(code::ENABLE_QUEUE, 0);
    let before = guest.configured(0);
    guest.write(guest.queue_at(0), 5 << 32 | 3);
    guest.write(guest.queue_at(0) + 8, 0);
    guest.write(guest.queue_at(0) + 24, u64::MAX);
    assert_eq!(guest.configured(0), before.with_threshold(5));
}

#[test]
fn a_second_command_is_an_error_of_the_guest() {
    let mut guest = Guest::enabled(V1, &[part(16, V1, &[1])]);
    guest.write(regs::GENCTRL.offset(), 1);
    assert_eq!(guest.begin(code::ENABLE_QUEUE, 0), Effect::Start);
    assert_eq!(guest.begin(code::RESET_DEVICE, 0), Effect::Interrupt);
    let found = SoftwareError([guest.read(regs::SWERROR.offset()), 0, 0, 0]);
    assert_eq!(found.error(), device_spec::dsa::registers::error::COMMAND_ACTIVE);
    assert_eq!(guest.regs.finish(0, Err(Fault::Refused(0x27))), Effect::Interrupt);
    assert_eq!(guest.status().error(), 0x27, "the device's own error is the guest's");
    assert_eq!(guest.configured(0).state(), state::DISABLED);
    assert_eq!(guest.regs.finish(0, Ok(())), Effect::None);
}

#[test]
fn errors_are_recorded_once_and_counted_never() {
    let mut guest = Guest::enabled(V1, &[part(16, V1, &[1])]);
    let work = Trouble::Work { error: 0x10, operation: 0x3f, address: None };
    assert_eq!(guest.regs.report(Some(0), work), Effect::None, "it was not asked for");
    guest.write(regs::SWERROR.offset(), 3);
    guest.write(regs::GENCTRL.offset(), 1);
    assert_eq!(guest.regs.report(Some(0), work), Effect::Interrupt);
    assert_eq!(guest.regs.report(Some(0), work), Effect::None);
    let found = SoftwareError([guest.read(regs::SWERROR.offset()), 0, 0, 0]);
    assert!(found.valid() && found.overflow() && found.queue_valid());
    assert_eq!((found.error(), found.operation(), found.queue()), (0x10, 0x3f, 0));
    guest.write(regs::SWERROR.offset(), 3);
    assert_eq!(guest.read(regs::SWERROR.offset()) & 3, 0);
}

#[test]
fn a_halted_device_wants_its_reset() {
    for (version, expected) in [(V1, error::HARDWARE), (V2, error::HALTED)] {
        let mut guest = Guest::enabled(version, &[part(16, version, &[1])]);
        guest.write(regs::GENCTRL.offset(), 2);
        guest.well(code::ENABLE_QUEUE, 0);
        assert_eq!(guest.regs.report(None, Trouble::Halted), Effect::Interrupt);
        assert_eq!(GeneralStatus([guest.read(regs::GENSTS.offset())]).state(), state::HALTED);
        assert_eq!(guest.error(code::ENABLE_DEVICE, 0), expected);
        let status = guest.command(code::RESET_DEVICE, 0, |_| Err(Fault::Halted));
        assert_eq!(status.error(), error::HARDWARE);
        guest.well(code::RESET_DEVICE, 0);
        assert_eq!(GeneralStatus([guest.read(regs::GENSTS.offset())]).state(), state::DISABLED);
    }
}

#[test]
fn a_queue_that_does_not_empty_stays_enabled() {
    let mut guest = Guest::enabled(V1, &[part(16, V1, &[1])]);
    guest.well(code::ENABLE_QUEUE, 0);
    let status = guest.command(code::DISABLE_DEVICE, 0, |_| Err(Fault::Timeout));
    assert_eq!(status.error(), error::HARDWARE);
    assert_eq!(guest.configured(0).state(), state::ENABLED);
    assert_eq!(GeneralStatus([guest.read(regs::GENSTS.offset())]).state(), state::ENABLED);
}

#[test]
fn handles_are_revoked_with_their_interface() {
    let mut guest = Guest::enabled(V1, &[part(16, V1, &[5])]);
    guest.well(code::ENABLE_QUEUE, 0);
    assert_eq!(guest.regs.replace(0, &part(15, V1, &[9])), None, "it has less");
    assert_eq!(guest.regs.replace(0, &part(16, V1, &[9, 10])), None);
    assert_eq!(guest.regs.replace(0, &part(32, V2, &[9])), Some(Effect::Interrupt));
    let causes = guest.regs.read(regs::INTCAUSE.offset(), Width::W4) as u32;
    assert_eq!(causes & cause::HANDLES_REVOKED, cause::HANDLES_REVOKED);
    let status = guest.command(code::REQUEST_HANDLE, 1, |_| unreachable!());
    assert_eq!(status.result(), 9);
    let queues = QueueCapabilities([guest.read(regs::WQCAP.offset())]);
    assert_eq!(queues.total_size(), 16, "as it was promised");
}

#[test]
fn tables_lie_apart_whatever_there_is() {
    for count in [1, 8, 64, 255] {
        for version in [V1, V2] {
            let parts: Vec<_> = (0..count).map(|index| part(1, version, &[index; 8])).collect();
            let guest = Guest::new(version, &parts);
            let (entries, msix, pending) = guest.regs.msix();
            let offsets = guest.offsets();
            let [groups, queues, permissions] =
                [offsets.groups(), offsets.queues(), offsets.permissions()]
                    .map(|unit| u64::from(unit) * 0x100);
            let ends = [
                (groups, groups + 64 * u64::from(count)),
                (queues, guest.queue_at(count.into())),
                (permissions, permissions + 8 * u64::from(entries)),
                (msix, msix + 16 * u64::from(entries)),
                (pending, pending + u64::from(entries).div_ceil(64) * 8),
            ];
            assert!(ends.is_sorted_by(|one, next| one.1 <= next.0), "{count}");
            assert!(ends[2].1 <= 0xf000 && (ends[3].1 <= 0xf000 || ends[3].0 >= 0x1_0000));
            assert!(ends[4].1 <= guest.regs.bytes());
        }
    }
    let parts: Vec<_> = (0..255).map(|_| part(1, V1, &[1; 9])).collect();
    assert!(VirtualRegisters::new(V1, &parts).is_none(), "more than MSI-X can have");
    assert!(VirtualRegisters::new(V1, &[]).is_none());
}

/// Virtual registers on carved interfaces: what composition does.
struct Composed {
    taken: Taken,
    ids: Vec<InterfaceId>,
    guest: Guest,
}

impl Composed {
    fn new(config: dsa_model::Config, version: Version, count: usize) -> Self {
        let mut taken = Taken::new(config);
        let ids: Vec<_> = (0..count)
            .map(|index| {
                let want = Want { queues: 1, entries: 16, slots: 1, version, ..Want::default() };
                let id = taken.dsa.carve(&want).unwrap();
                taken.dsa.bind(id, Pasid::try_new(1)).unwrap();
                let message =
                    crate::SlotMessage { address: 0xfee0_1000, data: 0x41 + index as u32 };
                taken.dsa.slot(id, 0, Some(message), false).unwrap();
                id
            })
            .collect();
        let part = |id: &InterfaceId| {
            let interface = taken.dsa.interface(*id).unwrap();
            Part { queue: interface.queue.unwrap(), handles: interface.slots.clone() }
        };
        let parts: Vec<_> = ids.iter().map(part).collect();
        let mut guest = Guest::new(version, &parts);
        for (index, part) in (0..).zip(&parts) {
            guest.configure(index, wanted(part.queue.entries));
            guest.group(index, 1 << index, 1 << index);
        }
        Self { taken, ids, guest }
    }

    fn command(&mut self, code: u8, operand: u32) -> CommandStatus {
        let Self { taken, ids, guest } = self;
        guest.command(code, operand, |order| {
            let id = ids[order.queue];
            if let Some(settings) = order.settings {
                taken.dsa.set(id, Setting::Queue(settings))?;
            }
            taken.command(id, order.command)
        })
    }
}

#[test]
fn a_guest_copies_by_its_own_queues_and_handles() {
    use device_spec::dsa::descriptor::flag;
    let mut vdev = Composed::new(dsa_model::Config::of(regs::Version::V2_0), V1, 2);
    assert_eq!(vdev.command(code::ENABLE_DEVICE, 0).error(), error::NONE);
    for index in 0..2 {
        assert_eq!(vdev.command(code::ENABLE_QUEUE, index).error(), error::NONE);
        let handle = vdev.command(code::REQUEST_HANDLE, index + 1).result();
        let plain = copy(8);
        let descriptor = plain.with_flags(plain.flags() | flag::INTERRUPT).with_handle(handle);
        vdev.taken.rig.put(1, crate::dsa::tests::RECORD, &[0; 32]);
        assert!(vdev.taken.submit(vdev.ids[index as usize], descriptor));
        vdev.taken.rig.run();
        assert_eq!(vdev.taken.rig.record(1).status(), status::SUCCESS);
        assert_eq!(vdev.taken.rig.messages(), [(0xfee0_1000, 0x41 + index)]);
    }
    // What the guest asked for binds it, though the device could do more.
    vdev.taken.rig.put(1, crate::dsa::tests::RECORD, &[0; 32]);
    assert!(vdev.taken.submit(vdev.ids[0], copy((1 << 21) + 1)));
    vdev.taken.rig.run();
    assert_eq!(vdev.taken.rig.record(1).status(), status::TRANSFER_SIZE);
    assert_eq!(vdev.command(code::DISABLE_QUEUE, queues(0)).error(), error::NONE);
    assert!(!vdev.taken.submit(vdev.ids[0], copy(8)));
    assert!(vdev.taken.submit(vdev.ids[1], copy(8)), "the other one goes on");
    assert_eq!(vdev.command(code::RESET_DEVICE, 0).error(), error::NONE);
    assert!(!vdev.taken.submit(vdev.ids[1], copy(8)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any width, anywhere, any value; interfaces answer anything.
    #[test]
    fn no_access_breaks_it(
        accesses in proptest::collection::vec((0_u64..0x4000, 0_usize..4, any::<u64>(), 0_u8..40), 1..200),
        new in any::<bool>(),
    ) {
        let version = if new { V2 } else { V1 };
        let mut guest = Guest::enabled(version, &[part(16, version, &[1]), part(4, version, &[2])]);
        let capabilities = |guest: &Guest| {
            (0..0x80).step_by(8).map(|at| guest.read(at)).collect::<Vec<_>>()
        };
        let before = capabilities(&guest);
        for (offset, width, value, code) in accesses {
            let width = [Width::W1, Width::W2, Width::W4, Width::W8][width];
            let effect = match code {
                0..16 => guest.begin(code, value as u32 & 0xf_ffff),
                _ => guest.regs.write(offset, width, value),
            };
            prop_assert!(guest.regs.read(offset, width) <= width.mask());
            let orders: Vec<_> = guest.regs.orders().collect();
            prop_assert_eq!(effect == Effect::Start, !orders.is_empty());
            for order in orders {
                let result = if value & 1 == 0 { Ok(()) } else { Err(Fault::Timeout) };
                let _ = guest.regs.finish(order.queue, result);
            }
            prop_assert!(!guest.status().active());
        }
        prop_assert_eq!(capabilities(&guest), before);
    }
}
