//! The register page of a unit (11.4). Offsets that depend on the unit ([`Cap::fro`], [`Ecap::iro`]) are in its
//! capabilities.

use hw::{ClearedByOnes, ReadOnly, ReadWrite, Reg, WriteOnly, on_bus, words};

/// Version (11.4.1): major in 7:4, minor in 3:0.
pub const VER: Reg<u32, ReadOnly> = Reg::at(0x00);
/// Capabilities (11.4.2).
pub const CAP: Reg<Cap, ReadOnly> = Reg::at(0x08);
/// Extended capabilities (11.4.3).
pub const ECAP: Reg<Ecap, ReadOnly> = Reg::at(0x10);
/// Global command (11.4.4.1): one of [`command`] at a time.
pub const GCMD: Reg<u32, WriteOnly> = Reg::at(0x18);
/// Global status (11.4.4.2): the bits of [`command`], as far as they are in force.
pub const GSTS: Reg<u32, ReadOnly> = Reg::at(0x1c);
/// Root table address (11.4.5); taken by [`command::SRTP`].
pub const RTADDR: Reg<RootTableAddress, ReadWrite> = Reg::at(0x20);
/// Context command (11.4.6.1): invalidation without a queue.
pub const CCMD: Reg<u64, ReadWrite> = Reg::at(0x28);
/// Fault status (11.4.7.1).
pub const FSTS: Reg<FaultStatus, ClearedByOnes> = Reg::at(0x34);
/// Fault event control (11.4.7.2): [`EVENT_MASK`], [`EVENT_PENDING`]. Data, address and upper address follow.
pub const FECTL: Reg<u32, ReadWrite> = Reg::at(0x38);
/// Fault event data (11.4.7.3).
pub const FEDATA: Reg<u32, ReadWrite> = Reg::at(0x3c);
/// Fault event address (11.4.7.4).
pub const FEADDR: Reg<u32, ReadWrite> = Reg::at(0x40);
/// Fault event upper address (11.4.7.5).
pub const FEUADDR: Reg<u32, ReadWrite> = Reg::at(0x44);
/// Protected memory enable (11.4.8.1): [`PMEN_EPM`], [`PMEN_PRS`].
pub const PMEN: Reg<u32, ReadWrite> = Reg::at(0x64);
/// Protected low memory base (11.4.8.2) and limit.
pub const PLMBASE: Reg<u32, ReadWrite> = Reg::at(0x68);
/// Protected low memory limit (11.4.8.3).
pub const PLMLIMIT: Reg<u32, ReadWrite> = Reg::at(0x6c);
/// Protected high memory base (11.4.8.4).
pub const PHMBASE: Reg<u64, ReadWrite> = Reg::at(0x70);
/// Protected high memory limit (11.4.8.5).
pub const PHMLIMIT: Reg<u64, ReadWrite> = Reg::at(0x78);
/// Invalidation queue head (11.4.9.1): bytes from the queue's start, in 18:4.
pub const IQH: Reg<u64, ReadOnly> = Reg::at(0x80);
/// Invalidation queue tail (11.4.9.2): as [`IQH`]; with 256-bit descriptors bit 4 must be clear.
pub const IQT: Reg<u64, ReadWrite> = Reg::at(0x88);
/// Invalidation queue address (11.4.9.3).
pub const IQA: Reg<QueueAddress, ReadWrite> = Reg::at(0x90);
/// Invalidation completion status (11.4.9.4): bit 0, a wait descriptor with its interrupt flag has completed.
pub const ICS: Reg<u32, ClearedByOnes> = Reg::at(0x9c);
/// Invalidation event control (11.4.9.5), laid out as [`FECTL`]; data and addresses follow as there.
pub const IECTL: Reg<u32, ReadWrite> = Reg::at(0xa0);
/// Invalidation queue error record (11.4.9.9).
pub const IQERCD: Reg<QueueError, ReadOnly> = Reg::at(0xb0);
/// Interrupt remapping table address (11.4.10); taken by [`command::SIRTP`].
pub const IRTA: Reg<RemapTableAddress, ReadWrite> = Reg::at(0xb8);
/// Page request event control (11.4.11.5), laid out as [`FECTL`].
pub const PECTL: Reg<u32, ReadWrite> = Reg::at(0xe0);

