//! The function on a memory of its own for each PASID.

extern crate std;

use std::collections::BTreeMap;
use std::vec::Vec;

use hw::{Iova, Pasid, Width};

use crate::{DVSEC, Device, MOST_BYTES, Refused, Status, Upstream, control, flag, operation, page};

/// Stands for no PASID.
const NONE: u32 = u32::MAX;

/// Bytes by PASID and address, those that are there; and the messages that came.
#[derive(Default)]
struct Memory {
    bytes: BTreeMap<(u32, u64), u8>,
    messages: Vec<(u64, u32)>,
}

impl Memory {
    fn with(pasid: u32, at: u64, bytes: &[u8]) -> Self {
        let bytes = bytes.iter().zip(at..).map(|(byte, at)| ((pasid, at), *byte));
        Self { bytes: bytes.collect(), messages: Vec::new() }
    }

    fn at(&self, pasid: u32, at: u64, count: u64) -> Vec<u8> {
        (at..at + count).map(|at| self.bytes[&(pasid, at)]).collect()
    }
}

impl Upstream for Memory {
    fn read(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &mut [u8]) -> Result<(), Refused> {
        assert!(iova.raw() % 0x1000 + bytes.len() as u64 <= 0x1000, "past the page");
        for (byte, at) in bytes.iter_mut().zip(iova.raw()..) {
            *byte = *self.bytes.get(&(pasid.map_or(NONE, Pasid::raw), at)).ok_or(Refused)?;
        }
        Ok(())
    }

    fn write(&mut self, pasid: Option<Pasid>, iova: Iova, bytes: &[u8]) -> Result<(), Refused> {
        assert!(iova.raw() % 0x1000 + bytes.len() as u64 <= 0x1000, "past the page");
        for (byte, at) in bytes.iter().zip(iova.raw()..) {
            *self.bytes.get_mut(&(pasid.map_or(NONE, Pasid::raw), at)).ok_or(Refused)? = *byte;
        }
        Ok(())
    }

    fn message(&mut self, address: u64, data: u32) {
        self.messages.push((address, data));
    }
}

/// A function whose interface `n` has PASID `5 + n`.
fn device(memory: &mut Memory) -> Device {
    let mut device = Device::default();
    for interface in 0..3 {
        let value = control::PASID_VALID | (5 + interface as u32);
        device.write(control::pasid(interface), Width::W4, value.into(), memory);
    }
    device
}

fn submit(device: &mut Device, interface: usize, words: [u64; 4], memory: &mut Memory) -> u64 {
    for (number, word) in (0..).zip(words.into_iter().chain([0; 4])) {
        device.write(page::at(interface) + 8 * number, Width::W8, word, memory);
    }
    device.read(page::at(interface) + page::STATUS, Width::W8)
}

fn is(status: u64, wanted: Status) -> bool {
    status as u8 == wanted as u8
}

#[test]
fn it_says_what_it_is() {
    let device = Device::default();
    assert_eq!(device.read(control::SIGNATURE, Width::W8), 16 << 48 | 7 << 32 | 0x564f_4953);
    assert_eq!(DVSEC[0] >> 20, 24);
    assert_eq!(device.read(control::slot(0) + 12, Width::W4), u64::from(control::MASKED));
}

#[test]
fn a_copy_over_pages_keeps_to_its_pasid_and_leaves_a_record() {
    let bytes: Vec<u8> = (0..0x6000).map(|n: u32| (n / 3) as u8).collect();
    let mut memory = Memory::with(6, 0x1000, &bytes);
    let mut device = device(&mut memory);
    let head = operation::COPY | flag::RECORD | 0x1234 << 32;
    let words = [head, 0x6ff0, 0x1ff8, 0x4801];
    let status = submit(&mut device, 1, words, &mut memory);
    assert_eq!(status, 0x1234 << 32 | 1);
    assert_eq!(memory.at(6, 0x4801, 0x1234), bytes[0xff8..0xff8 + 0x1234]);
    assert_eq!(memory.at(6, 0x6ff0, 8), status.to_le_bytes());
    assert_eq!(device.read(page::at(1) + page::COUNT, Width::W4), 1);
    let status = submit(&mut device, 0, words, &mut memory);
    assert!(is(status, Status::RecordRefused), "another PASID has no such memory");
}

