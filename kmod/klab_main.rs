// SPDX-License-Identifier: GPL-2.0

//! klab's module: what an `sk_buff` meets on its way, into rings that the host reads in the guest's RAM.
//!
//! The host decides what to hook; here are only the means. `ring` is shared with the host, `hooks.c` are the hooks,
//! `event` records what they see if `filter` lets it through or `track` follows its packet, `rings` is the memory,
//! `capture` arms and disarms, `device` is `/dev/klab`.

use kernel::prelude::*;

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

#[pin_data(PinnedDrop)]
struct Klab {
    #[pin]
    device: kernel::miscdevice::MiscDeviceRegistration<device::Opened>,
}

impl kernel::InPlaceModule for Klab {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Called once, before anything can open the device.
        unsafe { capture::CAPTURE.init() };
        try_pin_init!(Self {
            device <- kernel::miscdevice::MiscDeviceRegistration::register(
                kernel::miscdevice::MiscDeviceOptions { name: c"klab" },
            ),
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