/// Bytes from one fault record to the next (11.4.7.6).
pub const FAULT_RECORD_BYTES: u64 = 16;
/// The event is held back. Of [`FECTL`], [`IECTL`] and [`PECTL`].
pub const EVENT_MASK: u32 = 1 << 31;
/// An event is waiting; read-only.
pub const EVENT_PENDING: u32 = 1 << 30;
/// Protected memory regions are asked for.
pub const PMEN_EPM: u32 = 1 << 31;
/// Protected memory regions are in force; read-only.
pub const PMEN_PRS: u32 = 1 << 0;

/// Bits of [`GCMD`] and, in the same places, of [`GSTS`] (11.4.4).
pub mod command {
    /// Translation.
    pub const TE: u32 = 1 << 31;
    /// Take the root table pointer; one-shot.
    pub const SRTP: u32 = 1 << 30;
    /// Take the fault log pointer; one-shot, obsolete.
    pub const SFL: u32 = 1 << 29;
    /// Advanced fault logging; obsolete.
    pub const EAFL: u32 = 1 << 28;
    /// Flush the write buffer; one-shot, its status is set while it is busy.
    pub const WBF: u32 = 1 << 27;
    /// The invalidation queue.
    pub const QIE: u32 = 1 << 26;
    /// Interrupt remapping.
    pub const IRE: u32 = 1 << 25;
    /// Take the interrupt remapping table pointer; one-shot.
    pub const SIRTP: u32 = 1 << 24;
    /// Let compatibility-format interrupts pass.
    pub const CFI: u32 = 1 << 23;
    /// The bits that do something once when written as one.
    pub const ONE_SHOT: u32 = SRTP | SFL | WBF | SIRTP;
    /// The bits that stay as they are written.
    pub const LASTING: u32 = TE | EAFL | QIE | IRE | CFI;
}

words! {
    /// Capabilities (11.4.2).
    Cap[1] {
        rwbf, with_rwbf: bool = 0[4]: "Changes of tables need a write-buffer flush.";
        plmr, with_plmr: bool = 0[5]: "Protected low memory region.";
        phmr, with_phmr: bool = 0[6]: "Protected high memory region.";
        cm, with_cm: bool = 0[7]: "Caching mode: absent entries may be cached.";
        psi, with_psi: bool = 0[39]: "Page-selective invalidation of second-stage translations.";
        dwd, with_dwd: bool = 0[54]: "Writes are drained.";
        drd, with_drd: bool = 0[55]: "Reads are drained.";
        fs1gp, with_fs1gp: bool = 0[56]: "First stage: 1 GiB pages.";
        pi, with_pi: bool = 0[59]: "Posted interrupts.";
        fs5lp, with_fs5lp: bool = 0[60]: "First stage: five levels.";
        esirtps, with_esirtps: bool = 0[62]: "SIRTP invalidates by itself.";
        esrtps, with_esrtps: bool = 0[63]: "SRTP invalidates by itself.";
        nd, with_nd: u8 = 0[2:0]: "Domain IDs: 4 + 2n bits; 7 is reserved.";
        sagaw, with_sagaw: u8 = 0[12:8]: "Second-stage walks: bit 1 three levels (39 bits), bit 2 four (48), bit 3 five (57).";
        mgaw, with_mgaw: u8 = 0[21:16]: "Widest input address of the second stage, less one.";
        fro, with_fro: u16 = 0[33:24]: "Where fault records begin, in 16 bytes.";
        sslps, with_sslps: u8 = 0[37:34]: "Second-stage large pages: bit 0 2 MiB, bit 1 1 GiB.";
        nfr, with_nfr: u8 = 0[47:40]: "Fault records, less one.";
        mamv, with_mamv: u8 = 0[53:48]: "Largest address mask of a page-selective invalidation.";
    }
}

