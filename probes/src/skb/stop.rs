//! Stopping the guest when a packet reaches a function, so that its `sk_buff` and all that hangs on it can be walked in place.
//!
//! A breakpoint of QEMU's at the function's entry, not the module: so it works on every kernel with BTF, and the guest stands
//! exactly there, its registers and its stack as the function's caller left them. The filter is evaluated here at each call, for which the guest
//! stands still a moment.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # use std::time::Duration;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let net = guest.net()?;
//! let mut stop = guest.stop_at("ip_local_deliver", &Filter::new("icmp")?)?;
//! net.ping(1, 1)?;
//! let device = stop.wait(Duration::from_secs(5), |stopped| {
//!     stopped.skb()?.member("dev")?.deref()?.member("name")?.string()
//! })?;
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, Instant};

use vm::{Debugger, Registers};

use super::SkBuff;
use super::filter::{Filter, Seen, Wanted};
use super::functions::{ENTRIES, SkbFunction, hookable};
use crate::base::check_interrupt;
use crate::guest::{Guest, Pause};
use crate::kernel::Kernel;
use crate::kmod::ring::PACKET;
use crate::memory::GuestVirt;
use crate::object::{Mirror, Object};
use crate::unwind::StackTrace;
use crate::{Error, Result};

/// Interval between two looks for an interrupt.
const SLICE: Duration = Duration::from_millis(100);
/// `endbr64`.
const ENDBR: u32 = 0xfa1e_0ff3;

/// A function at which the guest will stop for a packet. Dropped, it is no longer waited for, and the guest runs.
#[derive(Debug)]
pub struct Stop {
    guest: Guest,
    kernel: Kernel,
    debugger: Debugger,
    /// With the address of the breakpoint of each.
    functions: Vec<(u64, SkbFunction)>,
    wanted: Wanted,
    at: Option<vm::Stop>,
}

/// The guest, standing still where a packet has come.
#[derive(Debug)]
pub struct Stopped<'a> {
    guest: &'a Guest,
    kernel: &'a Kernel,
    /// The function that is about to run.
    pub function: &'a SkbFunction,
    /// The registers of the CPU that is about to run it.
    pub registers: Registers,
    /// The packet's `sk_buff`.
    pub at: GuestVirt,
}

impl Guest {
    /// Makes the guest stop when a packet that the filter lets through reaches a function that takes an `sk_buff`. From now on;
    /// [`Stop::wait`] waits for it.
    ///
    /// # Errors
    /// When the kernel has no such function that takes an `sk_buff`, when the guest is paused, or another waits so.
    pub fn stop_at(&self, function: &str, filter: &Filter) -> Result<Stop> {
        let wanted = filter.resolve(self)?;
        let kernel = self.kernel()?;
        let all = hookable(&kernel)?;
        let functions: Vec<_> = all
            .named(function)
            .map(|function| Ok((entry(&kernel, function.at)?, function.clone())))
            .collect::<Result<_>>()?;
        if functions.is_empty() {
            return Err(Error::Absent(format!(
                "no function `{function}` of this kernel takes an sk_buff: `guest.skb_functions()?` has all that do"
            )));
        }
        let mut debugger = self.machine()?.debugger()?;
        for (at, _) in &functions {
            debugger.set(*at)?;
        }
        debugger.run(None)?;
        Ok(Stop {
            guest: self.clone(),
            kernel,
            debugger,
            functions,
            wanted,
            at: None,
        })
    }
}

/// Finds the address that every call of a function passes: behind the `endbr64`, which a direct call may leave out.
fn entry(kernel: &Kernel, at: GuestVirt) -> Result<u64> {
    let skip = if kernel.read_u32(at)? == ENDBR {
        ENTRIES[1]
    } else {
        ENTRIES[0]
    };
    Ok(at.offset(skip).0)
}

