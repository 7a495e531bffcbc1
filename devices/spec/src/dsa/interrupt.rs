//! Interrupt entries (3.7): permissions of the MSI-X table's (9.2.22), and those of the interrupt message storage (9.2.28).

use hw::words;

/// Bytes from one MSI-X entry's permission to the next. It has four.
pub const PERMISSION_BYTES: u64 = 8;
/// Bytes from one entry of the interrupt message storage to the next.
pub const IMS_BYTES: u64 = 16;
/// Entries of the interrupt message storage in one unit of [`super::registers::GeneralCapabilities::ims_size`].
pub const IMS_UNIT: usize = 256;
/// What bits 63:20 of an entry's address must be: another address is not stored.
pub const IMS_ADDRESS: u64 = 0xfee0_0000;

words! {
    /// Whose descriptors may raise an MSI-X entry (9.2.22).
    MsixPermission[1] {
        ignore, with_ignore: bool = 0[2]: "Descriptors raise nothing by it.";
        pasid_enable, with_pasid_enable: bool = 0[3]: "Of queues with a PASID, and with this one; clear: of queues without.";
        pasid, with_pasid: u32 = 0[31:12]: "The PASID.";
    }
}

words! {
    /// An entry of the interrupt message storage (9.2.28).
    ImsEntry[2] {
        mask, with_mask: bool = 1[32]: "Messages wait.";
        pending, with_pending: bool = 1[33]: "One does; read-only.";
        ignore, with_ignore: bool = 1[34]: "As [`MsixPermission::ignore`].";
        pasid_enable, with_pasid_enable: bool = 1[35]: "As [`MsixPermission::pasid_enable`].";
        address, with_address: u64 = 0[63:0]: "The message's address, by [`IMS_ADDRESS`].";
        data, with_data: u32 = 1[31:0]: "The message's data.";
        pasid, with_pasid: u32 = 1[63:44]: "The PASID.";
    }
}

hw::on_bus!(MsixPermission: W4);

const _: () = assert!(size_of::<ImsEntry>() as u64 == IMS_BYTES);
