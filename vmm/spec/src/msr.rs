//! Numbers of model-specific registers (SDM vol. 4; APM vol. 2, appendix A).

use hw::Msr;

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: Msr = Msr($number);)*
    };
}

msrs! {
    /// Time-stamp counter.
    TSC = 0x10;
    /// Local APIC base address, with BSP (8), EXTD (10) and EN (11).
    APIC_BASE = 0x1b;
    /// Lock (0), VMX outside SMX (2).
    FEATURE_CONTROL = 0x3a;
    /// Offset that software added to the TSC.
    TSC_ADJUST = 0x3b;
    /// Speculation control.
    SPEC_CTRL = 0x48;
    /// Prediction commands: IBPB is bit 0.
    PRED_CMD = 0x49;
    /// Microcode update signature.
    BIOS_SIGN_ID = 0x8b;
    /// Memory-type range capabilities.
    MTRR_CAP = 0xfe;
    /// Architectural capabilities.
    ARCH_CAPABILITIES = 0x10a;
    /// Flush commands: L1D_FLUSH is bit 0.
    FLUSH_CMD = 0x10b;
    /// SYSENTER code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER stack pointer.
    SYSENTER_ESP = 0x175;
    /// SYSENTER instruction pointer.
    SYSENTER_EIP = 0x176;
    /// Machine-check global capabilities.
    MCG_CAP = 0x179;
    /// Machine-check global status.
    MCG_STATUS = 0x17a;
    /// Machine-check global control.
    MCG_CTL = 0x17b;
    /// Miscellaneous enables.
    MISC_ENABLE = 0x1a0;
    /// Debug control.
    DEBUGCTL = 0x1d9;
    /// Page attribute table.
    PAT = 0x277;
    /// Default memory type.
    MTRR_DEF_TYPE = 0x2ff;
    /// First of the VMX capability registers.
    VMX_BASIC = 0x480;
    /// Target of the TSC-deadline timer.
    TSC_DEADLINE = 0x6e0;
    /// First of the x2APIC registers: register at offset `o` of the xAPIC page is MSR `0x800 + o / 16`.
    X2APIC_BASE = 0x800;
    /// Last of the x2APIC registers.
    X2APIC_LAST = 0x8ff;
    /// Supervisor XSAVE state mask.
    XSS = 0xda0;
    /// What SVM multiplies a guest's time-stamp counter by.
    TSC_RATIO = 0xc000_0104;
    /// Speculation control by a hypervisor's help.
    VIRT_SPEC_CTRL = 0xc001_011f;
    /// Extended features.
    EFER = 0xc000_0080;
    /// SYSCALL targets.
    STAR = 0xc000_0081;
    /// 64-bit SYSCALL target.
    LSTAR = 0xc000_0082;
    /// Compatibility SYSCALL target.
    CSTAR = 0xc000_0083;
    /// SYSCALL flag mask.
    SFMASK = 0xc000_0084;
    /// FS base.
    FS_BASE = 0xc000_0100;
    /// GS base.
    GS_BASE = 0xc000_0101;
    /// The other GS base, for SWAPGS.
    KERNEL_GS_BASE = 0xc000_0102;
    /// What RDTSCP and RDPID return beside the time.
    TSC_AUX = 0xc000_0103;
    /// AMD: system configuration.
    SYSCFG = 0xc001_0010;
    /// AMD: hardware configuration.
    HWCR = 0xc001_0015;
    /// AMD: VM_CR; SVMDIS is bit 4, LOCK bit 3.
    VM_CR = 0xc001_0114;
    /// AMD: physical address of the host save area.
    VM_HSAVE_PA = 0xc001_0117;
}
