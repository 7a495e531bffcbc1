//! What virtual functions ask of their physical one: messages of up to 16 words in a mailbox that one side at a time has
//! (82576EB datasheet 3.1, 7.10.2.9.1; the words are those of Intel's drivers, Linux 6.1 `igbvf/mbx.h`).

use hw::{Clock, RegisterBus};

use super::registers::*;
use super::{Igb, MOST, State};

/// Requests, in the lowest 16 bits of the first word.
const RESET: u32 = 0x01;
const SET_ADDRESS: u32 = 0x02;
const SET_GROUPS: u32 = 0x03;
const SET_FRAME_BYTES: u32 = 0x05;
/// What the physical function says unasked: that something has changed.
const CONTROL: u32 = 0x0100;
/// Of a reply.
const GRANTED: u32 = 1 << 31;
const REFUSED: u32 = 1 << 30;
/// Of whatever is said to one that may use its queues.
const CLEAR_TO_SEND: u32 = 1 << 29;
const FLAGS: u32 = GRANTED | REFUSED | CLEAR_TO_SEND;
/// Words of the longest message.
const WORDS: usize = 16;

impl<R: RegisterBus, C: Clock> Igb<R, C> {
    fn memory(number: u16, word: usize) -> u64 {
        VMBMEM + 64 * u64::from(number) + 4 * word as u64
    }

    fn mailbox(number: u16) -> u64 {
        P2VMAILBOX + 4 * u64::from(number)
    }

    /// Looks for resets and requests.
    pub(super) fn listen(&mut self) {
        let reset = self.read(VFLRE);
        self.write(VFLRE, reset);
        let asked = self.read(MBVFICR);
        for number in 0..MOST {
            if reset >> number & 1 != 0 && self.state(number) != State::Free {
                self.filter(number, false);
                self.set_state(number, State::Given);
                self.set(CTRL_EXT, RESET_DONE, true);
            }
            if asked & REQUEST << number != 0 {
                self.write(MBVFICR, REQUEST << number);
                self.answer(number);
            }
        }
    }

    /// Has the memory of a mailbox; a virtual function that does not let go of it loses it.
    fn lock(&self, number: u16) -> bool {
        let mailbox = Self::mailbox(number);
        self.write(mailbox, TAKEN);
        if self.read(mailbox) & TAKEN == 0 {
            self.write(mailbox, REVOKE);
            self.write(mailbox, TAKEN);
        }
        self.read(mailbox) & TAKEN != 0
    }

    fn answer(&mut self, number: u16) {
        if !self.lock(number) {
            return;
        }
        let mut message = [0; WORDS];
        for (word, place) in message.iter_mut().enumerate() {
            *place = self.read(Self::memory(number, word));
        }
        self.write(Self::mailbox(number), ACKNOWLEDGED);
        let [request, rest @ ..] = message;
        let (granted, words) = match request & 0xffff {
            _ if self.state(number) == State::Free => (false, [0; 2]),
            RESET => {
                self.filter(number, true);
                self.set_state(number, State::ClearToSend);
                let [a, b, c, d, e, f] = self.mac_of(number);
                let high = u16::from_le_bytes([e, f]);
                (true, [u32::from_le_bytes([a, b, c, d]), high.into()])
            }
            _ if self.state(number) != State::ClearToSend => (false, [0; 2]),
            SET_ADDRESS => {
                let [low, high, ..] = rest;
                let [a, b, c, d] = low.to_le_bytes();
                let [e, f, ..] = high.to_le_bytes();
                (self.mac_of(number) == [a, b, c, d, e, f], [0; 2])
            }
            SET_GROUPS => {
                self.join(number, request >> 16 & 0xff, &rest);
                (true, [0; 2])
            }
            SET_FRAME_BYTES => (rest.first().is_some_and(|bytes| *bytes <= FRAME_BYTES), [0; 2]),
            _ => (false, [0; 2]),
        };
        let reply = if granted { GRANTED } else { REFUSED };
        // The answer to the first request alone does not say so: drivers compare it as a whole.
        let is_clear = request & 0xffff != RESET && self.state(number) == State::ClearToSend;
        let clear = if is_clear { CLEAR_TO_SEND } else { 0 };
        let [first, second] = words;
        self.send(number, &[request & !FLAGS | reply | clear, first, second]);
    }

    /// Adds hashes of multicast groups, 16 bits each; what others have joined comes, too, for its own filter to drop.
    fn join(&self, number: u16, count: u32, words: &[u32]) {
        let hashes = words.iter().flat_map(|word| [word & 0xfff, word >> 16 & 0xfff]);
        for hash in hashes.take(count as usize) {
            self.set(MTA + 4 * u64::from(hash >> 5), 1 << (hash & 0x1f), true);
        }
        self.set(VMOLR + 4 * u64::from(number), ACCEPT_GROUPS, count != 0);
    }

    fn send(&self, number: u16, words: &[u32]) {
        if !self.lock(number) {
            return;
        }
        for (word, value) in words.iter().enumerate() {
            self.write(Self::memory(number, word), *value);
        }
        self.write(Self::mailbox(number), SENT);
    }

    /// Tells every virtual function that the link has changed: they look for themselves.
    pub(super) fn tell_all(&self) {
        let given = (0..MOST).filter(|&number| self.state(number) == State::ClearToSend);
        given.for_each(|number| self.send(number, &[CONTROL | CLEAR_TO_SEND]));
    }
}