words! {
    /// Extended capabilities (11.4.3).
    Ecap[1] {
        c, with_c: bool = 0[0]: "Table accesses are snooped (in scalable mode: those above the PASID table's pages).";
        qi, with_qi: bool = 0[1]: "Queued invalidation.";
        dt, with_dt: bool = 0[2]: "Device TLBs.";
        ir, with_ir: bool = 0[3]: "Interrupt remapping.";
        eim, with_eim: bool = 0[4]: "32-bit APIC IDs.";
        pt, with_pt: bool = 0[6]: "Pass-through.";
        sc, with_sc: bool = 0[7]: "Snoop control.";
        nest, with_nest: bool = 0[26]: "Nested translation.";
        prs, with_prs: bool = 0[29]: "Page requests.";
        pasid, with_pasid: bool = 0[40]: "PASIDs.";
        smts, with_smts: bool = 0[43]: "Scalable mode.";
        ssads, with_ssads: bool = 0[45]: "Second stage: accessed and dirty bits.";
        ssts, with_ssts: bool = 0[46]: "Second stage in scalable mode.";
        fsts, with_fsts: bool = 0[47]: "First stage in scalable mode.";
        smpwcs, with_smpwcs: bool = 0[48]: "Page walks of scalable mode can be snooped.";
        rps, with_rps: bool = 0[49]: "A PASID for requests without one can be chosen.";
        adms, with_adms: bool = 0[52]: "The abort-DMA mode of the root table address.";
        iro, with_iro: u16 = 0[17:8]: "Where the invalidation registers are, in 16 bytes.";
        mhmv, with_mhmv: u8 = 0[23:20]: "Largest index mask of an interrupt-entry invalidation.";
        pss, with_pss: u8 = 0[39:35]: "PASID bits, less one.";
    }
}

words! {
    /// Root table address (11.4.5).
    RootTableAddress[1] {
        ttm, with_ttm: u8 = 0[11:10]: "Translation table mode, one of [`ttm`].";
        rta, with_rta: Hpa = 0[63:12]: "The root table.";
    }
}

/// Translation table modes (11.4.5).
pub mod ttm {
    /// Legacy.
    pub const LEGACY: u8 = 0;
    /// Scalable.
    pub const SCALABLE: u8 = 1;
    /// Every DMA is aborted.
    pub const ABORT: u8 = 3;
}

words! {
    /// Invalidation queue address (11.4.9.3).
    QueueAddress[1] {
        dw, with_dw: bool = 0[11]: "Descriptors have 256 bits.";
        qs, with_qs: u8 = 0[2:0]: "The queue has 2^n pages.";
        iqa, with_iqa: Hpa = 0[63:12]: "The queue.";
    }
}

words! {
    /// Invalidation queue error record (11.4.9.9).
    QueueError[1] {
        iqei, with_iqei: u8 = 0[3:0]: "What is wrong with the descriptor at the head.";
        itesid, with_itesid: u16 = 0[47:32]: "Source ID of the device TLB that did not answer in time.";
        icesid, with_icesid: u16 = 0[63:48]: "Source ID of an unexpected answer.";
    }
}

words! {
    /// Interrupt remapping table address (11.4.10).
    RemapTableAddress[1] {
        eime, with_eime: bool = 0[11]: "Destinations have 32 bits.";
        s, with_s: u8 = 0[3:0]: "The table has 2^(n+1) entries.";
        irta, with_irta: Hpa = 0[63:12]: "The table.";
    }
}

words! {
    /// Fault status (11.4.7.1).
    FaultStatus[1] {
        pfo, with_pfo: bool = 0[0]: "Faults were lost: all records were full.";
        ppf, with_ppf: bool = 0[1]: "A record holds a fault; read-only.";
        iqe, with_iqe: bool = 0[4]: "The queue stopped at a descriptor that is wrong.";
        ice, with_ice: bool = 0[5]: "A device answered what nobody asked.";
        ite, with_ite: bool = 0[6]: "A device did not answer an invalidation in time.";
        fri, with_fri: u8 = 0[15:8]: "The first record that holds a fault; read-only.";
    }
}

on_bus!(Cap: W8, Ecap: W8, RootTableAddress: W8, QueueAddress: W8, QueueError: W8, RemapTableAddress: W8, FaultStatus: W4);
