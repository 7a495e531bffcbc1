//! Accesses that the second stage stopped: emulation of the instruction on a device's page.

use hw::{Gpa, PAGE_SIZE, Width};
use vcpu::{Access, CpuContext, Gpr, SecondStageFault, Vcpu};
use x86_spec::cpu::Rflags;

use crate::cpu::Core;
use crate::crash::Crash;
use crate::exit::{Outcome, Outside, Refused, decode_memory};
use crate::insn::alu::{self, Binary};
use crate::insn::mmio::{Instruction, Operation, Place, Source};
use crate::insn::{Register, SegmentRegister, linear, sign_extend};
use crate::walk::{self, WalkError};
use crate::{GuestMemory, Host};

impl Core {
    pub(crate) fn second_stage<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        fault: SecondStageFault,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let memory = outside.memory;
        if fault.during_walk {
            return Outcome::Crashed(Crash::NoPageTable(fault.gpa));
        }
        if fault.access == Access::Execute {
            return Outcome::Crashed(Crash::NoCode(fault.gpa));
        }
        let context = vcpu.context();
        let Ok(insn) = decode_memory(vcpu, &context, memory) else {
            return self.try_again(vcpu, memory);
        };
        match insn.place {
            Place::Operand(operand) => {
                let start = operand_start(&insn, operand.linear(vcpu, &context, insn.len), vcpu);
                // The CPU says which page, the instruction where in it: where the two differ, the instruction has
                // changed or its operand lies across two pages, which no device register does.
                if start % PAGE_SIZE != fault.gpa.page_offset()
                    || start % PAGE_SIZE + insn.width.bytes() > PAGE_SIZE
                {
                    return self.try_again(vcpu, memory);
                }
                match self.operate(&insn, fault.gpa, context.rflags, vcpu, outside) {
                    Ok(()) => self.complete(vcpu, insn.len),
                    Err(why) => self.refused(why, vcpu),
                }
            }
            Place::String { segment, address_width, rep } => {
                let string = StringAccess { insn, segment, address_width, rep, context };
                self.string(&string, vcpu, outside)
            }
        }
    }

    /// Carries out an instruction whose operand in memory is at `gpa`.
    fn operate<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        insn: &Instruction,
        gpa: Gpa,
        rflags: u64,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let width = insn.width;
        if let Operation::Store(source) = insn.operation {
            return self.mmio_write(gpa, width, value_of(source, vcpu), outside);
        }
        let old = self.mmio_read(gpa, width, outside)?;
        let (new, flags) = match insn.operation {
            Operation::Load(register) => {
                register.write(vcpu, old);
                return Ok(());
            }
            Operation::LoadSigned(register) => {
                register.write(vcpu, sign_extend(old, width));
                return Ok(());
            }
            Operation::IntoRegister(op, register) => {
                let (new, flags) = alu::binary(op, register.read(vcpu), old, width, rflags);
                if op.writes() {
                    register.write(vcpu, new);
                }
                (new, flags)
            }
            Operation::IntoMemory(op, source) => {
                alu::binary(op, old, value_of(source, vcpu), width, rflags)
            }
            Operation::Unary(op) => alu::unary(op, old, width, rflags),
            Operation::Bit(op, source) => alu::bit(op, old, value_of(source, vcpu), width, rflags),
            Operation::Exchange(register) => {
                let new = register.read(vcpu);
                register.write(vcpu, old);
                (new, rflags)
            }
            Operation::ExchangeAdd(register) => {
                let (new, flags) =
                    alu::binary(Binary::Add, old, register.read(vcpu), width, rflags);
                register.write(vcpu, old);
                (new, flags)
            }
            Operation::CompareExchange(new) => compare_exchange(new, old, width, rflags, vcpu),
            Operation::Store(_)
            | Operation::MoveString
            | Operation::StoreString
            | Operation::LoadString => return Ok(()),
        };
        if insn.operation.writes() {
            self.mmio_write(gpa, width, new, outside)?;
        }
        if flags != rflags {
            vcpu.set_rflags(flags);
        }
        Ok(())
    }

    /// One element of a string instruction; with REP the guest runs it again for the next.
    fn string<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        string: &StringAccess,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let (insn, context) = (&string.insn, &string.context);
        let counter = string.register(Gpr::Rcx);
        if string.rep && counter.read(vcpu) == 0 {
            return self.complete(vcpu, insn.len);
        }
        let (source, destination) = (string.register(Gpr::Rsi), string.register(Gpr::Rdi));
        let from = linear(context, string.segment, source.read(vcpu));
        let to = linear(context, SegmentRegister::Es, destination.read(vcpu));
        let accumulator = Register { gpr: Gpr::Rax, width: insn.width, high: false };
        let reads = insn.operation != Operation::StoreString;
        let writes = insn.operation.writes();
        let value = if reads {
            match self.load(context, from, insn.width, outside) {
                Ok(value) => value,
                Err(why) => return self.refused(why, vcpu),
            }
        } else {
            accumulator.read(vcpu)
        };
        if writes {
            if let Err(why) = self.store(context, to, insn.width, value, outside) {
                return self.refused(why, vcpu);
            }
        } else {
            accumulator.write(vcpu, value);
        }
        if reads {
            string.step(source, vcpu);
        }
        if writes {
            string.step(destination, vcpu);
        }
        if string.rep {
            let left = counter.read(vcpu).wrapping_sub(1);
            counter.write(vcpu, left);
            if counter.read(vcpu) != 0 {
                self.retries = Default::default();
                return Outcome::Resume;
            }
        }
        self.complete(vcpu, insn.len)
    }

    /// Reads RAM or a device at a linear address.
    fn load<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        width: Width,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<u64, Refused> {
        let memory = outside.memory;
        let mut bytes = [0; 8];
        let part = bytes.get_mut(..width.bytes() as usize).unwrap_or_default();
        let gpa = walk::translate(context, memory, address, Access::Read)?;
        match walk::read(context, memory, address, part) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(WalkError::NoMemory(_)) => self.mmio_read(gpa, width, outside),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Writes RAM or a device at a linear address.
    fn store<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        width: Width,
        value: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let memory = outside.memory;
        let bytes = value.to_le_bytes();
        let part = bytes.get(..width.bytes() as usize).unwrap_or_default();
        let gpa = walk::translate(context, memory, address, Access::Write)?;
        match walk::write(context, memory, address, part) {
            Err(WalkError::NoMemory(_)) => self.mmio_write(gpa, width, value, outside),
            other => Ok(other?),
        }
    }
}