#[test]
fn a_fill_goes_on_in_its_pattern_over_pages() {
    let mut memory = Memory::with(5, 0x1000, &[0; 0x2000]);
    let mut device = device(&mut memory);
    let pattern = u64::from_le_bytes(*b"01234567");
    submit(&mut device, 0, [operation::FILL | 11 << 32, 0, pattern, 0x1ffb], &mut memory);
    assert_eq!(memory.at(5, 0x1ffa, 13), *b"\x0001234567012\0");
}

#[test]
fn what_is_refused_is_told_with_its_address() {
    let mut memory = Memory::with(5, 0x1000, &[7; 0x1000]);
    let mut device = device(&mut memory);
    let copy = operation::COPY | 0x20 << 32;
    for (words, wanted, fault) in [
        ([copy, 0, 0x1ff0, 0x1000], Status::ReadRefused, 0x2000),
        ([copy, 0, 0x1000, 0x1ff0], Status::WriteRefused, 0x2000),
        ([copy | flag::RECORD, 0x2000, 0x1000, 0x1800], Status::RecordRefused, 0x2000),
        ([3 | 8 << 32, 0, 0, 0], Status::Malformed, 0),
        ([operation::FILL, 0, 0, 0x1000], Status::Malformed, 0),
        ([operation::FILL | u64::from(MOST_BYTES + 1) << 32, 0, 0, 0], Status::Malformed, 0),
    ] {
        assert!(is(submit(&mut device, 0, words, &mut memory), wanted), "{words:x?}");
        assert_eq!(device.read(page::at(0) + page::FAULT, Width::W8), fault);
    }
    device.write(control::pasid(0), Width::W4, 5, &mut memory);
    assert!(is(submit(&mut device, 0, [copy, 0, 0x1000, 0x1800], &mut memory), Status::Disabled));
}

#[test]
fn slots_are_masked_and_keep_to_their_pasid() {
    let mut memory = Memory::with(5, 0x1000, &[0; 0x1000]);
    let mut device = device(&mut memory);
    let head = operation::FILL | flag::INTERRUPT | 2 << 16 | 8 << 32;
    let words = [head, 0, 1, 0x1000];
    let at = control::slot(2);
    device.write(at, Width::W8, 0xfee0_0010, &mut memory);
    device.write(at + 8, Width::W8, 0x77, &mut memory);
    device.write(at + 12, Width::W4, control::MASKED.into(), &mut memory);
    assert!(is(submit(&mut device, 0, words, &mut memory), Status::Done));
    assert_eq!(memory.messages, []);
    assert_eq!(device.read(at + 12, Width::W4), u64::from(control::MASKED | control::PENDING));
    let own = control::CHECKED | 5 << control::PASID_SHIFT;
    device.write(at + 12, Width::W4, own.into(), &mut memory);
    assert_eq!(memory.messages, [(0xfee0_0010, 0x77)]);
    assert!(is(submit(&mut device, 0, words, &mut memory), Status::Done));
    assert!(is(submit(&mut device, 1, words, &mut memory), Status::SlotRefused));
    assert!(is(
        submit(&mut device, 0, [words[0] | 16 << 16, 0, 1, 0x1000], &mut memory),
        Status::SlotRefused
    ));
    assert_eq!(memory.messages.len(), 2);
}

#[test]
fn a_whole_function_sends_without_a_pasid_and_is_masked_as_one() {
    let mut memory = Memory::with(NONE, 0x1000, &[0; 0x1000]);
    let mut device = Device::default();
    device.write(control::pasid(3), Width::W4, control::UNTAGGED.into(), &mut memory);
    device.write(control::slot(1) + 12, Width::W4, 0, &mut memory);
    device.hold(true, &mut memory);
    let words = [operation::FILL | flag::INTERRUPT | 1 << 16 | 8 << 32, 0, 7, 0x1000];
    assert!(is(submit(&mut device, 3, words, &mut memory), Status::Done));
    assert_eq!(memory.at(NONE, 0x1000, 8), 7_u64.to_le_bytes());
    assert_eq!((memory.messages.len(), device.read(control::PENDING_BITS, Width::W4)), (0, 0b10));
    device.hold(false, &mut memory);
    assert_eq!((memory.messages.len(), device.read(control::PENDING_BITS, Width::W4)), (1, 0));
}

#[test]
fn accesses_of_any_kind_are_survived() {
    let mut memory = Memory::default();
    let mut device = Device::default();
    for offset in 0..crate::BAR_BYTES + 64 {
        for width in [Width::W1, Width::W2, Width::W4, Width::W8] {
            device.write(offset, width, u64::MAX, &mut memory);
            let _ = device.read(offset, width);
        }
    }
}
