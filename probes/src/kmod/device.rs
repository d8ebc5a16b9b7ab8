//! `/dev/klab` of a guest: the module loaded, told what to hook, armed and disarmed.

use std::mem::size_of;

use vm::agent::Client;

use super::reader::Reader;
use super::ring::{
    self, Arm, Counters, KLAB_ARM, KLAB_COUNTERS, KLAB_DISARM, KLAB_SITES, Site, Sites,
};
use crate::cell::{Bundle, Display, display};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{Error, Result};

/// The module, armed. The agent has the device open for this client: dropped, it disarms.
#[derive(Debug)]
pub(crate) struct Armed {
    client: Client,
    pub(crate) reader: Reader,
}

impl Armed {
    /// Hooks these sites. `options` are ioctls that say what is recorded, with what each takes; `tracepoints` as in [`Arm`].
    ///
    /// # Errors
    /// When another has armed it, or the kernel refuses a site.
    pub(crate) fn new(
        guest: &Guest,
        kernel: &Kernel,
        sites: &[Site],
        options: &[(u32, &[u8])],
        tracepoints: u64,
    ) -> Result<Self> {
        let mut client = guest.agent()?;
        client.device_open()?;
        for some in sites.chunks(ring::SITES) {
            if let Err(error) = client.device_ioctl(KLAB_SITES, &Sites::to_bytes(some)) {
                return Err(busy(&mut client).unwrap_or_else(|| error.into()));
            }
        }
        for (command, given) in options {
            client.device_ioctl(*command, given)?;
        }
        let arm = Arm {
            version: ring::VERSION,
            ring: 0,
            tracepoints,
            owner: std::process::id().into(),
        };
        client.device_ioctl(KLAB_ARM, &arm.to_bytes())?;
        let counters = client.device_ioctl(KLAB_COUNTERS, &[])?;
        let reader = Reader::new(kernel.space().memory().clone(), &counters)?;
        Ok(Self { client, reader })
    }

    /// Disarms; gives how many returns the kernel could not watch. What is in the rings stays to be read.
    pub(crate) fn disarm(&mut self) -> Result<u64> {
        let counters = self.client.device_ioctl(KLAB_COUNTERS, &[])?;
        self.client.device_ioctl(KLAB_DISARM, &[])?;
        let counters: &[u8; size_of::<Counters>()] = counters
            .as_slice()
            .try_into()
            .map_err(|_| Error::machine("klab's module gave no counters".to_owned()))?;
        Ok(Counters::from_bytes(counters).missed)
    }
}

impl Guest {
    /// Loads klab's module into the guest; `false` if it was loaded already. It is built first where it was not built
    /// for this kernel yet: the first time that takes minutes, and the steps are shown.
    ///
    /// # Errors
    /// When the module cannot be built for this kernel, or the kernel refuses it.
    pub fn load_kmod(&self) -> Result<bool> {
        let mut client = self.agent()?;
        Ok(self.machine()?.load_kmod(&mut client, &mut Steps(None))?)
    }
}

/// Reason why a capture cannot begin, if that is since another one is under way.
fn busy(client: &mut Client) -> Option<Error> {
    let answer = client.device_ioctl(KLAB_COUNTERS, &[]).ok()?;
    let counters = Counters::from_bytes(answer.as_slice().try_into().ok()?);
    if counters.magic != ring::MAGIC || counters.version != ring::VERSION || counters.armed == 0 {
        return None;
    }
    Some(Error::Invalid(format!(
        "another recording runs in this guest, for {:.1} s, of process {} of this machine: wait until it ends, or end it",
        counters.age as f64 / 1e9,
        counters.owner
    )))
}

/// The steps of making the module, shown where they replace each other.
struct Steps(Option<Display>);

impl vm::Progress for Steps {
    fn step(&mut self, text: &str) {
        match &self.0 {
            Some(shown) => shown.update(Bundle::text(text)),
            None => self.0 = Some(display(Bundle::text(text))),
        }
    }
}
