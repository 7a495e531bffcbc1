//! Whether a machine can run a configuration, and which CPU runs which vCPU.

use alloc::{vec, vec::Vec};

use crate::{Config, ConfigError, Problem, Vm};

/// What of a machine matters to a configuration.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// For each CPU, by its number, which core it belongs to: CPUs with equal values are SMT siblings.
    pub cores: &'a [u32],
    /// Bytes of memory that guests may have, all together.
    pub free_bytes: u64,
}

/// Which CPU runs which vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// For each VM, for each of its vCPUs: the CPU's number.
    pub cpus: Vec<Vec<u32>>,
}

impl Placement {
    /// How many vCPUs, of all VMs, this CPU runs.
    #[must_use]
    pub fn vcpus_on(&self, cpu: u32) -> usize {
        self.cpus.iter().flatten().filter(|&&other| other == cpu).count()
    }
}

/// Checks memory and CPUs of all VMs against the machine, and places their vCPUs: pinned ones where the configuration
/// says, the others spread. A core's SMT siblings run one VM only, unless `share-smt` allows more: where there are too
/// few cores for that, VMs take turns on one CPU of a core while its siblings idle.
///
/// # Errors
/// The first VM that the machine cannot run beside those before it.
pub fn admit(config: &Config, machine: &Machine<'_>) -> Result<Placement, ConfigError> {
    check_memory(config, machine.free_bytes)?;
    let cpus = machine.cores.len();
    for (index, vm) in config.vms.iter().enumerate() {
        if let Some(&cpu) = vm.cpus.iter().flatten().find(|&&cpu| cpu as usize >= cpus) {
            return Err(config.wrong(index, "cpus", Problem::NoCpu { cpu, cpus }));
        }
        if vm.vcpus as usize > cpus && !config.hypervisor.share_cpus {
            let problem = Problem::TooManyVcpus { vcpus: vm.vcpus, cpus };
            return Err(config.wrong(index, "vcpus", problem));
        }
    }
    let vcpus: usize = config.vms.iter().map(|vm| vm.vcpus as usize).sum();
    let mut ids: Vec<u32> = machine.cores.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let first = if vcpus <= ids.len() { Style::Spread } else { Style::Pack };
    let placed = Board::new(config, machine.cores).place(first);
    // One CPU of each core has room for every VM; only pins can be in the way then.
    placed.or_else(|_| Board::new(config, machine.cores).place(Style::Single))
}

fn check_memory(config: &Config, total: u64) -> Result<(), ConfigError> {
    let mut left = total;
    for (index, vm) in config.vms.iter().enumerate() {
        let wanted = vm.memory_bytes;
        left = left.checked_sub(wanted).ok_or_else(|| {
            config.wrong(index, "memory", Problem::TooMuchMemory { wanted, left, total })
        })?;
    }
    Ok(())
}

/// How unpinned vCPUs are placed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Each on a core of its own.
    Spread,
    /// A VM's vCPUs on siblings, so that other VMs find cores.
    Pack,
    /// On one CPU of each core.
    Single,
}

/// CPUs and the vCPUs on them so far.
struct Board<'a> {
    config: &'a Config,
    cores: &'a [u32],
    /// For each CPU the VMs, by their numbers, of the vCPUs on it.
    users: Vec<Vec<usize>>,
}

impl<'a> Board<'a> {
    fn new(config: &'a Config, cores: &'a [u32]) -> Self {
        Self { config, cores, users: vec![Vec::new(); cores.len()] }
    }

    fn place(mut self, style: Style) -> Result<Placement, ConfigError> {
        let mut cpus: Vec<Vec<u32>> = Vec::with_capacity(self.config.vms.len());
        for (index, vm) in self.config.vms.iter().enumerate() {
            self.pin(index, vm)?;
            cpus.push(vm.cpus.clone().unwrap_or_default());
        }
        for (index, (vm, cpus)) in self.config.vms.iter().zip(&mut cpus).enumerate() {
            while cpus.len() < vm.vcpus as usize {
                let cpu = self
                    .choose(index, style)
                    .ok_or_else(|| self.config.wrong(index, "vcpus", Problem::NoCore))?;
                self.put(index, cpu);
                cpus.push(cpu);
            }
        }
        Ok(Placement { cpus })
    }

    fn pin(&mut self, index: usize, vm: &Vm) -> Result<(), ConfigError> {
        for &cpu in vm.cpus.iter().flatten() {
            if let Some((sibling, other)) = self.stranger(index, cpu) {
                let other = self.config.vms.get(other).map(|vm| vm.name.clone());
                let other = other.unwrap_or_default();
                let problem = Problem::Siblings { cpu, sibling, other };
                return Err(self.config.wrong(index, "cpus", problem));
            }
            self.put(index, cpu);
        }
        Ok(())
    }

    fn put(&mut self, vm: usize, cpu: u32) {
        if let Some(users) = self.users.get_mut(cpu as usize) {
            users.push(vm);
        }
    }

    /// The CPUs of this CPU's core, itself included, each with its users.
    fn core(&self, cpu: u32) -> impl Iterator<Item = (u32, &Vec<usize>)> {
        let core = self.cores.get(cpu as usize);
        let cpus = (0_u32..).zip(self.cores).zip(&self.users);
        cpus.filter(move |((_, other), _)| Some(*other) == core).map(|((n, _), users)| (n, users))
    }

    /// A sibling of this CPU that could run another VM while the CPU runs this one.
    fn stranger(&self, vm: usize, cpu: u32) -> Option<(u32, usize)> {
        if self.config.hypervisor.share_smt {
            return None;
        }
        // Who runs on the CPU itself takes turns with the VM, but not with what is on the sibling.
        let here = self.users.get(cpu as usize)?;
        self.core(cpu).filter(|(sibling, _)| *sibling != cpu).find_map(|(sibling, users)| {
            let there = users.iter().find(|&&other| other != vm);
            let local = || (!users.is_empty()).then(|| here.iter().find(|&&o| o != vm))?;
            Some((sibling, *there.or_else(local)?))
        })
    }

    /// The best CPU for one more vCPU of this VM.
    fn choose(&self, vm: usize, style: Style) -> Option<u32> {
        let alone = style == Style::Single && !self.config.hypervisor.share_smt;
        (0_u32..)
            .zip(&self.users)
            .filter(|(cpu, _)| self.stranger(vm, *cpu).is_none())
            // Single: a core's other CPUs stay idle, unless pins have made one of them the core's.
            .filter(|(cpu, users)| {
                let in_use = self.core(*cpu).find(|(_, users)| !users.is_empty());
                let first = in_use.or_else(|| self.core(*cpu).next()).map(|(first, _)| first);
                !alone || !users.is_empty() || first == Some(*cpu)
            })
            .min_by_key(|(cpu, users)| {
                let own = users.iter().filter(|&&other| other == vm).count();
                let siblings = || self.core(*cpu).flat_map(|(_, users)| users);
                let foreign_core = style == Style::Pack && !siblings().any(|&other| other == vm);
                (own, users.len(), foreign_core, siblings().count(), *cpu)
            })
            .map(|(cpu, _)| cpu)
    }
}

#[cfg(test)]
mod tests;