impl Stop {
    /// Waits for such a packet, at most `patience`, and runs `look` while the guest stands there; then it goes on. Called again, it
    /// waits for the next one.
    ///
    /// # Errors
    /// When none comes in time, or the guest is reset meanwhile; those of `look`.
    pub fn wait<T>(
        &mut self,
        patience: Duration,
        look: impl FnOnce(&Stopped<'_>) -> Result<T>,
    ) -> Result<T> {
        let until = Instant::now() + patience;
        if self.at.is_some() {
            self.go_on()?;
        }
        let (registers, index, at) = loop {
            check_interrupt();
            let left = until.saturating_duration_since(Instant::now());
            let Some(stop) = self.debugger.wait(left.min(SLICE))? else {
                if left.is_zero() {
                    let name = self.functions.first().map_or("", |(_, f)| f.name.as_str());
                    return Err(Error::Absent(format!(
                        "no packet of the filter came to {name} within {:.1} s",
                        patience.as_secs_f64()
                    )));
                }
                continue;
            };
            // Another's pause: it will let the guest go on.
            if !stop.breakpoint {
                continue;
            }
            self.at = Some(stop);
            let registers = self.debugger.registers(stop.cpu)?;
            let here = self
                .functions
                .iter()
                .position(|(at, _)| *at == registers.rip);
            if let Some(index) = here
                && let Some(at) = registers.argument(usize::from(self.functions[index].1.position))
                && self.wanted.sees(&seen(&self.kernel, GuestVirt(at)))
            {
                break (registers, index, GuestVirt(at));
            }
            self.go_on()?;
        };
        let pause = Pause::begin(&self.guest)?;
        let looked = look(&Stopped {
            guest: &self.guest,
            kernel: &self.kernel,
            function: &self.functions[index].1,
            registers,
            at,
        });
        let went_on = pause.end().and_then(|()| self.go_on());
        // The first error is the one that is told.
        let looked = looked?;
        went_on?;
        Ok(looked)
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(self.debugger.run(self.at.take())?)
    }
}

impl Stopped<'_> {
    /// The packet's `struct sk_buff`, to be walked: `skb()?.member("dev")?.deref()?`.
    ///
    /// # Errors
    /// As [`Object::at`]. The memory is not read yet.
    pub fn skb(&self) -> Result<Object> {
        Object::at(self.kernel, "struct sk_buff", self.at)
    }

    /// The packet's `sk_buff`, with the memory that it describes.
    ///
    /// # Errors
    /// As [`Guest::sk_buff`].
    pub fn sk_buff(&self) -> Result<SkBuff> {
        self.guest.sk_buff(self.at)
    }

    /// The frames that led here.
    ///
    /// # Errors
    /// `Absent` if no task is known that runs on the CPU; `Broken` if the kernel's tables for unwinding are damaged.
    pub fn stack(&self) -> Result<StackTrace> {
        self.guest.stack_of_cpu(self.registers.cpu)
    }

    /// The guest, which stands still.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        self.guest
    }
}

#[derive(Debug, Mirror)]
#[mirror(c = "struct sk_buff")]
struct Raw {
    head: GuestVirt,
    data: GuestVirt,
    tail: u32,
    network_header: u16,
    protocol: u16,
    mark: u32,
    dev: GuestVirt,
    sk: GuestVirt,
}

/// Reads what a record of the module would have of this `sk_buff`; parts that cannot be read are left out.
fn seen(kernel: &Kernel, at: GuestVirt) -> Seen<'static> {
    let Ok(raw) = kernel.load::<Raw>(at) else {
        return Seen::default();
    };
    let data = raw.data.0.wrapping_sub(raw.head.0);
    let placed = raw.network_header != 0 && u32::from(raw.network_header) < raw.tail;
    let from = if placed {
        u64::from(raw.network_header)
    } else {
        data
    };
    let length = u64::from(raw.tail).saturating_sub(from).min(PACKET as u64);
    let mut packet = vec![0; length as usize];
    if kernel.read(raw.head.offset(from), &mut packet).is_err() {
        packet.clear();
    }
    let protocol = raw.protocol.swap_bytes();
    let namespace = |c_type: &str, path: &str, at: GuestVirt| {
        let net = Object::at(kernel, c_type, at)?.member(path)?.deref()?;
        Ok::<_, Error>(net.member("ns.inum")?.u64()? as u32)
    };
    let device = namespace("struct net_device", "nd_net.net", raw.dev).ok();
    let ifindex = device.and_then(|_| {
        let device = Object::at(kernel, "struct net_device", raw.dev).ok()?;
        Some(device.member("ifindex").ok()?.u64().ok()? as u32)
    });
    let socket = || namespace("struct sock", "__sk_common.skc_net.net", raw.sk).ok();
    Seen {
        netns: device.or_else(socket).unwrap_or(0),
        ifindex: ifindex.unwrap_or(0),
        mark: raw.mark,
        protocol,
        placed: placed || protocol != 0,
        packet: packet.into(),
        datagrams: None,
    }
}
