//! What the driver has its device do: sequences of admin commands, each of which goes on when the one before was answered.

use alloc::vec::Vec;

use hw::{Clock, RegisterBus};

use super::Namespace;
use super::queue::{AdminQueue, Command};
use crate::sriov::{Job, Shared, Started};
use crate::{Fault, Resource};

/// A virtual function needs an admin queue and one for I/O.
const LEAST_QUEUES: u32 = 2;
/// Entries of a list of controllers, after their count.
const LIST_ENTRIES: u64 = 2047;

const IDENTIFY: u8 = 0x06;
const NAMESPACE_ATTACHMENT: u8 = 0x15;
const VIRTUALIZATION_MANAGEMENT: u8 = 0x1c;

/// Optional commands (OACS): namespace management and attachment, virtualization management.
const OFFERED: u16 = 1 << 3 | 1 << 7;

/// What Identify gives (CNS).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Structure {
    Controller = 0x01,
    AllocatedNamespaces = 0x10,
    AllocatedNamespace = 0x11,
    AttachedControllers = 0x12,
    PrimaryCapabilities = 0x14,
    SecondaryControllers = 0x15,
}

/// What Virtualization Management does (ACT).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Action {
    PrimaryAllocation = 0x1,
    SecondaryOffline = 0x7,
    SecondaryAssign = 0x8,
    SecondaryOnline = 0x9,
}

/// A resource of which a device has some that can be given to any controller (8.26).
#[derive(Clone, Copy)]
struct Flexible {
    what: Resource,
    /// RT of Virtualization Management.
    kind: u8,
    /// Where the primary controller's capabilities tell of it: the total at first.
    at: u64,
}

const QUEUES: Flexible = Flexible { what: Resource::Queues, kind: 0, at: 32 };
const INTERRUPTS: Flexible = Flexible { what: Resource::Slots, kind: 1, at: 64 };

/// What a virtual function has.
#[derive(Clone, Copy, Debug)]
struct Held {
    number: u16,
    controller: u16,
    namespace: u32,
}

/// The admin queue, and what was done by it.
#[derive(Debug)]
pub(super) struct Admin<R, M, C> {
    queue: AdminQueue<R, M, C>,
    /// Virtual functions among which resources are divided.
    count: u16,
    held: Vec<Held>,
    /// Of queues and interrupts, those that the first virtual function could have.
    pub(super) shares: [u16; 2],
}

impl<R: RegisterBus, M: RegisterBus, C: Clock> Admin<R, M, C> {
    /// For the registers of BAR 0 of a function that is to have `count` virtual ones.
    pub(super) const fn new(registers: R, shared: Shared<M>, clock: C, count: u16) -> Self {
        Self {
            queue: AdminQueue::new(registers, shared, clock),
            count,
            held: Vec::new(),
            shares: [0; 2],
        }
    }

    async fn identify(&mut self, what: Structure, namespace: u32) -> Result<(), Fault> {
        self.queue
            .run(Command { opcode: IDENTIFY, namespace, data: true, words: [what as u32, 0] })
            .await?;
        Ok(())
    }

    async fn virtualize(
        &mut self,
        action: Action,
        controller: u16,
        kind: u8,
        count: u16,
    ) -> Result<(), Fault> {
        let word = action as u32 | u32::from(kind) << 8 | u32::from(controller) << 16;
        self.queue
            .run(Command {
                opcode: VIRTUALIZATION_MANAGEMENT,
                namespace: 0,
                data: false,
                words: [word, count.into()],
            })
            .await?;
        Ok(())
    }

    /// Attaches a namespace to controllers, or detaches it.
    async fn attach(
        &mut self,
        namespace: u32,
        controllers: &[u16],
        detach: bool,
    ) -> Result<(), Fault> {
        self.queue.clear_data();
        self.queue.put16(0, controllers.len() as u16);
        for (at, controller) in (1..).zip(controllers) {
            self.queue.put16(2 * at, *controller);
        }
        self.queue
            .run(Command {
                opcode: NAMESPACE_ATTACHMENT,
                namespace,
                data: true,
                words: [detach.into(), 0],
            })
            .await?;
        Ok(())
    }

    /// The secondary controller that a virtual function is.
    async fn controller(&mut self, number: u16) -> Result<u16, Fault> {
        self.identify(Structure::SecondaryControllers, 0).await?;
        // 127 entries fill the page.
        let count = u64::from(self.queue.data8(0)).min(127);
        let mut entries = (1..=count).map(|entry| 32 * entry);
        // Virtual functions are counted from 1 on there.
        let wanted = number.checked_add(1).ok_or(Fault::Lacks(Resource::Interfaces))?;
        let found = entries.find(|entry| self.queue.data16(entry + 8) == wanted);
        Ok(self.queue.data16(found.ok_or(Fault::Lacks(Resource::Interfaces))?))
    }

    /// How many of a resource each virtual function gets, where so many are left and it may have them.
    async fn share(&mut self, resource: Flexible, wanted: u32) -> Result<u16, Fault> {
        self.identify(Structure::PrimaryCapabilities, 0).await?;
        let total = self.queue.data32(resource.at);
        let assigned = self.queue.data32(resource.at + 4);
        let most = self.queue.data16(resource.at + 12);
        let part = (total / u32::from(self.count.max(1))).max(wanted).min(most.into());
        let left = total.saturating_sub(assigned).min(part);
        if left < wanted { Err(Fault::Lacks(resource.what)) } else { Ok(left as u16) }
    }

