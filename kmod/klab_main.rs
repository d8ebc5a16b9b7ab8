// SPDX-License-Identifier: GPL-2.0

//! klab's module: what an `sk_buff` meets on its way, and calls of any function, into rings that the host reads in the guest's RAM.
//!
//! The host decides what to hook; here are only the means. `ring` and `call` are shared with the host, `hooks.c` are the hooks,
//! `event` records what they see if `filter` lets it through or `track` follows its packet, `calls` records calls, `rings` is the memory,
//! `capture` arms and disarms, `device` is `/dev/klab`; `int3.c` is about QEMU.

use kernel::error::to_result;
use kernel::prelude::*;

mod call;
mod calls;
mod capture;
mod device;
mod event;
mod filter;
mod ring;
mod rings;
mod track;

module! {
    type: Klab,
    name: "klab",
    authors: ["klab"],
    description: "What an sk_buff meets on its way, into rings that the host reads",
    license: "GPL",
}

extern "C" {
    fn klab_watch_int3() -> c_int;
    fn klab_unwatch_int3();
}

/// See `int3.c`; undone when dropped.
struct WatchInt3;

impl WatchInt3 {
    fn new() -> Result<Self> {
        // SAFETY: Called once, and undone once.
        to_result(unsafe { klab_watch_int3() })?;
        Ok(Self)
    }
}

impl Drop for WatchInt3 {
    fn drop(&mut self) {
        // SAFETY: It was registered.
        unsafe { klab_unwatch_int3() };
    }
}

#[pin_data(PinnedDrop)]
struct Klab {
    #[pin]
    device: kernel::miscdevice::MiscDeviceRegistration<device::Opened>,
    _watch: WatchInt3,
}

impl kernel::InPlaceModule for Klab {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Called once, before anything can open the device.
        unsafe { capture::CAPTURE.init() };
        try_pin_init!(Self {
            device <- kernel::miscdevice::MiscDeviceRegistration::register(
                kernel::miscdevice::MiscDeviceOptions { name: c"klab" },
            ),
            _watch: WatchInt3::new()?,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Klab {
    fn drop(self: Pin<&mut Self>) {
        // An open device holds the module, and closing it disarms: nothing records any more.
        rings::free();
    }
}
