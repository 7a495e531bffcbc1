//! Whatever is written, it concerns its writer, and the device stays one.

use proptest::prelude::*;

use super::*;

/// Addresses near what there is, and anywhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => MEMORY - 64..MEMORY + PAGES * PAGE_SIZE + 64,
        2 => (0..PAGES * 64).prop_map(|line| MEMORY + 64 * line),
        1 => any::<u64>(),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let operation = prop_oneof![4 => 0..0x12_u8, 1 => any::<u8>()];
    // Mostly flags that operations take.
    let flags = prop_oneof![4 => (0..1_u32 << 5).prop_map(|low| low | TOLD), 1 => any::<u32>()];
    let size = prop_oneof![4 => 0..0x3000_u32, 1 => any::<u32>()];
    let owner = (prop_oneof![Just(PASID), Just(OTHER), any::<u32>()], any::<bool>());
    let tail = prop_oneof![4 => Just(0), 1 => address()];
    (operation, flags, size, owner, (address(), address(), address()), 0..4_u16, tail).prop_map(
        |(
            operation,
            flags,
            size,
            (pasid, privileged),
            (record, source, destination),
            handle,
            tail,
        )| {
            Descriptor::default()
                .with_operation(operation)
                .with_flags(flags)
                .with_size(size)
                .with_pasid(pasid)
                .with_privileged(privileged)
                .with_completion(record & !31)
                .with_source(source)
                .with_destination(destination)
                .with_handle(handle)
                .with_seed(tail)
        },
    )
}

proptest! {
    #[test]
    fn descriptors_reach_their_owners_memory_and_entries_alone(
        version in prop_oneof![Just(Version::V1_0), Just(Version::V2_0)],
        list in prop::collection::vec(descriptor(), 8),
        descriptors in prop::collection::vec((descriptor(), any::<bool>()), 1..24),
    ) {
        let mut rig = Rig::enabled(version);
        // Entry 1 is the owner's, 2 the neighbour's, 3 of those without a PASID; each sends its number.
        for (entry, pasid) in [(1, Some(PASID)), (2, Some(OTHER)), (3, None)] {
            let (msix, ims) = (rig.device.layout().msix, rig.device.layout().ims);
            let permission = MsixPermission::default().with_pasid_enable(pasid.is_some());
            let permission = permission.with_pasid(pasid.unwrap_or(0));
            rig.write(rig.device.layout().permissions + 8 * entry, permission.0[0]);
            rig.write(msix + 16 * entry + 8, entry);
            let slot = ImsEntry::default().with_data(entry as u32);
            let slot = slot.with_pasid_enable(pasid.is_some()).with_pasid(pasid.unwrap_or(0));
            rig.write(ims + 16 * entry + 8, slot.0[1]);
        }
        for (at, member) in list.iter().enumerate() {
            rig.put(Some(PASID), LIST + 64 * at as u64, &bytes(*member));
        }
        let others = |rig: &Rig| {
            let pages = rig.machine.pages.clone().into_iter();
            pages.filter(|((pasid, _), _)| *pasid != Some(PASID)).collect::<Vec<_>>()
        };
        let before = others(&rig);
        // The list is whole in all ways, and what is in it is not.
        let batch = Descriptor::default().with_operation(op::BATCH).with_source(LIST).with_size(8);
        for (descriptor, ims) in descriptors.into_iter().chain([(batch, false), (batch, true)]) {
            let portal = Portal { queue: 0, ims, limited: false };
            prop_assert!(rig.submit(portal, Submission::Posted, descriptor));
            rig.device.run(&mut rig.machine);
        }
        prop_assert!(others(&rig) == before, "memory of another's was written");
        prop_assert!(rig.machine.messages.iter().all(|(_, data)| *data == 1));
        // The neighbour works on.
        let record = rig.run(1, copy(MEMORY, MEMORY + 0x1000, 64));
        prop_assert_eq!((record.status(), rig.state()), (status::SUCCESS, state::ENABLED));
    }

    #[test]
    fn registers_take_anything(
        writes in prop::collection::vec(
            (0..0x1_2000_u64, prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..4_u32),
            1..200,
        ),
        commands in prop::collection::vec((1..16_u8, any::<u32>()), 1..20),
    ) {
        let mut rig = Rig::enabled(Version::V2_0);
        let capabilities = |rig: &Rig| (0..0x10).map(|word| rig.read(8 * word)).collect::<Vec<_>>();
        let before = capabilities(&rig);
        let mut commands = commands.into_iter().cycle();
        for (number, (offset, value, width)) in writes.into_iter().enumerate() {
            let width = Width::try_new(1 << width).expect("a width");
            rig.device.write(offset, width, value, &mut rig.machine);
            rig.device.run(&mut rig.machine);
            if let (0, Some((code, operand))) = (number % 8, commands.next()) {
                rig.begin(code, operand);
            }
            rig.post(0, told(op::NOOP));
        }
        prop_assert_eq!(capabilities(&rig), before);
        // Nothing that software writes keeps it from being reset.
        rig.device.run(&mut rig.machine);
        prop_assert_eq!(rig.command(code::RESET_DEVICE, 0), error::NONE);
        rig.configure();
        prop_assert_eq!(rig.command(code::ENABLE_DEVICE, 0), error::NONE);
    }
}
