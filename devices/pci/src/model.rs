//! A scriptable machine for tests: functions with registers of which some bits can be written, and hooks that watch.

use core::cell::{Cell, RefCell};
use core::fmt;
use std::collections::BTreeMap;
use std::rc::Rc;

use hw::{Clock, Function, RequesterId, Width};

use crate::access::ConfigAccess;
use crate::spec::capability::express;
use crate::spec::{self, extended};

/// Sees a write before it takes effect, and may change the registers itself; then, with `true`, the write does not.
type Hook = Rc<dyn Fn(&mut Device, u16, u32) -> bool>;

/// A function's registers.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) bytes: Vec<u8>,
    /// Bits that a write changes.
    pub(crate) writable: Vec<u8>,
    pub(crate) hook: Option<Hook>,
    /// Reads that all answer all ones, the vendor ID that of a retry.
    pub(crate) busy_reads: u32,
    pub(crate) last_capability: u16,
    pub(crate) last_extended: u16,
}

impl Device {
    /// An endpoint without BARs.
    pub(crate) fn endpoint(vendor: u16, device: u16) -> Self {
        let mut this = Self {
            bytes: vec![0; 0x1000],
            writable: vec![0; 0x1000],
            hook: None,
            busy_reads: 0,
            last_capability: 0,
            last_extended: 0,
        };
        this.put(spec::VENDOR, Width::W2, vendor.into());
        this.put(spec::DEVICE, Width::W2, device.into());
        this.allow(spec::COMMAND, Width::W2, 0x0507);
        this.allow(spec::INTERRUPT_LINE, Width::W1, 0xff);
        this
    }

    /// A bridge to the buses from `secondary` to `subordinate`.
    pub(crate) fn bridge(secondary: u8, subordinate: u8) -> Self {
        let mut this = Self::endpoint(0x1b36, 0x000c);
        this.put(spec::REVISION, Width::W4, spec::class::PCI_BRIDGE << 16);
        this.put(spec::HEADER_TYPE, Width::W1, 1);
        this.put(spec::SECONDARY_BUS, Width::W1, secondary.into());
        this.put(spec::SUBORDINATE_BUS, Width::W1, subordinate.into());
        this
    }

    pub(crate) fn multifunction(mut self) -> Self {
        self.bytes[usize::from(spec::HEADER_TYPE)] |= spec::HEADER_MULTIFUNCTION;
        self
    }

    /// A memory BAR of 64 bits.
    pub(crate) fn bar64(mut self, index: u8, base: u64, bytes: u64) -> Self {
        let register = crate::bars::register(index);
        let flags = u64::from(spec::BAR_64 | spec::BAR_PREFETCHABLE);
        self.put(register, Width::W4, (base | flags) as u32);
        self.put(register + 4, Width::W4, (base >> 32) as u32);
        self.allow(register, Width::W4, !(bytes - 1) as u32);
        self.allow(register + 4, Width::W4, (!(bytes - 1) >> 32) as u32);
        self
    }

    /// A register whose `writable` bits can be written, as BARs have them.
    pub(crate) fn register(mut self, offset: u16, value: u32, writable: u32) -> Self {
        self.put(offset, Width::W4, value);
        self.allow(offset, Width::W4, writable);
        self
    }

    /// Links a capability of `bytes` at `offset` into the chain; its place is zero.
    pub(crate) fn capability(mut self, id: u8, offset: u16) -> Self {
        let before = match self.last_capability {
            0 => spec::CAPABILITIES,
            last => last + 1,
        };
        self.put(before, Width::W1, offset.into());
        self.put(offset, Width::W1, id.into());
        self.put(spec::STATUS, Width::W2, spec::STATUS_CAPABILITIES.into());
        self.last_capability = offset;
        self
    }

    /// PCI Express, version 2, at 0x40.
    pub(crate) fn express(self, kind: u16, device_capabilities: u32) -> Self {
        let mut this = self.capability(spec::capability::EXPRESS, 0x40);
        this.put(0x42, Width::W2, u32::from(2 | kind << express::KIND_SHIFT));
        this.put(0x40 + express::DEVICE_CAPABILITIES, Width::W4, device_capabilities);
        this.allow(0x40 + express::DEVICE_CONTROL, Width::W2, 0x7fff);
        this.allow(0x40 + express::DEVICE_CONTROL_2, Width::W2, 0xffff);
        this
    }

