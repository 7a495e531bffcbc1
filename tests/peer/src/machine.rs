//! The virtual machine: [`Machine::new`] makes it as the 64-bit boot protocol wants it, [`Machine::run`] answers for its
//! serial port and its exit port until the guest writes there.

use std::error::Error;
use std::io::Write as _;
use std::ptr;

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_pit_config, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// As much as under Kerf.
const MEMORY_BYTES: usize = 64 << 20;
/// Three pages that KVM on VT-x wants for itself (Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR).
const TSS_GPA: usize = 0xfffb_d000;

// Below 1 MiB, where no guest's image lies.
const ZERO_PAGE_GPA: usize = 0x7000;
const GDT_GPA: usize = 0x8000;
const ROOT_GPA: usize = 0x9000;
const POINTERS_GPA: usize = 0xa000;
const DIRECTORIES_GPA: usize = 0xb000;

const EXIT_PORT: u16 = 0xf4;
const UART_DATA: u16 = 0x3f8;
const UART_LINE_STATUS: u16 = 0x3fd;
/// Holding register and shift register are empty.
const UART_IDLE: u8 = 0x60;

/// A machine that has not run yet.
pub(crate) struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
}

impl Machine {
    /// Makes it from a bzImage.
    ///
    /// # Errors
    /// There is no KVM, it refuses something, or the guest is no bzImage for a fixed address.
    pub(crate) fn new(guest: &[u8]) -> Result<Self, Box<dyn Error>> {
        let kvm = Kvm::new().map_err(|why| format!("/dev/kvm: {why}"))?;
        let vm = kvm.create_vm()?;
        vm.set_tss_address(TSS_GPA)?;
        vm.create_irq_chip()?;
        vm.create_pit2(kvm_pit_config::default())?;
        let memory = add_memory(&vm)?;
        let entry = load(memory, guest)?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid(&kvm)?)?;
        enter_long_mode(memory, &vcpu)?;
        let mut registers = vcpu.get_regs()?;
        registers.rip = entry;
        registers.rsi = ZERO_PAGE_GPA as u64;
        registers.rflags = 2;
        vcpu.set_regs(&registers)?;
        Ok(Self { vcpu, _vm: vm })
    }

    /// Runs it until it writes its status to the exit port.
    ///
    /// # Errors
    /// KVM ends it.
    pub(crate) fn run(&mut self) -> Result<u8, Box<dyn Error>> {
        let mut line = Vec::new();
        loop {
            match self.vcpu.run()? {
                VcpuExit::IoOut(EXIT_PORT, data) => {
                    return Ok(data.first().copied().unwrap_or_default());
                }
                VcpuExit::IoOut(UART_DATA, data) => {
                    line.extend_from_slice(data);
                    if line.ends_with(b"\n") {
                        std::io::stdout().write_all(&line)?;
                        line.clear();
                    }
                }
                VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
                VcpuExit::IoIn(UART_LINE_STATUS, data) => data.fill(UART_IDLE),
                VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(u8::MAX),
                other => return Err(format!("the guest cannot go on: {other:?}").into()),
            }
        }
    }
}

/// All that KVM supports, with the TSC-deadline timer that it has but does not list (api.rst, KVM_GET_SUPPORTED_CPUID).
fn cpuid(kvm: &Kvm) -> Result<CpuId, Box<dyn Error>> {
    const TSC_DEADLINE: u32 = 1 << 24;
    let mut all = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for leaf in all.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
        leaf.ecx |= TSC_DEADLINE;
    }
    Ok(all)
}

fn add_memory(vm: &VmFd) -> Result<&'static mut [u8], Box<dyn Error>> {
    // SAFETY: a new mapping, of fresh zeroes, that nobody else has and that is never unmapped: a slice of it may live for
    // ever. The guest does not run while the slice is in use.
    let memory = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let start = mmap_anonymous(
            ptr::null_mut(),
            MEMORY_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )?;
        std::slice::from_raw_parts_mut(start.cast::<u8>(), MEMORY_BYTES)
    };
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: memory.as_ptr().addr() as u64,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: all of the region is the mapping made above.
    unsafe { vm.set_user_memory_region(region) }?;
    Ok(memory)
}

/// Copies the image where it wants to be; gives its 64-bit entry (Documentation/arch/x86/boot.rst).
fn load(memory: &mut [u8], guest: &[u8]) -> Result<u64, Box<dyn Error>> {
    const SETUP_HEADER: usize = 0x1f1;
    let header = guest.get(SETUP_HEADER..0x268).filter(|header| &header[0x11..0x15] == b"HdrS");
    let header = header.ok_or("/guest is no bzImage")?;
    let setup_bytes = (usize::from(header[0]) + 1) * 512;
    let image = guest.get(setup_bytes..).ok_or("/guest is cut short")?;
    let at = u64::from_le_bytes(header[0x258 - SETUP_HEADER..][..8].try_into()?);
    let place = usize::try_from(at)?;
    memory.get_mut(place..place + image.len()).ok_or("/guest has no room")?.copy_from_slice(image);
    let zero_page = &mut memory[ZERO_PAGE_GPA..];
    zero_page[SETUP_HEADER..0x268].copy_from_slice(header);
    // type_of_loader: one without a number.
    zero_page[0x210] = 0xff;
    Ok(at + 0x200)
}

/// Long mode with the first 4 GiB mapped one to one in pages of 2 MiB, flat segments at 0x10 and 0x18.
fn enter_long_mode(memory: &mut [u8], vcpu: &VcpuFd) -> Result<(), Box<dyn Error>> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let mut put =
        |gpa: usize, value: u64| memory[gpa..gpa + 8].copy_from_slice(&value.to_le_bytes());
    put(ROOT_GPA, POINTERS_GPA as u64 | PRESENT_WRITABLE);
    for directory in 0..4 {
        let gpa = DIRECTORIES_GPA + 4096 * directory;
        put(POINTERS_GPA + 8 * directory, gpa as u64 | PRESENT_WRITABLE);
        for entry in 0..512 {
            let page = (512 * directory + entry) as u64 * (2 << 20);
            put(gpa + 8 * entry, page | LARGE | PRESENT_WRITABLE);
        }
    }
    put(GDT_GPA + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT_GPA + 0x18, 0x00cf_9300_0000_ffff);
    let mut registers = vcpu.get_sregs()?;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..kvm_segment::default() };
    registers.cs = kvm_segment { selector: 0x10, type_: 0xb, l: 1, ..flat };
    let data = kvm_segment { selector: 0x18, type_: 0x3, db: 1, ..flat };
    registers.ds = data;
    registers.es = data;
    registers.ss = data;
    registers.gdt.base = GDT_GPA as u64;
    registers.gdt.limit = 0x1f;
    registers.cr3 = ROOT_GPA as u64;
    // PAE; PE, NE, PG; LME, LMA.
    registers.cr4 = 1 << 5;
    registers.cr0 = 1 << 31 | 1 << 5 | 1;
    registers.efer = 1 << 10 | 1 << 8;
    vcpu.set_sregs(&registers)?;
    Ok(())
}