    /// Controllers that have a namespace.
    async fn attached(&mut self, namespace: u32) -> Result<Vec<u16>, Fault> {
        self.identify(Structure::AttachedControllers, namespace).await?;
        let count = u64::from(self.queue.data16(0)).min(LIST_ENTRIES);
        Ok((1..=count).map(|entry| self.queue.data16(2 * entry)).collect())
    }

    /// Bytes of a namespace; 0 where its format makes no sense.
    async fn namespace_bytes(&mut self, namespace: u32) -> Result<u64, Fault> {
        self.identify(Structure::AllocatedNamespace, namespace).await?;
        let blocks = self.queue.data64(0);
        let format = u64::from(self.queue.data8(26) & 0xf);
        let log2 = self.queue.data32(128 + 4 * format) >> 16 & 0xff;
        Ok(blocks.checked_mul(1_u64.checked_shl(log2).unwrap_or(0)).unwrap_or(0))
    }

    /// The namespace that is meant, which no virtual function has.
    async fn choose(&mut self, want: Namespace) -> Result<u32, Fault> {
        self.identify(Structure::AllocatedNamespaces, 0).await?;
        let ids = (0..1024).map(|at| self.queue.data32(4 * at)).take_while(|id| *id != 0);
        let mut ids: Vec<u32> = ids.collect();
        ids.retain(|id| self.held.iter().all(|held| held.namespace != *id));
        let missing = Fault::Lacks(Resource::Namespaces);
        let wanted = match want {
            Namespace::Id(id) => return ids.contains(&id).then_some(id).ok_or(missing),
            Namespace::Bytes(bytes) => bytes,
        };
        let mut best: Option<(u64, u32)> = None;
        for id in ids {
            if self.attached(id).await?.is_empty() {
                let bytes = self.namespace_bytes(id).await?;
                let is_better = best.is_none_or(|(least, _)| bytes < least);
                if bytes >= wanted.max(1) && is_better {
                    best = Some((bytes, id));
                }
            }
        }
        best.map(|(_, id)| id).ok_or(missing)
    }

    /// Gives a controller that is offline its part of the queues and interrupts.
    async fn equip(&mut self, controller: u16) -> Result<(), Fault> {
        for (resource, wanted) in [(QUEUES, LEAST_QUEUES), (INTERRUPTS, 1)] {
            // What it had before counts as left.
            self.virtualize(Action::SecondaryAssign, controller, resource.kind, 0).await?;
            let count = self.share(resource, wanted).await?;
            self.virtualize(Action::SecondaryAssign, controller, resource.kind, count).await?;
        }
        Ok(())
    }

    /// Does what was begun.
    pub(super) async fn carry_out(&mut self, job: Job) -> Result<Started, Fault> {
        match job {
            Job::Start => self.start().await,
            Job::Give(number, namespace) => {
                self.give(number, namespace).await.map(|()| Started::Ready)
            }
            Job::Take(number) => self.take(number).await.map(|()| Started::Ready),
        }
    }

    async fn start(&mut self) -> Result<Started, Fault> {
        self.held.clear();
        self.queue.start().await?;
        self.identify(Structure::Controller, 0).await?;
        if self.queue.data16(256) & OFFERED != OFFERED {
            return Err(Fault::Unsupported);
        }
        // The primary controller does no I/O: what can be given away is not its own.
        let mut started = Started::Ready;
        for (resource, least, place) in [(QUEUES, LEAST_QUEUES, 0), (INTERRUPTS, 1, 1)] {
            self.identify(Structure::PrimaryCapabilities, 0).await?;
            let own = self.queue.data16(0);
            if self.queue.data16(resource.at + 8) != 0 {
                self.virtualize(Action::PrimaryAllocation, own, resource.kind, 0).await?;
                started = Started::ResetFirst;
            } else if started == Started::Ready {
                let share = self.share(resource, least).await?;
                self.shares.iter_mut().skip(place).take(1).for_each(|place| *place = share);
            }
        }
        Ok(started)
    }

    async fn give(&mut self, number: u16, want: Option<Namespace>) -> Result<(), Fault> {
        let controller = self.controller(number).await?;
        let want = want.ok_or(Fault::Lacks(Resource::Namespaces))?;
        let namespace = self.choose(want).await?;
        self.virtualize(Action::SecondaryOffline, controller, 0, 0).await?;
        self.equip(controller).await?;
        // The physical function itself must not reach it either.
        let others = self.attached(namespace).await?;
        if !others.is_empty() {
            self.attach(namespace, &others, true).await?;
        }
        self.attach(namespace, &[controller], false).await?;
        self.held.push(Held { number, controller, namespace });
        let online = self.virtualize(Action::SecondaryOnline, controller, 0, 0).await;
        if online.is_err() {
            // What goes wrong now is not worse than what did before.
            let _ = self.take(number).await;
        }
        online
    }

    async fn take(&mut self, number: u16) -> Result<(), Fault> {
        let held = self.held.iter().find(|held| held.number == number).copied();
        let Some(Held { controller, namespace, .. }) = held else { return Ok(()) };
        self.virtualize(Action::SecondaryOffline, controller, 0, 0).await?;
        self.attach(namespace, &[controller], true).await?;
        // Nobody else is given its namespace before.
        self.held.retain(|held| held.number != number);
        for resource in [QUEUES, INTERRUPTS] {
            self.virtualize(Action::SecondaryAssign, controller, resource.kind, 0).await?;
        }
        Ok(())
    }
}
