//! A work queue: its configuration, and the descriptors that wait in it.

use std::collections::VecDeque;

use device_spec::dsa::descriptor::Descriptor;
use device_spec::dsa::queue::QueueConfiguration;
use device_spec::dsa::registers::state;

use crate::Config;

/// A descriptor as it was submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submitted {
    pub(crate) descriptor: Descriptor,
    /// Whose it is, if its queue has PASIDs: the queue's owner, or with a shared queue the descriptor's.
    pub(crate) pasid: Option<u32>,
    pub(crate) privileged: bool,
    /// By a portal of the interrupt message storage.
    pub(crate) ims: bool,
    /// Ascending in the order of submission.
    pub(crate) number: u64,
}

/// A descriptor that hangs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hung {
    pub(crate) submitted: Submitted,
    pub(crate) abortable: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    /// Without occupancy and state.
    pub(crate) config: QueueConfiguration,
    pub(crate) state: u8,
    pub(crate) waiting: VecDeque<Submitted>,
    /// Those that an engine began and does not end.
    pub(crate) hung: Vec<Hung>,
    /// The next one hangs, and whether an abort ends it.
    pub(crate) hang: Option<bool>,
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            config: initial(config),
            state: state::DISABLED,
            waiting: VecDeque::new(),
            hung: Vec::new(),
            hang: None,
        }
    }

    /// Disabled, and configured as after reset, but for its size.
    pub(crate) fn reset(&mut self, config: &Config) {
        self.state = state::DISABLED;
        self.config = initial(config).with_size(self.config.size());
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Submitted> {
        self.waiting.iter().chain(self.hung.iter().map(|hung| &hung.submitted))
    }

    /// Whether a portal has room for a descriptor more.
    pub(crate) fn has_room(&self, limited: bool) -> bool {
        let size = self.config.size();
        let room = if limited && !self.config.dedicated() {
            size.min(self.config.threshold())
        } else {
            size
        };
        self.waiting.len() < usize::from(room)
    }

    pub(crate) fn word(&self, word: usize) -> u64 {
        let occupancy = self.waiting.len() as u16;
        self.config.with_occupancy(occupancy).with_state(self.state).0[word]
    }

    /// Writes a word, as far as it may be written now (table 9-7).
    pub(crate) fn set_word(&mut self, word: usize, value: u64, config: &Config, disabled: bool) {
        let mut written = [0; 8];
        written[word] = value;
        let new = QueueConfiguration(written);
        let old = self.config;
        if word == 0 {
            self.config = old.with_threshold(new.threshold());
            if disabled {
                self.config = self.config.with_size(new.size());
            }
        }
        if self.state != state::DISABLED {
            return;
        }
        match word {
            1 => {
                self.config = old
                    .with_dedicated(new.dedicated())
                    .with_block_on_fault(new.block_on_fault())
                    .with_pasid_enable(new.pasid_enable())
                    .with_privileged(new.privileged())
                    .with_priority(new.priority())
                    .with_pasid(new.pasid())
                    .with_max_transfer(new.max_transfer())
                    .with_max_batch(new.max_batch());
            }
            4..=7 if config.second() => self.config.0[word] = value,
            _ => {}
        }
    }
}

fn initial(config: &Config) -> QueueConfiguration {
    let none = QueueConfiguration::default();
    if config.second() { none.with_operations(crate::registers::OPERATIONS) } else { none }
}
