//! Interrupt entries and their handles.

use super::*;

#[test]
fn interrupt_entries_serve_their_pasid_alone() {
    for ims in [false, true] {
        let mut rig = Rig::enabled(Version::V1_0);
        let entry = ImsEntry::default().with_address(0xfee0_1000).with_data(0x41);
        let entry = entry.with_pasid_enable(true).with_pasid(PASID);
        let at = rig.device.layout().ims + 16;
        rig.write(at, entry.0[0]);
        rig.write(at + 8, entry.0[1]);
        let at = rig.device.layout().permissions + 8;
        rig.write(at, MsixPermission::default().with_pasid_enable(true).with_pasid(PASID).0[0]);
        let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_handle(1);
        for (queue, pasid, expected) in [
            (0, Some(PASID), status::SUCCESS),
            (1, Some(OTHER), status::INTERRUPT_HANDLE),
            (3, None, status::INTERRUPT_HANDLE),
        ] {
            rig.machine.messages.clear();
            rig.write(regs::SWERROR.offset(), 3);
            let portal = Portal { queue, ims, limited: false };
            assert!(rig.submit(portal, Submission::Posted, noop.with_completion(RECORD)));
            rig.device.run(&mut rig.machine);
            assert_eq!(rig.record(pasid, RECORD).status(), expected);
            let good = expected == status::SUCCESS;
            assert_eq!(rig.machine.messages.len(), usize::from(good));
            assert!(good || rig.error().error() == status::INTERRUPT_HANDLE);
        }
        assert_eq!(rig.run(0, noop.with_handle(9)).status(), status::INTERRUPT_HANDLE);
    }
}

#[test]
fn masked_interrupts_wait_and_ignored_ones_are_lost() {
    let mut rig = Rig::enabled(Version::V1_0);
    let (ims, permissions) = (rig.device.layout().ims, rig.device.layout().permissions);
    let entry = ImsEntry::default().with_data(0x41).with_pasid_enable(true).with_pasid(PASID);
    let word = |entry: ImsEntry| entry.0[1];
    rig.write(ims + 8, word(entry.with_mask(true)));
    let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_completion(RECORD);
    let by_ims = Portal { queue: 0, ims: true, limited: true };
    assert!(rig.submit(by_ims, Submission::Posted, noop));
    rig.device.run(&mut rig.machine);
    assert!(rig.machine.messages.is_empty());
    assert!(ImsEntry([0, rig.read(ims + 8)]).pending());
    // Software does not write the pending bit.
    rig.write(ims + 8, word(entry.with_mask(true)));
    rig.write(ims + 8, word(entry));
    assert_eq!(rig.machine.messages, [(0xfee0_0000, 0x41)]);
    rig.write(ims + 8, word(entry.with_ignore(true).with_mask(true)));
    assert!(rig.submit(by_ims, Submission::Posted, noop));
    rig.device.run(&mut rig.machine);
    assert!(!ImsEntry([0, rig.read(ims + 8)]).pending());
    // The MSI-X table, masked as a whole.
    rig.write(
        permissions + 8,
        MsixPermission::default().with_pasid_enable(true).with_pasid(PASID).0[0],
    );
    rig.device.set_function(Function { msix_masked: true, ..ALL }, &mut rig.machine);
    assert_eq!(rig.run(0, noop.with_handle(1)).status(), status::SUCCESS);
    let pending = rig.device.layout().pending;
    assert_eq!((rig.machine.messages.len(), rig.read(pending)), (1, 2));
    rig.device.set_function(ALL, &mut rig.machine);
    assert_eq!((rig.machine.messages[1], rig.read(pending)), ((0xfee0_1000, 0x41), 0));
    assert_eq!(rig.state(), state::ENABLED);
}

#[test]
fn ims_addresses_are_interrupts_only() {
    let mut rig = Rig::new(Config::of(Version::V1_0));
    let ims = rig.device.layout().ims;
    for refused in [0x1_fee0_0000, 0xfed0_0000, 0, u64::MAX] {
        rig.write(ims, refused);
        assert_eq!(rig.read(ims), 0xfee0_0000);
    }
    rig.write(ims, 0xfeef_fff7);
    assert_eq!(rig.read(ims), 0xfeef_fff4);
}

#[test]
fn user_mode_descriptors_interrupt_only_if_they_may() {
    let mut rig = Rig::new(Config::of(Version::V1_0));
    rig.configure();
    rig.write(regs::GENCFG.offset(), 0);
    rig.command(code::ENABLE_DEVICE, 0);
    for queue in [0, 3] {
        assert_eq!(rig.command(code::ENABLE_QUEUE, queue), error::NONE);
    }
    let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT);
    let record = rig.run(0, noop);
    assert_eq!((record.status(), record.invalid_flags()), (status::INVALID_FLAGS, flag::INTERRUPT));
    assert!(rig.machine.messages.is_empty());
    // Without PASIDs there are no users.
    assert_eq!(rig.run(3, noop).status(), status::SUCCESS);
    assert_eq!(rig.machine.messages.len(), 1);
}

#[test]
fn handles_are_requested_released_and_revoked() {
    let mut rig = Rig::new(Config { handles: true, ..Config::of(Version::V2_0) });
    rig.configure();
    rig.command(code::ENABLE_DEVICE, 0);
    rig.command(code::ENABLE_QUEUE, 0);
    let at = rig.device.layout().ims + 16 * 300;
    rig.write(at + 8, ImsEntry::default().with_pasid_enable(true).with_pasid(PASID).0[1]);
    assert_eq!(rig.read(regs::CMDCAP.offset()), 0x7ffe);
    assert_eq!(rig.command(code::REQUEST_HANDLE, 2048 | command::IMS), error::ENTRY_INDEX);
    assert_eq!(rig.command(code::REQUEST_HANDLE, 9), error::ENTRY_INDEX);
    assert_eq!(rig.command(code::REQUEST_HANDLE, 300 | command::IMS), error::NONE);
    let handle = rig.status().result();
    let noop = told(op::NOOP).with_flags(TOLD | flag::INTERRUPT).with_completion(RECORD);
    let end = |rig: &mut Rig, handle: u16| {
        let portal = Portal { queue: 0, ims: true, limited: false };
        assert!(rig.submit(portal, Submission::Posted, noop.with_handle(handle)));
        rig.device.run(&mut rig.machine);
        rig.record(Some(PASID), RECORD).status()
    };
    assert_eq!(end(&mut rig, 300), status::INTERRUPT_HANDLE);
    assert_eq!(end(&mut rig, handle), status::SUCCESS);
    rig.device.inject(Fault::RevokeHandles, &mut rig.machine);
    assert_eq!(rig.read(regs::INTCAUSE.offset()), cause::HANDLES_REVOKED.into());
    assert_eq!(end(&mut rig, handle), status::INTERRUPT_HANDLE);
    rig.command(code::REQUEST_HANDLE, 300 | command::IMS);
    let handle = rig.status().result();
    assert_eq!(end(&mut rig, handle), status::SUCCESS);
    assert_eq!(rig.command(code::RELEASE_HANDLE, 300 | command::IMS), error::NONE);
    assert_eq!(end(&mut rig, handle), status::INTERRUPT_HANDLE);
    // Where indices are handles there are no such commands.
    let mut rig = Rig::enabled(Version::V1_0);
    assert_eq!(rig.command(code::REQUEST_HANDLE, 0), error::COMMAND);
}
