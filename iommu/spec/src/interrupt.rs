//! Interrupt remapping: table entries (9.9, 9.10), the posted-interrupt descriptor (9.11), and the messages that name an
//! entry (5.1.2, 5.1.5).

use hw::{Hpa, RequesterId, words};

words! {
    /// An interrupt remapping table entry. With [`Irte::im`] clear it is remapped (9.9), else posted (9.10).
    Irte[2] {
        p, with_p: bool = 0[0]: "Present.";
        fpd, with_fpd: bool = 0[1]: "Faults are not recorded.";
        dm, with_dm: bool = 0[2]: "Remapped: the destination is logical.";
        rh, with_rh: bool = 0[3]: "Remapped: any one of the destinations.";
        tm, with_tm: bool = 0[4]: "Remapped: level-triggered.";
        urg, with_urg: bool = 0[14]: "Posted: urgent.";
        im, with_im: bool = 0[15]: "Posted rather than remapped.";
        dlm, with_dlm: u8 = 0[7:5]: "Remapped: delivery mode, as in an MSI's data.";
        v, with_v: u8 = 0[23:16]: "The vector; posted: the virtual one.";
        dst, with_dst: u32 = 0[63:32]: "Remapped: the destination. Without extended interrupt mode the APIC ID is in bits 15:8.";
        pdal, with_pdal: u32 = 0[63:38]: "Posted: bits 31:6 of the descriptor's address.";
        sid, with_sid: u16 = 1[15:0]: "Source ID to compare with.";
        sq, with_sq: u8 = 1[17:16]: "Which function bits of the source ID are ignored: 0 none.";
        svt, with_svt: u8 = 1[19:18]: "How the source is checked, one of [`svt`].";
        pdah, with_pdah: u32 = 1[63:32]: "Posted: bits 63:32 of the descriptor's address.";
    }
}

/// Source validation (9.9).
pub mod svt {
    /// Not at all.
    pub const NONE: u8 = 0;
    /// By the source ID and its qualifier.
    pub const SOURCE: u8 = 1;
    /// By bus: the source ID holds the first bus (15:8) and the last (7:0).
    pub const BUS: u8 = 2;
}

impl Irte {
    /// A remapped, edge-triggered, fixed interrupt; `dst` as [`Irte::dst`] wants it. The source is still to be said.
    #[must_use]
    pub const fn remapped(vector: u8, dst: u32) -> Self {
        Self([0; 2]).with_p(true).with_v(vector).with_dst(dst)
    }

    /// A posted interrupt, into the 64-byte-aligned descriptor. The source is still to be said.
    #[must_use]
    pub const fn posted(vector: u8, descriptor: Hpa, urgent: bool) -> Self {
        Self([0; 2])
            .with_p(true)
            .with_im(true)
            .with_urg(urgent)
            .with_v(vector)
            .with_pdal((descriptor.raw() as u32) >> 6)
            .with_pdah((descriptor.raw() >> 32) as u32)
    }

    /// Posted: the descriptor.
    #[must_use]
    pub const fn descriptor(self) -> Hpa {
        Hpa::new((self.pdah() as u64) << 32 | (self.pdal() as u64) << 6)
    }

    /// Only this function may use the entry.
    #[must_use]
    pub const fn from_function(self, rid: RequesterId) -> Self {
        self.with_svt(svt::SOURCE).with_sq(0).with_sid(rid.0)
    }

    /// Only functions on these buses may use the entry: what is behind a bridge that puts its own ID on requests.
    #[must_use]
    pub const fn from_buses(self, first: u8, last: u8) -> Self {
        self.with_svt(svt::BUS).with_sq(0).with_sid((first as u16) << 8 | last as u16)
    }
}

words! {
    /// A posted-interrupt descriptor (9.11): 64 bytes, written by the unit and by CPUs with locked operations.
    PostedDescriptor[8] {
        on, with_on: bool = 4[0]: "A notification is under way.";
        sn, with_sn: bool = 4[1]: "No notification for interrupts that are not urgent.";
        nv, with_nv: u8 = 4[23:16]: "Vector of the notification.";
        ndst, with_ndst: u32 = 4[63:32]: "Destination of the notification, as [`Irte::dst`].";
    }
}

words! {
    /// Address of a message in remappable format (5.1.2.2).
    MessageAddress[1] {
        shv, with_shv: bool = 0[3]: "The data's low 16 bits are added to the handle.";
        format, with_format: bool = 0[4]: "Remappable rather than compatibility format.";
        handle_high, with_handle_high: bool = 0[2]: "Bit 15 of the handle.";
        handle_low, with_handle_low: u16 = 0[19:5]: "Bits 14:0 of the handle.";
    }
}

impl MessageAddress {
    /// Names the entry `handle`; with `shv` the device may add a subhandle.
    #[must_use]
    pub const fn remappable(handle: u16, shv: bool) -> Self {
        Self([crate::INTERRUPT_START])
            .with_format(true)
            .with_shv(shv)
            .with_handle_low(handle)
            .with_handle_high(handle >> 15 != 0)
    }

    /// The handle.
    #[must_use]
    pub const fn handle(self) -> u16 {
        (self.handle_high() as u16) << 15 | self.handle_low()
    }
}

words! {
    /// An I/O APIC's redirection entry in remappable format (5.1.5.1).
    RedirectionEntry[1] {
        active_low, with_active_low: bool = 0[13]: "Active low.";
        level, with_level: bool = 0[15]: "Level-triggered.";
        masked, with_masked: bool = 0[16]: "Masked.";
        format, with_format: bool = 0[48]: "Remappable rather than compatibility format.";
        handle_high, with_handle_high: bool = 0[11]: "Bit 15 of the handle.";
        vector, with_vector: u8 = 0[7:0]: "The vector: the entry's own, so that EOI finds its way.";
        handle_low, with_handle_low: u16 = 0[63:49]: "Bits 14:0 of the handle.";
    }
}

const _: () = assert!(size_of::<Irte>() == 16);
const _: () = assert!(size_of::<PostedDescriptor>() == 64);