/// A string instruction with what it depends on.
struct StringAccess {
    insn: Instruction,
    segment: SegmentRegister,
    address_width: Width,
    rep: bool,
    context: CpuContext,
}

impl StringAccess {
    const fn register(&self, gpr: Gpr) -> Register {
        Register { gpr, width: self.address_width, high: false }
    }

    /// Moves an index register by one element, in RFLAGS.DF's direction.
    fn step<V: Vcpu>(&self, index: Register, vcpu: &mut V) {
        let bytes = self.insn.width.bytes();
        let forward = self.context.rflags & Rflags::DF.bits() == 0;
        let step = if forward { bytes } else { bytes.wrapping_neg() };
        let next = index.read(vcpu).wrapping_add(step);
        index.write(vcpu, next);
    }
}

/// CMPXCHG with `old` in memory: what is stored, and the flags.
fn compare_exchange<V: Vcpu>(
    new: Register,
    old: u64,
    width: Width,
    rflags: u64,
    vcpu: &mut V,
) -> (u64, u64) {
    let accumulator = Register { gpr: Gpr::Rax, width, high: false };
    let expected = accumulator.read(vcpu);
    let (_, flags) = alu::binary(Binary::Cmp, expected, old, width, rflags);
    if expected == old {
        return (new.read(vcpu), flags);
    }
    accumulator.write(vcpu, old);
    (old, flags)
}

fn value_of<V: Vcpu>(source: Source, vcpu: &V) -> u64 {
    match source {
        Source::Register(register) => register.read(vcpu),
        Source::Immediate(value) => value,
    }
}

/// Where the operand starts: at the effective address, but for bit operations whose offset is in a register, which reach
/// beyond it by as many operands as the offset says, up or down (SDM vol. 2, BT).
fn operand_start<V: Vcpu>(insn: &Instruction, address: u64, vcpu: &V) -> u64 {
    match insn.operation {
        Operation::Bit(_, Source::Register(register)) => {
            let bits = 8 * insn.width.bytes();
            let offset = sign_extend(register.read(vcpu), insn.width) as i64;
            let operands = offset.div_euclid(bits as i64);
            address.wrapping_add((operands as u64).wrapping_mul(insn.width.bytes()))
        }
        _ => address,
    }
}
