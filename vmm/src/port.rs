//! IN, OUT, INS and OUTS.

use hw::{PAGE_SIZE, Width};
use vcpu::{Access, CpuContext, Gpr, PortIo, Vcpu};
use x86_spec::cpu::Rflags;

use crate::cpu::Core;
use crate::exit::{Outcome, Outside, Refused, instruction};
use crate::insn::exiting::{self, PortInstruction};
use crate::insn::{Mode, Register, SegmentRegister, linear};
use crate::walk;
use crate::{GuestMemory, Host};

impl Core {
    pub(crate) fn port_io<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        access: PortIo,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        if access.string {
            return self.string_port_io(access, vcpu, outside);
        }
        let memory = outside.memory;
        let decode = || {
            let context = vcpu.context();
            self.decode_port(access, vcpu, &context, memory).map(|found| found.len)
        };
        let Some(len) = vcpu.instruction_len().or_else(decode) else {
            return self.try_again(vcpu, memory);
        };
        let accumulator = Register { gpr: Gpr::Rax, width: access.width, high: false };
        let answer = if access.write {
            self.port_write(access.port, access.width, accumulator.read(vcpu), outside)
        } else {
            self.port_read(access.port, access.width, outside).map(|value| {
                accumulator.write(vcpu, value);
                Outcome::Resume
            })
        };
        match answer {
            Ok(outcome) => {
                let _ = self.complete(vcpu, len);
                outcome
            }
            Err(why) => self.refused(why, vcpu),
        }
    }

    /// The instruction at RIP, if it is the one that `access` tells of.
    fn decode_port<V: Vcpu, M: GuestMemory>(
        &self,
        access: PortIo,
        vcpu: &V,
        context: &CpuContext,
        memory: &M,
    ) -> Option<PortInstruction> {
        let fetched = instruction(vcpu, context, memory);
        exiting::port(fetched.bytes(), Mode::of(context)).ok().filter(|found| {
            found.write == access.write
                && found.width == access.width
                && found.string == access.string
                && found.rep == access.rep
                && found.immediate.is_none_or(|port| access.port.0 == u16::from(port))
        })
    }

    /// INS and OUTS, as many of a REP's as a page holds: then the guest runs the instruction again for the rest, so that
    /// interrupts are not held up. Segment limits are not checked.
    fn string_port_io<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        access: PortIo,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let memory = outside.memory;
        let context = vcpu.context();
        let Some(insn) = self.decode_port(access, vcpu, &context, memory) else {
            return self.try_again(vcpu, memory);
        };
        let register = |gpr| Register { gpr, width: insn.address_width, high: false };
        let (counter, index) =
            (register(Gpr::Rcx), register(if insn.write { Gpr::Rsi } else { Gpr::Rdi }));
        let segment = if insn.write { insn.segment } else { SegmentRegister::Es };
        let bytes = insn.width.bytes();
        let step =
            if context.rflags & Rflags::DF.bits() == 0 { bytes } else { bytes.wrapping_neg() };
        let mut left = if insn.rep { counter.read(vcpu) } else { 1 };
        for _ in 0..PAGE_SIZE / bytes {
            if left == 0 {
                break;
            }
            let address = linear(&context, segment, index.read(vcpu));
            let outcome = match self.string_element(access, &context, address, outside) {
                Ok(outcome) => outcome,
                Err(why) => return self.refused(why, vcpu),
            };
            let next = index.read(vcpu).wrapping_add(step);
            index.write(vcpu, next);
            left -= 1;
            if insn.rep {
                counter.write(vcpu, left);
            }
            if outcome != Outcome::Resume {
                return outcome;
            }
        }
        if left == 0 { self.complete(vcpu, insn.len) } else { Outcome::Resume }
    }

    fn string_element<M: GuestMemory, H: Host>(
        &mut self,
        access: PortIo,
        context: &CpuContext,
        address: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<Outcome, Refused> {
        let memory = outside.memory;
        let mut bytes = [0; 4];
        let part = part_of(&mut bytes, access.width);
        if access.write {
            walk::read(context, memory, address, part)?;
            let value = u32::from_le_bytes(bytes).into();
            return self.port_write(access.port, access.width, value, outside);
        }
        // Reading a port may change its device: only once the bytes are known to have a place.
        let last = address.wrapping_add(access.width.bytes() - 1);
        walk::translate(context, memory, address, Access::Write)?;
        walk::translate(context, memory, last, Access::Write)?;
        let value = self.port_read(access.port, access.width, outside)? as u32;
        bytes = value.to_le_bytes();
        walk::write(context, memory, address, part_of(&mut bytes, access.width))?;
        Ok(Outcome::Resume)
    }
}

fn part_of(bytes: &mut [u8; 4], width: Width) -> &mut [u8] {
    bytes.get_mut(..width.bytes() as usize).unwrap_or_default()
}
