//! Accesses that the second stage stopped: emulation of the instruction on a device's page.

use config::Policy;
use hw::{Gpa, PAGE_SIZE, Width};
use vcpu::{Access, CpuContext, Gpr, SecondStageFault, Vcpu};
use x86_spec::cpu::Rflags;

use crate::cpu::Core;
use crate::crash::Crash;
use crate::exit::{Outcome, Outside, Refused, decode_memory};
use crate::insn::alu::{self, Binary};
use crate::insn::mmio::{Instruction, Operation, Place, Source};
use crate::insn::{Register, SegmentRegister, linear, sign_extend};
use crate::line::LineMove;
use crate::walk::{self, WalkError};
use crate::{Backing, GuestMemory, Host};

impl Core {
    pub(crate) fn second_stage<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        fault: SecondStageFault,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let memory = outside.memory;
        if !self.has_device(fault.gpa) {
            match outside.host.fault(&fault) {
                Backing::Mapped => return Outcome::Resume,
                Backing::Protected => return self.protected(&fault, vcpu, outside),
                Backing::Device | Backing::Hidden => {}
            }
        }
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
                let place = match self.find_operand(&insn, start, fault.gpa, &context, memory) {
                    Some(place) => place,
                    // The instruction has changed.
                    None => return self.try_again(vcpu, memory),
                };
                match self.operate(&insn, place, &context, vcpu, outside) {
                    Ok(()) => self.complete(vcpu, insn.len),
                    Err(why) => self.refused(why, vcpu),
                }
            }
            Place::String { segment, address_width, rep } => {
                let string = StringAccess { insn, segment, address_width, rep, context };
                self.string(&string, vcpu, outside)
            }
            Place::Line { source, destination } => {
                let line = LineMove { len: insn.len, source, destination, context };
                self.move_line(&line, vcpu, outside)
            }
        }
    }

    /// An access to protected memory: a page fault, or the guest's end.
    fn protected<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        fault: &SecondStageFault,
        vcpu: &mut V,
        outside: &Outside<'_, M, H>,
    ) -> Outcome {
        self.counters.protected.note(fault.gpa.raw());
        if outside.vm.spec.unknown.mmio == Policy::Stop {
            return Outcome::Crashed(Crash::Protected(fault.gpa));
        }
        let context = vcpu.context();
        let address = match (fault.gla, fault.access) {
            (Some(gla), _) => Some(gla.raw()),
            (None, Access::Execute) => Some(context.rip),
            (None, _) => decode_memory(vcpu, &context, outside.memory).ok().and_then(|insn| {
                match insn.place {
                    Place::Operand(operand) => Some(operand.linear(vcpu, &context, insn.len)),
                    Place::Line { source, destination } => Some(match fault.access {
                        Access::Write => {
                            linear(&context, SegmentRegister::Es, destination.read(vcpu))
                        }
                        _ => source.linear(vcpu, &context, insn.len),
                    }),
                    Place::String { .. } => None,
                }
            }),
        };
        // Without the address only the general fault is left.
        let Some(address) = address else { return self.general_protection(vcpu) };
        self.walk_failed(walk::protection_fault(&context, address, fault.access), vcpu)
    }

    /// Where the operand that starts at a linear address is: the CPU says which page, the instruction where in it. `None`
    /// where the two differ.
    fn find_operand<M: GuestMemory>(
        &self,
        insn: &Instruction,
        start: u64,
        faulted: Gpa,
        context: &CpuContext,
        memory: &M,
    ) -> Option<Operand> {
        if !is_across_pages(start, insn.width) {
            return (start % PAGE_SIZE == faulted.page_offset())
                .then_some(Operand::Within(faulted));
        }
        let last = start.wrapping_add(insn.width.bytes() - 1);
        let is_faulted = |address| {
            walk::translate(context, memory, address, Access::Read)
                .is_ok_and(|gpa| gpa.align_down(PAGE_SIZE) == faulted.align_down(PAGE_SIZE))
        };
        (is_faulted(start) || is_faulted(last)).then_some(Operand::Across(start))
    }

    /// Reads an operand.
    fn read_operand<M: GuestMemory, H: Host>(
        &mut self,
        operand: Operand,
        width: Width,
        context: &CpuContext,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<u64, Refused> {
        match operand {
            Operand::Within(gpa) => self.mmio_read(gpa, width, outside),
            Operand::Across(start) => self.load(context, start, width, outside),
        }
    }

    /// Writes an operand.
    fn write_operand<M: GuestMemory, H: Host>(
        &mut self,
        operand: Operand,
        width: Width,
        value: u64,
        context: &CpuContext,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        match operand {
            Operand::Within(gpa) => self.mmio_write(gpa, width, value, outside),
            Operand::Across(start) => self.store(context, start, width, value, outside),
        }
    }

    /// Carries out an instruction whose operand is in device memory.
    fn operate<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        insn: &Instruction,
        operand: Operand,
        context: &CpuContext,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let (width, rflags) = (insn.width, context.rflags);
        if let Operation::Store(source) = insn.operation {
            return self.write_operand(operand, width, value_of(source, vcpu), context, outside);
        }
        let old = self.read_operand(operand, width, context, outside)?;
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
            | Operation::LoadString
            | Operation::MoveLine => return Ok(()),
        };
        if insn.operation.writes() {
            self.write_operand(operand, width, new, context, outside)?;
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

    /// Reads RAM or a device at a linear address; what lies across two pages byte by byte.
    pub(crate) fn load<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        width: Width,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<u64, Refused> {
        if is_across_pages(address, width) {
            return (0..width.bytes()).try_fold(0, |value, index| {
                let byte = self.load(context, address.wrapping_add(index), Width::W1, outside)?;
                Ok(value | byte << (8 * index))
            });
        }
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

    /// Writes RAM or a device at a linear address; what lies across two pages byte by byte, and not at all where either
    /// page cannot be written.
    fn store<M: GuestMemory, H: Host>(
        &mut self,
        context: &CpuContext,
        address: u64,
        width: Width,
        value: u64,
        outside: &mut Outside<'_, M, H>,
    ) -> Result<(), Refused> {
        let memory = outside.memory;
        if is_across_pages(address, width) {
            let last = address.wrapping_add(width.bytes() - 1);
            walk::translate(context, memory, address, Access::Write)?;
            walk::translate(context, memory, last, Access::Write)?;
            return (0..width.bytes()).try_for_each(|index| {
                let byte = value >> (8 * index) & 0xff;
                self.store(context, address.wrapping_add(index), Width::W1, byte, outside)
            });
        }
        let bytes = value.to_le_bytes();
        let part = bytes.get(..width.bytes() as usize).unwrap_or_default();
        let gpa = walk::translate(context, memory, address, Access::Write)?;
        match walk::write(context, memory, address, part) {
            Err(WalkError::NoMemory(_)) => self.mmio_write(gpa, width, value, outside),
            other => Ok(other?),
        }
    }
}

/// Whether `width` bytes from `address` on lie in two pages.
const fn is_across_pages(address: u64, width: Width) -> bool {
    address % PAGE_SIZE + width.bytes() > PAGE_SIZE
}

/// Where an operand in device memory is.
#[derive(Clone, Copy)]
enum Operand {
    /// Within one page.
    Within(Gpa),
    /// Across two, of which either may be RAM: at this linear address.
    Across(u64),
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
