//! What descriptors do (8.3), in pieces that lie within a page of each operand.

use device_spec::dsa::completion::{CompletionRecord, operand, status};
use device_spec::dsa::descriptor::{Descriptor, flag, operation as op};
use hw::PAGE_SIZE;

use crate::check::{Work, ended};
use crate::crc::Crc;
use crate::memory::{Memory, Refusal, ahead, back};
use crate::{Bus, Device};

/// A descriptor under way.
struct Operation<'a, B> {
    descriptor: Descriptor,
    memory: Memory<'a, B>,
    buffer: [u8; PAGE_SIZE as usize],
    /// Bytes done.
    done: u64,
    /// Those that are compared differ, or the copy goes backwards.
    result: bool,
    crc: Option<Crc>,
}

impl Device {
    /// Carries out a descriptor that is no batch.
    pub(crate) fn perform(&self, work: &Work, bus: &mut impl Bus) -> CompletionRecord {
        let mut operation = Operation {
            descriptor: work.descriptor(),
            memory: Memory::of(self, work, bus),
            buffer: [0; _],
            done: 0,
            result: false,
            crc: None,
        };
        let ended_well = match work.descriptor().operation() {
            op::MEMORY_MOVE => operation.copy(),
            op::FILL => operation.fill(),
            op::COMPARE => operation.compare(),
            op::COMPARE_PATTERN => operation.compare_pattern(),
            op::DUALCAST => operation.dualcast(),
            op::CRC | op::COPY_CRC => operation.crc(),
            _ => Ok(()),
        };
        let record = match ended_well.and_then(|()| operation.read_back()) {
            Err(refusal) => refusal.record(operation.done as u32, self.config.second()),
            Ok(()) => operation.success(),
        };
        let record = match operation.crc {
            Some(crc) => record.with_crc(crc.value().into()),
            None => record,
        };
        record.with_result(operation.result.into())
    }
}

