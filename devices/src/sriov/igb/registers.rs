//! Registers of the 82576 as its physical function has them (82576EB datasheet 3.1, 8), and what is used of them.

/// Device control (8.2.1).
pub(super) const CTRL: u64 = 0x0000;
pub(super) const SET_LINK_UP: u32 = 1 << 6;
/// Device status (8.2.2).
pub(super) const STATUS: u64 = 0x0008;
/// Extended device control (8.2.3).
pub(super) const CTRL_EXT: u64 = 0x0018;
/// Virtual functions are told that the physical one has come out of its reset (PFRSTD).
pub(super) const RESET_DONE: u32 = 1 << 14;
pub(super) const DRIVER_LOADED: u32 = 1 << 28;

/// Access to the PHY's registers (8.2.4): data 15:0, register 20:16, PHY 25:21.
pub(super) const MDIC: u64 = 0x0020;
pub(super) const PHY_WRITE: u32 = 1 << 26;
pub(super) const PHY_READY: u32 = 1 << 28;
pub(super) const PHY_ADDRESS: u32 = 1 << 21;
/// The PHY's control register (8.27.3.1).
pub(super) const PHY_CONTROL: u32 = 0;
/// Of that: negotiate anew, and up to 1 Gb/s in both directions.
pub(super) const PHY_NEGOTIATE: u32 = 1 << 12 | 1 << 9 | 1 << 8 | 1 << 6;

/// Receive control (8.10.1).
pub(super) const RCTL: u64 = 0x0100;
pub(super) const RECEIVE: u32 = 1 << 1;
pub(super) const ACCEPT_ALL_BROADCAST: u32 = 1 << 15;
pub(super) const STRIP_CRC: u32 = 1 << 26;
/// Transmit control (8.12.1).
pub(super) const TCTL: u64 = 0x0400;
pub(super) const TRANSMIT: u32 = 1 << 1;
pub(super) const PAD_SHORT: u32 = 1 << 3;
/// The datasheet's values: retries 15, distance 64, and late collisions are tried again.
pub(super) const COLLISIONS: u32 = 0xf << 4 | 0x40 << 12 | 1 << 24;

/// Mailbox memory (8.14.5): 64 bytes for each virtual function.
pub(super) const VMBMEM: u64 = 0x0800;
/// The physical function's side of each mailbox (8.14.3).
pub(super) const P2VMAILBOX: u64 = 0x0c00;
/// A message is there for the virtual function.
pub(super) const SENT: u32 = 1 << 0;
/// Its message was taken.
pub(super) const ACKNOWLEDGED: u32 = 1 << 1;
/// This side has the memory.
pub(super) const TAKEN: u32 = 1 << 3;
/// Takes the memory from the virtual function.
pub(super) const REVOKE: u32 = 1 << 4;
/// What virtual functions did with their mailboxes, cleared by ones (8.14.6).
pub(super) const MBVFICR: u64 = 0x0c80;
pub(super) const REQUEST: u32 = 1 << 0;
/// Which of them interrupt (8.14.7).
pub(super) const MBVFIMR: u64 = 0x0c84;
/// Which were reset, cleared by ones (8.14.8).
pub(super) const VFLRE: u64 = 0x0c88;
/// Which may receive (8.14.9), and send (8.14.10).
pub(super) const VFRE: u64 = 0x0c8c;
pub(super) const VFTE: u64 = 0x0c90;

/// Interrupt causes, cleared by reading (8.8.8); enabled and disabled causes (8.8.10, 8.8.11). At their older addresses,
/// which QEMU's has alone.
pub(super) const ICR: u64 = 0x00c0;
pub(super) const IMS: u64 = 0x00d0;
pub(super) const IMC: u64 = 0x00d8;
pub(super) const LINK_CHANGE: u32 = 1 << 2;
pub(super) const MAILBOX: u32 = 1 << 8;
/// General purpose interrupts (8.8.13).
pub(super) const GPIE: u64 = 0x1514;
/// Reading the causes clears them whatever is enabled.
pub(super) const CLEAR_ON_READ: u32 = 1 << 0;
pub(super) const MULTIPLE_MSIX: u32 = 1 << 4;
/// By MSI-X entries: enabled, disabled, and caused ones, cleared by ones (8.8.3 to 8.8.5).
pub(super) const EIMS: u64 = 0x1524;
pub(super) const EIMC: u64 = 0x1528;
pub(super) const EICR: u64 = 0x1580;
/// The entry of all other causes in 15:8 (8.8.15).
pub(super) const IVAR_MISC: u64 = 0x1740;
pub(super) const ENTRY_VALID: u32 = 1 << 7;

/// Queues whose frames are dropped where no buffer is free (8.10.7).
pub(super) const QDE: u64 = 0x2408;
/// Switching of sent frames (8.12.3).
pub(super) const DTXSWC: u64 = 0x3500;
/// A sender's own address is checked, in each pool.
pub(super) const CHECK_SOURCES: u32 = 0xff;
/// Frames to another pool reach it.
pub(super) const LOOPBACK: u32 = 1 << 31;

/// Addresses of multicast groups, by a hash of 12 bits (8.10.16).
pub(super) const MTA: u64 = 0x5200;
/// Addresses and whose they are: low and high halves (8.10.17, 8.10.18).
pub(super) const RAL: u64 = 0x5400;
pub(super) const RAH: u64 = 0x5404;
pub(super) const ADDRESS_VALID: u32 = 1 << 31;
/// The first pool's bit.
pub(super) const FIRST_POOL: u32 = 1 << 18;
/// Multiple receive queues (8.10.13).
pub(super) const MRQC: u64 = 0x5818;
/// Pools by address, without receive-side scaling (VMDq).
pub(super) const POOLS_BY_ADDRESS: u32 = 3;
/// Pools (8.14.1).
pub(super) const VT_CTL: u64 = 0x581c;
pub(super) const NO_DEFAULT_POOL: u32 = 1 << 29;
/// Frames to several pools reach all of them.
pub(super) const REPLICATE: u32 = 1 << 30;
/// What each pool takes (8.14.2): bytes of a frame in 13:0.
pub(super) const VMOLR: u64 = 0x5ad0;
/// A frame with a VLAN tag and its check sum.
pub(super) const FRAME_BYTES: u32 = 1522;
pub(super) const ACCEPT_UNTAGGED: u32 = 1 << 24;
pub(super) const ACCEPT_GROUPS: u32 = 1 << 25;
pub(super) const ACCEPT_BROADCAST: u32 = 1 << 27;
pub(super) const STRIP_POOL_CRC: u32 = 1 << 31;