    /// Links an extended capability; its place is zero.
    pub(crate) fn extended(mut self, id: u16, offset: u16) -> Self {
        if self.last_extended != 0 {
            let before = self.peek(self.last_extended, Width::W4);
            self.put(self.last_extended, Width::W4, before | u32::from(offset) << 20);
        }
        self.put(offset, Width::W4, u32::from(id) | 1 << 16);
        self.last_extended = offset;
        self
    }

    /// Access control services at 0x100 with everything that isolates, off.
    pub(crate) fn acs(self) -> Self {
        let mut this = self.extended(extended::ACS, 0x100);
        this.put(0x104, Width::W2, 0x001f);
        this.allow(0x106, Width::W2, 0x001f);
        this
    }

    pub(crate) fn peek(&self, offset: u16, width: Width) -> u32 {
        let bytes = usize::from(offset)..usize::from(offset) + width.bytes() as usize;
        self.bytes[bytes].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    pub(crate) fn put(&mut self, offset: u16, width: Width, value: u32) {
        let bytes = width.bytes() as usize;
        self.bytes[usize::from(offset)..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    pub(crate) fn allow(&mut self, offset: u16, width: Width, bits: u32) {
        let bytes = width.bytes() as usize;
        self.writable[usize::from(offset)..][..bytes].copy_from_slice(&bits.to_le_bytes()[..bytes]);
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?} of which {:02x?}", &self.bytes[..256], &self.writable[..256])
    }
}

/// A write that reached a function.
pub(crate) type Write = (Function, u16, u32);

/// The machine. Accesses that no PCI function could see are failed tests.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) devices: RefCell<BTreeMap<Function, Device>>,
    pub(crate) writes: RefCell<Vec<Write>>,
    pub(crate) accesses: Cell<u64>,
    /// Nanoseconds.
    pub(crate) now: Cell<u64>,
}

pub(crate) const fn at(bus: u8, device: u8, function: u8) -> Function {
    Function { segment: 0, rid: RequesterId::new(bus, device, function) }
}

impl Machine {
    pub(crate) fn new(devices: impl IntoIterator<Item = (Function, Device)>) -> Self {
        Self { devices: RefCell::new(devices.into_iter().collect()), ..Self::default() }
    }

    pub(crate) fn peek(&self, function: Function, offset: u16, width: Width) -> u32 {
        self.devices.borrow()[&function].peek(offset, width)
    }

    fn check(&self, offset: u16, width: Width) {
        self.accesses.set(self.accesses.get() + 1);
        let last = u64::from(offset & 3) + width.bytes();
        assert!(last <= 4, "{offset:#x}, {width:?} crosses a dword");
    }
}

impl ConfigAccess for Machine {
    fn read(&self, function: Function, offset: u16, width: Width) -> u32 {
        self.check(offset, width);
        let mut devices = self.devices.borrow_mut();
        match devices.get_mut(&function) {
            Some(device) if device.busy_reads > 0 => {
                device.busy_reads -= 1;
                let retry = (u32::MAX << 16) | u32::from(spec::RETRY_VENDOR);
                let answer = if offset < 4 { retry >> (8 * offset) } else { u32::MAX };
                answer & width.mask() as u32
            }
            Some(device) if offset < spec::CONFIG_BYTES => device.peek(offset, width),
            _ => width.mask() as u32,
        }
    }

    fn write(&self, function: Function, offset: u16, width: Width, value: u32) {
        self.check(offset, width);
        let mut devices = self.devices.borrow_mut();
        let Some(device) = devices.get_mut(&function).filter(|_| offset < spec::CONFIG_BYTES)
        else {
            return;
        };
        self.writes.borrow_mut().push((function, offset, value));
        if device.hook.clone().is_some_and(|hook| hook(device, offset, value)) {
            return;
        }
        for (index, byte) in value.to_le_bytes()[..width.bytes() as usize].iter().enumerate() {
            let place = usize::from(offset) + index;
            let writable = device.writable[place];
            device.bytes[place] = device.bytes[place] & !writable | byte & writable;
        }
    }
}

impl Clock for Machine {
    fn now_ns(&self) -> u64 {
        self.now.get()
    }
    fn relax(&self) {
        self.now.set(self.now.get() + 100_000);
    }
}