impl<B: Bus> Operation<'_, B> {
    fn size(&self) -> u64 {
        self.descriptor.size().into()
    }

    fn has(&self, flag: u32) -> bool {
        self.descriptor.flags() & flag != 0
    }

    /// Bytes of the next piece, which begins at each of `addresses`.
    fn piece<const N: usize>(&self, addresses: [u64; N]) -> usize {
        let room = addresses.into_iter().map(ahead).min().unwrap_or(PAGE_SIZE);
        room.min(self.size() - self.done) as usize
    }

    /// Where an operand goes on.
    fn next(&self, operand: u64) -> u64 {
        operand.wrapping_add(self.done)
    }

    fn copy(&mut self) -> Result<(), Refusal> {
        let (source, destination) = (self.descriptor.source(), self.descriptor.destination());
        // Of a destination that begins within the source, the end comes first.
        if (1..self.size()).contains(&destination.wrapping_sub(source)) {
            return self.copy_backwards(source, destination);
        }
        while self.done < self.size() {
            let (from, to) = (self.next(source), self.next(destination));
            let bytes = self.piece([from, to]);
            let buffer = &mut self.buffer[..bytes];
            self.memory.read(from, buffer, operand::SOURCE)?;
            self.memory.write(to, buffer, operand::DESTINATION)?;
            self.done += bytes as u64;
        }
        Ok(())
    }

    fn copy_backwards(&mut self, source: u64, destination: u64) -> Result<(), Refusal> {
        self.result = true;
        while self.done < self.size() {
            let left = self.size() - self.done;
            let room = back(source.wrapping_add(left)).min(back(destination.wrapping_add(left)));
            let bytes = room.min(left);
            let buffer = &mut self.buffer[..bytes as usize];
            self.memory.read(source.wrapping_add(left - bytes), buffer, operand::SOURCE)?;
            let to = destination.wrapping_add(left - bytes);
            self.memory.write(to, buffer, operand::DESTINATION)?;
            self.done += bytes;
        }
        self.result = false;
        Ok(())
    }

    fn dualcast(&mut self) -> Result<(), Refusal> {
        let (source, first) = (self.descriptor.source(), self.descriptor.destination());
        let second = self.descriptor.second_destination();
        while self.done < self.size() {
            let (from, first, second) = (self.next(source), self.next(first), self.next(second));
            let bytes = self.piece([from, first, second]);
            let buffer = &mut self.buffer[..bytes];
            self.memory.read(from, buffer, operand::SOURCE)?;
            self.memory.write(first, buffer, operand::DESTINATION)?;
            self.memory.write(second, buffer, operand::SECOND_DESTINATION)?;
            self.done += bytes as u64;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Refusal> {
        let words = [self.descriptor.pattern(), self.descriptor.pattern_high()];
        let words = words.map(u64::to_le_bytes);
        let pattern = words.as_flattened();
        let pattern = if self.has(flag::FILL16) { pattern } else { &pattern[..8] };
        while self.done < self.size() {
            let to = self.next(self.descriptor.destination());
            let bytes = self.piece([to]);
            // Pages may begin in the midst of the pattern.
            let skipped = self.done as usize % pattern.len();
            let buffer = &mut self.buffer[..bytes];
            let pattern = pattern.iter().cycle().skip(skipped);
            buffer.iter_mut().zip(pattern).for_each(|(byte, new)| *byte = *new);
            self.memory.write(to, buffer, operand::DESTINATION)?;
            self.done += bytes as u64;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), Refusal> {
        let (first, second) = (self.descriptor.source(), self.descriptor.destination());
        let mut other = [0; PAGE_SIZE as usize];
        while self.done < self.size() && !self.result {
            let (first, second) = (self.next(first), self.next(second));
            let bytes = self.piece([first, second]);
            let other = &mut other[..bytes];
            self.memory.read(first, &mut self.buffer[..bytes], operand::SOURCE)?;
            self.memory.read(second, other, operand::SECOND_SOURCE)?;
            self.find_difference(bytes, |at| other[at]);
        }
        Ok(())
    }

    fn compare_pattern(&mut self) -> Result<(), Refusal> {
        let pattern = self.descriptor.compared().to_le_bytes();
        while self.done < self.size() && !self.result {
            let from = self.next(self.descriptor.source());
            let bytes = self.piece([from]);
            self.memory.read(from, &mut self.buffer[..bytes], operand::SOURCE)?;
            let skipped = self.done as usize;
            self.find_difference(bytes, |at| pattern[(skipped + at) % 8]);
        }
        Ok(())
    }

    /// Goes on to the first of `bytes` in the buffer that is not as `expected` has it, or behind them.
    fn find_difference(&mut self, bytes: usize, expected: impl Fn(usize) -> u8) {
        let differs = |(at, byte): (usize, &u8)| *byte != expected(at);
        let found = self.buffer[..bytes].iter().enumerate().position(differs);
        self.result = found.is_some();
        self.done += found.unwrap_or(bytes) as u64;
    }

    fn crc(&mut self) -> Result<(), Refusal> {
        let mut seed = (self.descriptor.seed() as u32).to_le_bytes();
        if self.has(flag::READ_SEED) {
            let from = self.descriptor.seed_address();
            self.memory.read(from, &mut seed, operand::SECOND_SOURCE)?;
        }
        let seed = u32::from_le_bytes(seed);
        let mut crc = Crc::new(seed, self.has(flag::CRC_RAW), self.has(flag::CRC_UNREFLECTED));
        let copies = self.descriptor.operation() == op::COPY_CRC;
        while self.done < self.size() {
            let (from, to) =
                (self.next(self.descriptor.source()), self.next(self.descriptor.destination()));
            let bytes = self.piece(if copies { [from, to] } else { [from; 2] });
            let buffer = &mut self.buffer[..bytes];
            self.memory.read(from, buffer, operand::SOURCE)?;
            if copies {
                self.memory.write(to, buffer, operand::DESTINATION)?;
            }
            crc.take(buffer);
            self.done += bytes as u64;
            self.crc = Some(crc);
        }
        crc.pad();
        self.crc = Some(crc);
        Ok(())
    }

    /// Reads the destination's last byte, if that is asked for: what was written before is there, or it is told (3.9).
    fn read_back(&mut self) -> Result<(), Refusal> {
        if !self.has(flag::DESTINATION_READBACK) {
            return Ok(());
        }
        let last = self.descriptor.destination().wrapping_add(self.size() - 1);
        let read = self.memory.read(last, &mut [0], operand::DESTINATION);
        read.map_err(|refusal| Refusal { status: status::HARDWARE_WRITE, ..refusal })
    }

    /// The record of what was done to its end.
    fn success(&self) -> CompletionRecord {
        let expected = self.descriptor.expected() & 1 != 0;
        if self.has(flag::CHECK_RESULT) && self.result != expected {
            return ended(status::FALSE_PREDICATE).with_bytes(self.difference());
        }
        ended(status::SUCCESS).with_bytes(self.difference())
    }

    /// Where a difference is; 0 without one.
    fn difference(&self) -> u32 {
        if self.result { self.done as u32 } else { 0 }
    }
}
