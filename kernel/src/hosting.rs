//! Functions of Kerf's own: physical functions whose virtual ones guests have. Each is in a private DMA space, which holds
//! what its driver shares with it and nothing else, and is driven by [`devices`].

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use ::iommu::{Attach, Attachment, Route, Source};
use ::pci::{ConfigAccess, FunctionInfo, Sriov, spec};
use config::{Config, Device};
use devices::sriov::{self, Job, Namespace, Physical, Shared, SrIov, Started, VirtualFunction};
use devices::{Command, Fault, HostingFunction, InterfaceId, Setting, State, Want};
use hw::{Clock, Function, Iova, PAGE_SIZE, Width};
use paging::Rights;
use spin::{Mutex, Once};

use crate::pci::Found;
use crate::platform::Mmio;
use crate::{iommu, irq, mem, sched, vdev};

/// A physical function, Kerf's for good.
#[derive(Debug)]
struct Host {
    carved: Mutex<Box<dyn HostingFunction>>,
    _attachment: Attachment,
    _route: Option<Route>,
}

/// A virtual function of one, carved for a VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    host: &'static Mutex<Box<dyn HostingFunction>>,
    id: InterfaceId,
}

/// Why a function cannot be driven.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Problem {
    /// No IOMMU holds it back.
    Unheld,
    /// There is no driver for it, or its BAR 0 is nowhere, or memory is short.
    NoDriver,
    /// Its space cannot be made.
    Space(::iommu::MapError),
    /// It cannot be attached to it.
    Attach(::iommu::AttachError),
    /// Its interrupt has no way.
    Route(::iommu::RouteError),
    /// It cannot be reset.
    Reset(::pci::ResetError),
    /// It does not do what it is told.
    Fault(Fault),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheld => f.write_str("no IOMMU stands before it"),
            Self::NoDriver => f.write_str("Kerf has no driver or no memory for it"),
            Self::Space(why) => write!(f, "its memory cannot be mapped: {why:x?}"),
            Self::Attach(why) => write!(f, "it cannot be attached: {why:x?}"),
            Self::Route(why) => write!(f, "its interrupt cannot be routed: {why:x?}"),
            Self::Reset(why) => write!(f, "it cannot be reset: {why:?}"),
            Self::Fault(why) => write!(f, "it does not do what it is told: {why:x?}"),
        }
    }
}

/// Each physical function, or why it cannot be driven.
static HOSTS: Once<Vec<(Function, Result<Host, Problem>)>> = Once::new();
/// One of them has interrupted.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Where a function sees the first byte of what it shares with its driver.
const SHARED_AT: u64 = PAGE_SIZE;
/// Starts, each after a reset, until a driver has to be content.
const MOST_STARTS: usize = 2;

/// How many virtual functions the configuration wants of which function.
pub(crate) fn wanted(config: &Config) -> BTreeMap<Function, u16> {
    let mut wanted = BTreeMap::new();
    for device in config.vms.iter().flat_map(|vm| &vm.devices) {
        if let Device::Virtual { of, .. } = device {
            *wanted.entry(*of).or_default() += 1;
        }
    }
    wanted
}

/// Takes every function that has virtual ones, once the IOMMU is there.
pub(crate) fn init(found: &'static Found) {
    HOSTS.call_once(|| {
        let host = |sriov: &Sriov| {
            let function = sriov.physical();
            let host = take(found, sriov);
            if let Err(why) = &host {
                log::error!("{function} gives no virtual functions: {why}");
            }
            (function, host)
        };
        found.sriov.iter().map(host).collect()
    });
}

fn take(found: &'static Found, sriov: &Sriov) -> Result<Host, Problem> {
    let function = sriov.physical();
    let info = ::pci::find(&found.functions, function).ok_or(Problem::NoDriver)?;
    if !iommu::with(|driver| driver.covers(function)).unwrap_or(false) {
        return Err(Problem::Unheld);
    }
    let registers = found.bars(info)[0].ok_or(Problem::NoDriver)?;
    let space = iommu::with(|driver| driver.create_space()).ok_or(Problem::Unheld)?;
    let space = space.map_err(Problem::Space)?;
    let mut mapped = Ok(());
    let memory = |bytes| {
        let (hpa, memory) = mem::shared(bytes)?;
        let iova = Iova::new(SHARED_AT);
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        mapped = iommu::with(|driver| driver.map(space, iova, hpa, bytes, Rights::RW))?;
        Some(Shared { memory, iova: SHARED_AT })
    };
    let driver = sriov::driver(info, registers, memory, irq::clock(), sriov.count());
    mapped.map_err(Problem::Space)?;
    let mut driver = driver.ok_or(Problem::NoDriver)?;
    let attached = iommu::with(|driver| driver.attach(Attach::new(function, space)));
    let attachment = attached.ok_or(Problem::Unheld)?.map_err(Problem::Attach)?;
    let source = Source::Function(function);
    let route = || iommu::with(|driver| driver.route(source, &[irq::hosting_target()]));
    let route = driver.wants_interrupt().then(route).flatten();
    let route = route.transpose().map_err(Problem::Route)?;
    start(found, info, sriov, &mut *driver, route.as_ref())?;
    let virtuals = found.functions.iter().filter(|info| info.physical == Some(function));
    let virtuals = virtuals.map(|info| {
        let bars = found.bars(info);
        VirtualFunction::new(info, |bar, offset| {
            bars.get(usize::from(bar)).copied().flatten()?.from(offset.into())
        })
    });
    let virtuals: Result<Vec<VirtualFunction<Mmio>>, Fault> = virtuals.collect();
    let carved = SrIov::new(function, driver, virtuals.map_err(Problem::Fault)?);
    log::info!("{function} is Kerf's own, for {} virtual functions", sriov.count());
    Ok(Host { carved: Mutex::new(Box::new(carved)), _attachment: attachment, _route: route })
}

