//! [`Mailbox`]: what others have for a virtual CPU until it looks. Senders only set bits, the owner takes them all; no lock.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::platform::lapic::{Address, VectorSet};

/// Vectors were posted.
const VECTORS: u32 = 1 << 0;
const NMI: u32 = 1 << 1;
const INIT: u32 = 1 << 2;
/// A start-up, its vector in bits 15:8.
const STARTUP: u32 = 1 << 3;
/// The devices have something for the virtual CPU that looks after them.
const DEVICES: u32 = 1 << 4;
const STARTUP_VECTOR: u32 = 0xff00;
/// What ends even a sleep with interrupts off.
const ALARMS: u32 = NMI | INIT | STARTUP | STARTUP_VECTOR;

/// One virtual CPU's mailbox; on a cache line of its own, as its owner looks into it before each entry.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Mailbox {
    news: AtomicU32,
    /// How messages name the owner.
    address: AtomicU32,
    edges: [AtomicU64; 4],
    levels: [AtomicU64; 4],
}

/// What a mailbox held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mail {
    news: u32,
    /// Edge-triggered interrupts.
    pub(crate) edges: VectorSet,
    /// Level-triggered interrupts.
    pub(crate) levels: VectorSet,
}

impl Mail {
    pub(crate) const fn nmi(&self) -> bool {
        self.news & NMI != 0
    }

    pub(crate) const fn init(&self) -> bool {
        self.news & INIT != 0
    }

    /// The vector of a start-up.
    pub(crate) fn startup(&self) -> Option<u8> {
        (self.news & STARTUP != 0).then_some((self.news >> 8) as u8)
    }

    pub(crate) const fn devices(&self) -> bool {
        self.news & DEVICES != 0
    }
}

impl Mailbox {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            news: AtomicU32::new(0),
            address: AtomicU32::new(address.0),
            edges: Default::default(),
            levels: Default::default(),
        }
    }

    /// Empties it, and forgets what the owner said of its address.
    pub(crate) fn reset(&self, address: Address) {
        let _ = self.take();
        self.set_address(address);
    }

    /// Whether there is something.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire) != 0
    }

    /// Whether there is something that ends even a sleep with interrupts off.
    pub(crate) fn has_alarm(&self) -> bool {
        self.news.load(Ordering::SeqCst) & ALARMS != 0
    }

    pub(crate) fn address(&self) -> Address {
        Address(self.address.load(Ordering::Relaxed))
    }

    pub(crate) fn set_address(&self, address: Address) {
        self.address.store(address.0, Ordering::Relaxed);
    }

    /// Posts an interrupt. Like every posting, says whether the owner must be told: not while older news wait, whose
    /// sender does.
    pub(crate) fn post_vector(&self, vector: u8, level: bool) -> bool {
        let words = if level { &self.levels } else { &self.edges };
        if let Some(word) = words.get(usize::from(vector >> 6)) {
            word.fetch_or(1 << (vector & 63), Ordering::Relaxed);
        }
        self.post(VECTORS)
    }

    pub(crate) fn post_nmi(&self) -> bool {
        self.post(NMI)
    }

    pub(crate) fn post_devices(&self) -> bool {
        self.post(DEVICES)
    }

    /// INIT: a start-up that came before it has lost its meaning.
    pub(crate) fn post_init(&self) -> bool {
        self.exchange(|news| news & !(STARTUP | STARTUP_VECTOR) | INIT)
    }

    /// Start-up: one not yet seen stands, as the owner would have dropped a second.
    pub(crate) fn post_startup(&self, vector: u8) -> bool {
        self.exchange(|news| match news & STARTUP {
            0 => news | STARTUP | u32::from(vector) << 8,
            _ => news,
        })
    }

    fn post(&self, bit: u32) -> bool {
        self.news.fetch_or(bit, Ordering::SeqCst) == 0
    }

    fn exchange(&self, change: impl Fn(u32) -> u32) -> bool {
        let mut news = self.news.load(Ordering::Relaxed);
        loop {
            let new = change(news);
            match self.news.compare_exchange_weak(news, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(old) => return old == 0,
                Err(found) => news = found,
            }
        }
    }

    /// Takes everything.
    pub(crate) fn take(&self) -> Mail {
        self.open(self.news.swap(0, Ordering::SeqCst))
    }

    /// Takes what is no alarm.
    pub(crate) fn take_quiet(&self) -> Mail {
        self.open(self.news.fetch_and(ALARMS, Ordering::SeqCst) & !ALARMS)
    }

    fn open(&self, news: u32) -> Mail {
        let mut mail = Mail { news, ..Mail::default() };
        if news & VECTORS != 0 {
            let take = |words: &[AtomicU64; 4]| {
                VectorSet(words.each_ref().map(|word| word.swap(0, Ordering::Relaxed)))
            };
            (mail.edges, mail.levels) = (take(&self.edges), take(&self.levels));
        }
        mail
    }
}
