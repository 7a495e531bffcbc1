//! Into the guest and out of it again.
//!
//! UNSAFETY: hands the CPU to the guest. An exit comes back at a label in the middle of [`run`], with RSP at the
//! [`Frame`] and every other general-purpose register the guest's. Those that a call preserves by convention stay in the
//! CPU while frequent exits are answered; they are stored only when [`run`] returns.

use core::arch::asm;
use core::mem::offset_of;

use x86_spec::vmx::field::host;

use crate::Gpr;

/// What the entry code loads and stores, at offsets that it knows. Stays where it is while its virtual CPU lives.
#[repr(C, align(64))]
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// By [`Gpr`] number. RSP's place is not used: the VMCS holds it.
    pub(super) gprs: [u64; 16],
    /// The stack to go back to after an exit.
    stack: u64,
    /// What [`OnExit::on_exit`] is called with.
    context: u64,
    /// What the VMCS holds as the host's RIP; 0 where that is not known.
    host_rip: u64,
}

impl Frame {
    /// The VMCS was moved: its host RSP and RIP are to be written again.
    pub(super) fn forget_host(&mut self) {
        self.host_rip = 0;
    }
}

const _: () = {
    assert!(offset_of!(Frame, gprs) == 0);
    assert!(Gpr::Rdi as usize == 7 && Gpr::R15 as usize == 15);
};

/// Who is called after each exit.
pub(super) trait OnExit {
    /// The frame to enter the guest with again, or null to leave [`run`]. In the frame only RAX, RCX, RDX, RBX, RSI, RDI
    /// and R8 to R11 are the guest's at this time.
    fn on_exit(&mut self) -> *mut Frame;
}

extern "sysv64" fn call<C: OnExit>(context: &mut C) -> *mut Frame {
    context.on_exit()
}

/// Enters the guest of the current VMCS until `context` wants to leave; false where the CPU refused the entry. `launch`:
/// by VMLAUNCH, for a VMCS that has not run since it was cleared; the next entries are by VMRESUME.
///
/// `frame` is the only way to its target for as long as this runs, but for `context`'s; both come to the same virtual CPU.
#[inline]
pub(super) fn run<C: OnExit>(frame: *mut Frame, context: &mut C, launch: bool) -> bool {
    let entered: u64;
    // SAFETY: (1) the current VMCS is that of the virtual CPU whose frame this is; its host state is this CPU's, and
    // its guest state and second stage confine the guest to its own memory. (2) The frame is allocated, aligned and not
    // referenced by anyone while the guest runs; RSP points at it for the few instructions after an exit only, in which
    // nothing uses a stack: interrupts are off, by the contract of `Vcpu::run`, NMIs and machine checks have stacks of
    // their own, and the instructions themselves do not fault. (3) Every register that the guest may have changed is
    // declared lost or kept on the stack, which an exit finds as the entry left it. (4) Floating-point registers are the guest's throughout.
    unsafe {
        (*frame).context = core::ptr::from_mut(context).expose_provenance() as u64;
        asm!(
        // These two cannot be declared.
                    "push rbx",
                    "push rbp",
                    // For the way out; twice, as calls want the stack aligned.
                    "push rax",
                    "push rax",
                    "mov [rax + {stack}], rsp",
                    "lea rdx, [rip + 4f]",
                    "cmp rdx, [rax + {host_rip}]",
                    "je 2f",
                    "mov [rax + {host_rip}], rdx",
                    "mov ecx, {field_rip}",
                    "vmwrite rcx, rdx",
                    "mov ecx, {field_rsp}",
                    "vmwrite rcx, rax",
                    "2:",
                    "mov rbp, [rax + 8 * 5]",
                    "mov r12, [rax + 8 * 12]",
                    "mov r13, [rax + 8 * 13]",
                    "mov r14, [rax + 8 * 14]",
                    "mov r15, [rax + 8 * 15]",
                    "test esi, esi",
                    "jnz 6f",
                    "3:",
                    "mov rcx, [rax + 8 * 1]",
                    "mov rdx, [rax + 8 * 2]",
                    "mov rbx, [rax + 8 * 3]",
                    "mov rsi, [rax + 8 * 6]",
                    "mov rdi, [rax + 8 * 7]",
                    "mov r8, [rax + 8 * 8]",
                    "mov r9, [rax + 8 * 9]",
                    "mov r10, [rax + 8 * 10]",
                    "mov r11, [rax + 8 * 11]",
                    "mov rax, [rax + 8 * 0]",
                    "vmresume",
                    "jmp 7f",
                    "6:",
                    "mov rcx, [rax + 8 * 1]",
                    "mov rdx, [rax + 8 * 2]",
                    "mov rbx, [rax + 8 * 3]",
                    "mov rsi, [rax + 8 * 6]",
                    "mov rdi, [rax + 8 * 7]",
                    "mov r8, [rax + 8 * 8]",
                    "mov r9, [rax + 8 * 9]",
                    "mov r10, [rax + 8 * 10]",
                    "mov r11, [rax + 8 * 11]",
                    "mov rax, [rax + 8 * 0]",
                    "vmlaunch",
                    // A refused entry falls through; the frame is as it was.
                    "7:",
                    "xor eax, eax",
                    "add rsp, 16",
                    "jmp 8f",
                    // The exit.
                    "4:",
                    "mov [rsp + 8 * 0], rax",
                    "mov [rsp + 8 * 1], rcx",
                    "mov [rsp + 8 * 2], rdx",
                    "mov [rsp + 8 * 3], rbx",
                    "mov [rsp + 8 * 6], rsi",
                    "mov [rsp + 8 * 7], rdi",
                    "mov [rsp + 8 * 8], r8",
                    "mov [rsp + 8 * 9], r9",
                    "mov [rsp + 8 * 10], r10",
                    "mov [rsp + 8 * 11], r11",
                    "mov rdi, [rsp + {context}]",
                    "mov rsp, [rsp + {stack}]",
                    "call {call}",
                    "test rax, rax",
                    "jnz 3b",
                    "pop rax",
                    "pop rax",
                    "mov [rax + 8 * 5], rbp",
                    "mov [rax + 8 * 12], r12",
                    "mov [rax + 8 * 13], r13",
                    "mov [rax + 8 * 14], r14",
                    "mov [rax + 8 * 15], r15",
                    "mov eax, 1",
                    "8:",
                    "pop rbp",
                    "pop rbx",
                    stack = const offset_of!(Frame, stack),
                    context = const offset_of!(Frame, context),
                    host_rip = const offset_of!(Frame, host_rip),
                    field_rsp = const host::RSP.encoding(),
                    field_rip = const host::RIP.encoding(),
                    call = sym call::<C>,
                    inout("rax") frame => entered,
                    inout("rsi") u64::from(launch) => _,
                    out("rcx") _,
                    out("rdx") _,
                    out("rdi") _,
                    out("r8") _,
                    out("r9") _,
                    out("r10") _,
                    out("r11") _,
                    out("r12") _,
                    out("r13") _,
                    out("r14") _,
                    out("r15") _,
                );
    }
    entered != 0
}
