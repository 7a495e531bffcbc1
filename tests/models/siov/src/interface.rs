//! An assignable interface: the registers of its page, and the descriptor that it carries out.

use hw::{Iova, PAGE_SIZE, Pasid};

use crate::{DESCRIPTOR_BYTES, MOST_BYTES, Upstream, control, flag, operation, page};

/// How a descriptor ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// There was none.
    #[default]
    Idle = 0,
    /// All is done.
    Done = 1,
    /// Reading was refused.
    ReadRefused = 2,
    /// Writing was refused.
    WriteRefused = 3,
    /// The completion record was refused; its register says what is missing in memory.
    RecordRefused = 4,
    /// There is no such operation, or no such number of bytes.
    Malformed = 5,
    /// The interface has no PASID.
    Disabled = 6,
    /// There is no such interrupt slot, or it is another interface's. Nothing was done.
    SlotRefused = 7,
}

/// How far a descriptor came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Completion {
    pub(crate) status: Status,
    pub(crate) bytes: u32,
    pub(crate) fault: Iova,
}

impl Completion {
    pub(crate) fn of(status: Status) -> Self {
        Self { status, ..Self::default() }
    }

    fn words(self) -> [u64; 2] {
        [u64::from(self.bytes) << 32 | self.status as u64, self.fault.raw()]
    }
}

/// A descriptor as it was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor([u32; DESCRIPTOR_BYTES as usize / 4]);

impl Descriptor {
    fn word(&self, index: usize) -> u64 {
        u64::from(self.0[2 * index + 1]) << 32 | u64::from(self.0[2 * index])
    }

    /// The interrupt slot, if one is asked for.
    pub(crate) fn slot(&self) -> Option<usize> {
        let word = self.word(0);
        (word & flag::INTERRUPT != 0).then_some((word >> 16) as usize & 0xffff)
    }

    fn carry_out(&self, pasid: Option<Pasid>, upstream: &mut impl Upstream) -> Completion {
        let (head, second, third) = (self.word(0), self.word(2), self.word(3));
        let bytes = (head >> 32) as u32;
        if bytes == 0 || bytes > MOST_BYTES {
            return Completion::of(Status::Malformed);
        }
        let from = match head & 0xff {
            operation::COPY => Some(Iova::new(second)),
            operation::FILL => None,
            _ => return Completion::of(Status::Malformed),
        };
        let to = Iova::new(third);
        let mut buffer = [0; PAGE_SIZE as usize];
        let mut done = 0;
        while done < bytes {
            let (to, from) =
                (to.wrapping_add(done.into()), from.map(|from| from.wrapping_add(done.into())));
            let room = |at: Iova| PAGE_SIZE - at.raw() % PAGE_SIZE;
            let most = room(to).min(from.map_or(PAGE_SIZE, room)) as u32;
            let chunk = most.min(bytes - done);
            let buffer = &mut buffer[..chunk as usize];
            match from {
                Some(from) if upstream.read(pasid, from, buffer).is_err() => {
                    return Completion { status: Status::ReadRefused, bytes: done, fault: from };
                }
                Some(_) => {}
                // Pages may begin in the midst of the eight bytes.
                None => {
                    let pattern = second.to_le_bytes().into_iter().cycle();
                    let pattern = pattern.skip(done as usize % 8);
                    buffer.iter_mut().zip(pattern).for_each(|(byte, new)| *byte = new);
                }
            }
            if upstream.write(pasid, to, buffer).is_err() {
                return Completion { status: Status::WriteRefused, bytes: done, fault: to };
            }
            done += chunk;
        }
        Completion { status: Status::Done, bytes, fault: Iova::ZERO }
    }
}

/// The PASID in its register.
pub(crate) const PASIDS: u32 = (1 << Pasid::BITS) - 1;

/// An interface.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interface {
    /// Its PASID register.
    pub(crate) pasid: u32,
    descriptor: Descriptor,
    completion: Completion,
    count: u32,
}

impl Interface {
    /// As whom it sends: under a PASID or without one; `None` where it may not at all.
    pub(crate) fn sender(&self) -> Option<Option<Pasid>> {
        if self.pasid & control::UNTAGGED != 0 {
            return Some(None);
        }
        let valid = self.pasid & control::PASID_VALID != 0;
        valid.then(|| Pasid::try_new(self.pasid & PASIDS))
    }

    /// Four bytes of its page.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        let [status, fault] = self.completion.words();
        let (word, high) = match offset & !7 {
            page::STATUS => (status, offset & 4 != 0),
            page::FAULT => (fault, offset & 4 != 0),
            page::COUNT => (self.count.into(), offset & 4 != 0),
            // Descriptors are not read back: on hardware a portal is nothing but a way in.
            _ => return 0,
        };
        if high { (word >> 32) as u32 } else { word as u32 }
    }

    /// Writes four bytes of a descriptor; gives it once it is whole.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Option<Descriptor> {
        *self.descriptor.0.get_mut(offset as usize / 4)? = value;
        (offset + 4 == DESCRIPTOR_BYTES).then_some(self.descriptor)
    }

    /// Ends a descriptor with what speaks against it, or carries it out and writes its completion record.
    pub(crate) fn run(
        &mut self,
        descriptor: Descriptor,
        pasid: Result<Option<Pasid>, Status>,
        upstream: &mut impl Upstream,
    ) {
        self.count = self.count.wrapping_add(1);
        self.completion = match pasid {
            Ok(pasid) => descriptor.carry_out(pasid, upstream),
            Err(status) => Completion::of(status),
        };
        if let (Ok(pasid), true) = (pasid, descriptor.word(0) & flag::RECORD != 0) {
            let at = Iova::new(descriptor.word(1)).align_down(16);
            let [status, fault] = self.completion.words().map(u64::to_le_bytes);
            if upstream.write(pasid, at, [status, fault].as_flattened()).is_err() {
                (self.completion.status, self.completion.fault) = (Status::RecordRefused, at);
            }
        }
    }
}