/// Resets it and has its driver start it, virtual functions and all.
fn start(
    found: &Found,
    info: &FunctionInfo,
    sriov: &Sriov,
    driver: &mut dyn Physical,
    route: Option<&Route>,
) -> Result<(), Problem> {
    let clock = irq::clock();
    for _ in 0..MOST_STARTS {
        ::pci::reset(&found.space, info, &clock).map_err(Problem::Reset)?;
        let command = spec::COMMAND_MEMORY | spec::COMMAND_MASTER | spec::COMMAND_INTX_DISABLE;
        found.space.write(info.function, spec::COMMAND, Width::W2, command.into());
        sriov.enable(&found.space, &clock);
        // Before its driver lets it interrupt: a message that is lost is sent no second time.
        route.map_or(Some(()), |route| interrupt(found, info, route)).ok_or(Problem::NoDriver)?;
        driver.begin(Job::Start);
        let started = loop {
            match driver.poll() {
                Some(started) => break started,
                None => clock.relax(),
            }
        };
        if started.map_err(Problem::Fault)? == Started::Ready {
            return Ok(());
        }
    }
    Err(Problem::Fault(Fault::Unsupported))
}

/// Has its first MSI-X entry go this way.
pub(crate) fn interrupt(found: &Found, info: &FunctionInfo, route: &Route) -> Option<()> {
    let msix = info.msix?;
    let bar = found.bars(info).get(usize::from(msix.table_bar)).copied().flatten()?;
    let table = bar.from(msix.table_offset.into())?;
    let message = route.message();
    msix.set(&table, 0, message.address, message.data);
    msix.enable(&found.space, info.function, true, false);
    msix.mask(&table, 0, false);
    Some(())
}

/// What became of a function that was to have virtual ones.
fn host(function: Function) -> Option<Result<&'static Host, &'static Problem>> {
    let (_, host) = HOSTS.get()?.iter().find(|(of, _)| *of == function)?;
    Some(host.as_ref())
}

/// Whether a function is Kerf's own, or a virtual one of such.
pub(crate) fn has(info: &FunctionInfo) -> bool {
    info.physical.is_some() || host(info.function).is_some() || vdev::has(info.function)
}

/// What the monitor says of a function that is Kerf's own.
pub(crate) fn about(function: Function) -> Option<String> {
    Some(match host(function)? {
        Ok(host) => {
            let interfaces = host.carved.lock().resources().interfaces;
            alloc::format!("Kerf, {} of {} virtual functions left", interfaces.left, interfaces.of)
        }
        Err(why) => alloc::format!("Kerf: {why}"),
    })
}

/// Carves a virtual function of a function; who it is, or why there is none.
pub(crate) fn carve(
    of: Function,
    namespace: Option<config::Namespace>,
) -> Result<(Function, Part), String> {
    let host = host(of).ok_or("it cannot make any; the log says why")?;
    let host = &host.map_err(|why| alloc::format!("{why}"))?.carved;
    let mut carved = host.lock();
    let id = carved.carve(&Want { queues: 1, slots: 1, ..Want::default() });
    let id = id.map_err(|why| alloc::format!("{why:?}"))?;
    let set = namespace.map_or(Ok(()), |namespace| {
        let namespace = match namespace {
            config::Namespace::Id(id) => Namespace::Id(id),
            config::Namespace::Bytes(bytes) => Namespace::Bytes(bytes),
        };
        carved.set(id, Setting::Namespace(namespace))
    });
    let requester = carved.interface(id).map(|interface| interface.requester);
    match (set, requester) {
        (Ok(()), Some(requester)) => Ok((requester, Part { host, id })),
        (set, _) => {
            // It was carved just now, so nothing keeps it.
            let _ = carved.release(id);
            Err(alloc::format!("{set:?}"))
        }
    }
}

impl Part {
    /// Lets the virtual function work, and waits for that.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn enable(self) -> Result<(), Fault> {
        self.run(Command::Enable)
    }

    /// Takes what it had, after its reset.
    pub(crate) fn disable(self) {
        let state = self.host.lock().interface(self.id).map(|interface| interface.state);
        if state == Some(State::Enabled)
            && let Err(why) = self.run(Command::Disable)
        {
            log::error!("virtual function {} keeps what it had: {why:?}", self.id.number());
        }
    }

    /// Gives it back.
    pub(crate) fn release(self) {
        if let Err(why) = self.host.lock().release(self.id) {
            log::error!("virtual function {} is not taken back: {why:?}", self.id.number());
        }
    }

    fn run(self, command: Command) -> Result<(), Fault> {
        self.host.lock().start(self.id, command)?;
        loop {
            if let Some(done) = self.host.lock().poll(self.id) {
                return done;
            }
            irq::clock().relax();
        }
    }
}

/// An interrupt of one of them came.
pub(crate) fn note_interrupt() {
    TOLD.store(true, Ordering::Relaxed);
    vdev::note_interrupt();
    sched::order(0);
}

/// Hears what they have to tell. By the boot CPU, now and then.
pub(crate) fn look_after() {
    if !TOLD.swap(false, Ordering::Relaxed) {
        return;
    }
    for (function, host) in HOSTS.get().into_iter().flatten() {
        let reports = host.as_ref().map_or(Vec::new(), |host| host.carved.lock().attend());
        for report in reports {
            log::warn!("{function}: {:?}", report.what);
        }
    }
}
