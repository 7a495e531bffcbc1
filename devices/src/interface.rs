//! An assignable interface as its user sees it, and the table in which a driver keeps its own.

use alloc::vec::Vec;

use hw::{Function, Pasid};

use crate::dsa;
use crate::error::Fault;
use crate::function::{Handle, Version};
use crate::page::Page;

/// Names an interface of one function for as long as it is carved: its number (that of the queue, or of the virtual
/// function) and how often the number has been given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId {
    number: u16,
    generation: u32,
}

impl InterfaceId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.number
    }
}

/// How what an interface does on the bus is told from others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// By a PASID. Without one it cannot be enabled.
    Pasid(Option<Pasid>),
    /// By a requester ID of its own.
    Requester,
}

/// Whether it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes no work, and none is under way.
    Disabled,
    /// It takes work.
    Enabled,
    /// It may still have work under way that nobody can stop but who resets the function.
    Stuck,
}

/// Who submits work to a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// One that keeps count of what it has submitted (MOVDIR64B).
    #[default]
    Dedicated,
    /// Several, each submission being accepted or not (ENQCMD).
    Shared,
}

/// An interface as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub id: InterfaceId,
    /// Whose requester ID its requests and interrupts carry.
    pub requester: Function,
    /// How they are told from others'.
    pub binding: Binding,
    /// Its register pages. What stands at which place is up to the kind of function.
    pub pages: Vec<Page>,
    /// What its descriptors, or its software, call each of its interrupt slots.
    pub slots: Vec<Handle>,
    /// Whether it works, as far as is known.
    pub state: State,
    /// The version that it was asked for in.
    pub version: Version,
    /// What a queue of DSA has; `None` for interfaces of other kinds.
    pub queue: Option<dsa::Queue>,
}

/// What makes an interface of one queue go on as one of another. It holds nothing of what belongs to the place: PASID,
/// slots and pages are the new one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// A work queue of DSA.
    Dsa(dsa::QueueState),
}

/// A driver's interfaces by their numbers. Everything takes the same time however many there are.
#[derive(Debug)]
pub struct Interfaces<T>(Vec<(u32, Option<T>)>);

impl<T> Interfaces<T> {
    /// Numbers below `count`, none of them given out.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self((0..count).map(|_| (0, None)).collect())
    }

    /// Gives out a number that is not given out; `None` where it is, or is none.
    pub fn insert(
        &mut self,
        number: u16,
        make: impl FnOnce(InterfaceId) -> T,
    ) -> Option<InterfaceId> {
        let (generation, place) =
            self.0.get_mut(usize::from(number)).filter(|(_, at)| at.is_none())?;
        *generation = generation.wrapping_add(1);
        let id = InterfaceId { number, generation: *generation };
        *place = Some(make(id));
        Some(id)
    }

    /// Takes a number back.
    pub fn remove(&mut self, id: InterfaceId) -> Option<T> {
        let (generation, place) = self.0.get_mut(usize::from(id.number))?;
        if *generation == id.generation { place.take() } else { None }
    }

    /// What an interface has here.
    ///
    /// # Errors
    /// [`Fault::Stale`].
    pub fn at(&self, id: InterfaceId) -> Result<&T, Fault> {
        let (generation, place) = self.0.get(usize::from(id.number)).ok_or(Fault::Stale)?;
        place.as_ref().filter(|_| *generation == id.generation).ok_or(Fault::Stale)
    }

    /// What an interface has here.
    ///
    /// # Errors
    /// [`Fault::Stale`].
    pub fn at_mut(&mut self, id: InterfaceId) -> Result<&mut T, Fault> {
        let (generation, place) = self.0.get_mut(usize::from(id.number)).ok_or(Fault::Stale)?;
        place.as_mut().filter(|_| *generation == id.generation).ok_or(Fault::Stale)
    }

    /// Who has a number now.
    #[must_use]
    pub fn numbered(&self, number: u16) -> Option<(InterfaceId, &T)> {
        let (generation, place) = self.0.get(usize::from(number))?;
        Some((InterfaceId { number, generation: *generation }, place.as_ref()?))
    }

    /// What all that are given out have here.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().filter_map(|(_, place)| place.as_mut())
    }

    /// All that are given out.
    pub fn iter(&self) -> impl Iterator<Item = (InterfaceId, &T)> {
        (0..self.0.len()).filter_map(|number| self.numbered(number as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_dies_with_its_interface() {
        let mut all = Interfaces::new(2);
        let first = all.insert(1, |_| 'a').unwrap();
        assert_eq!(all.insert(1, |_| 'b'), None);
        assert_eq!(all.insert(2, |_| 'b'), None);
        assert_eq!(all.remove(first), Some('a'));
        let second = all.insert(1, |_| 'b').unwrap();
        assert_eq!(all.at(first), Err(Fault::Stale));
        assert_eq!(all.remove(first), None);
        assert_eq!(all.at(second), Ok(&'b'));
        assert_eq!(all.iter().collect::<Vec<_>>(), [(second, &'b')]);
    }
}
