//! MOVDIR64B (SDM vol. 2): 64 bytes at once, to RAM or to a device. It comes here by a second-stage fault, from a CPU that
//! has the instruction, or by #UD from one that has not, where the machine's configuration has it emulated.

use hw::Width;
use vcpu::{Access, CpuContext, Vcpu};
use x86_spec::cpu::vector;
use x86_spec::segment::Segment;

use crate::cpu::Core;
use crate::exit::{Outcome, Outside, Refused, decode_memory};
use crate::insn::mmio::Place;
use crate::insn::{MemoryOperand, Mode, Register, SegmentRegister, linear};
use crate::walk::{self, WalkError};
use crate::{GuestMemory, Host};

/// What the instruction moves: 64 bytes, aligned at their destination.
pub(crate) type Line = [u8; 64];

/// The instruction with what it depends on.
pub(crate) struct LineMove {
    pub(crate) len: u8,
    pub(crate) source: MemoryOperand,
    pub(crate) destination: Register,
    pub(crate) context: CpuContext,
}

impl Core {
    /// #UD: the instruction is emulated, or the guest has its exception.
    pub(crate) fn undefined<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let context = vcpu.context();
        let insn = decode_memory(vcpu, &context, outside.memory);
        match insn.map(|insn| (insn.len, insn.place)) {
            Ok((len, Place::Line { source, destination })) => {
                self.move_line(&LineMove { len, source, destination, context }, vcpu, outside)
            }
            _ => self.fault(vcpu, vector::UD, None),
        }
    }

    /// Carries it out. Nothing is written unless all of it is.
    pub(crate) fn move_line<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        insn: &LineMove,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let (context, segment) = (&insn.context, insn.source.segment);
        let from = insn.source.offset(vcpu, context, insn.len);
        let to = insn.destination.read(vcpu);
        let source_fault = if segment == SegmentRegister::Ss { vector::SS } else { vector::GP };
        if Mode::of(context) != Mode::Bits64 {
            let registers = vcpu.registers();
            let source = match segment {
                SegmentRegister::Es => &registers.es,
                SegmentRegister::Cs => &registers.cs,
                SegmentRegister::Ss => &registers.ss,
                SegmentRegister::Ds => &registers.ds,
                SegmentRegister::Fs => &registers.fs,
                SegmentRegister::Gs => &registers.gs,
            };
            if !allows(source, from, Access::Read) {
                return self.fault(vcpu, source_fault, Some(0));
            }
            if !allows(&registers.es, to, Access::Write) {
                return self.general_protection(vcpu);
            }
        }
        let (from, to) = (linear(context, segment, from), linear(context, SegmentRegister::Es, to));
        if to % size_of::<Line>() as u64 != 0 {
            return self.general_protection(vcpu);
        }
        match self.load_line(context, from, outside) {
            Ok(line) => match self.store_line(context, to, &line, outside) {
                Ok(()) => self.complete(vcpu, insn.len),
                Err(why) => self.refused(why, vcpu),
            },
            Err(Refused::Walk(WalkError::NotCanonical)) => self.fault(vcpu, source_fault, Some(0)),
            Err(why) => self.refused(why, vcpu),
        }
    }

    /// Reads RAM at once, what has devices in it by parts.
    fn load_line<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<Line, Refused> {
        let mut line = [0; 64];
        match walk::read(context, outside.memory, address, &mut line) {
            Err(WalkError::NoMemory(_)) => {
                for (offset, part) in (0..).step_by(8).zip(line.as_chunks_mut().0) {
                    let at = address.wrapping_add(offset);
                    *part = self.load(context, at, Width::W8, outside)?.to_le_bytes();
                }
            }
            other => other?,
        }
        Ok(line)
    }

    /// Writes RAM or a device at an aligned address.
    fn store_line<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        line: &Line,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let gpa = walk::translate(context, outside.memory, address, Access::Write)?;
        match outside.memory.write(gpa, line) {
            Ok(()) => Ok(()),
            Err(_) => self.mmio_write_line(gpa, line, outside),
        }
    }
}

/// A line's parts of eight bytes, with their offsets.
pub(crate) fn parts(line: &Line) -> impl Iterator<Item = (u64, u64)> {
    (0..).step_by(8).zip(line.as_chunks().0.iter().map(|part| u64::from_le_bytes(*part)))
}

/// Whether a line at `offset` lies in a segment that allows the access, outside of 64-bit mode (SDM vol. 3, 6.3 and 6.5).
fn allows(segment: &Segment, offset: u64, access: Access) -> bool {
    const PRESENT: u32 = 1 << 7;
    const CODE: u32 = 1 << 3;
    const EXPAND_DOWN: u32 = 1 << 2;
    /// Of data writable, of code readable.
    const MORE: u32 = 1 << 1;
    const BIG: u32 = 1 << 14;
    let has = |bit| segment.access & bit != 0;
    let rights = match access {
        Access::Write => has(MORE) && !has(CODE),
        _ => has(MORE) || !has(CODE),
    };
    let (limit, last) = (u64::from(segment.limit), offset + size_of::<Line>() as u64 - 1);
    let fits = if has(EXPAND_DOWN) && !has(CODE) {
        offset > limit && last <= if has(BIG) { u32::MAX.into() } else { u16::MAX.into() }
    } else {
        last <= limit
    };
    has(PRESENT) && !has(Segment::UNUSABLE) && rights && fits
}
