// SPDX-License-Identifier: GPL-2.0

//! `/dev/klab`.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel::error::to_result;
use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice, UserSliceReader};

use crate::call::{Invoke, Plan, Plans, KLAB_INVOKE, KLAB_PLANS, PLANS};
use crate::capture::CAPTURE;
use crate::ring::{
    Arm, Counters, Filter, Site, KLAB_ARM, KLAB_COUNTERS, KLAB_DISARM, KLAB_FILTER, KLAB_SITES,
    SITES, VERSION,
};

// SAFETY: Integers without padding, for which any bits are a value.
unsafe impl FromBytes for Site {}
// SAFETY: As above.
unsafe impl FromBytes for Arm {}
// SAFETY: As above.
unsafe impl FromBytes for Filter {}
// SAFETY: As above.
unsafe impl FromBytes for Plan {}
// SAFETY: As above.
unsafe impl FromBytes for Invoke {}
// SAFETY: Integers without padding.
unsafe impl AsBytes for Counters {}
// SAFETY: As above.
unsafe impl AsBytes for Invoke {}

extern "C" {
    fn klab_invoke(call: *mut Invoke) -> c_int;
}

/// One open file; closing it, or its process's death, disarms what it armed.
pub(crate) struct Opened {
    id: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // It fails where another armed: then there is nothing of ours.
        let _ = CAPTURE.lock().disarm(self.id);
    }
}

#[vtable]
impl MiscDevice for Opened {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(KBox::new(Self { id }, GFP_KERNEL)?)
    }

    fn ioctl(me: &Self, _file: &File, command: u32, at: usize) -> Result<isize> {
        // The whole number is compared, with the size in it: another size is another command.
        let user = |size| UserSlice::new(UserPtr::from_addr(at), size);
        match command {
            KLAB_SITES => {
                let sites = read_sites(user(core::mem::size_of::<crate::ring::Sites>()).reader())?;
                CAPTURE.lock().add(me.id, sites)?;
            }
            KLAB_ARM => {
                let arm = user(core::mem::size_of::<Arm>()).reader().read()?;
                CAPTURE.lock().arm(me.id, &arm)?;
            }
            KLAB_FILTER => {
                let filter = user(core::mem::size_of::<Filter>()).reader().read()?;
                CAPTURE.lock().filter(me.id, filter)?;
            }
            KLAB_PLANS => {
                let plans = read_plans(user(core::mem::size_of::<Plans>()).reader())?;
                CAPTURE.lock().plans(me.id, &plans)?;
            }
            KLAB_INVOKE => {
                let mut call = KBox::new(
                    user(core::mem::size_of::<Invoke>()).reader().read::<Invoke>()?,
                    GFP_KERNEL,
                )?;
                if call.version != VERSION {
                    return Err(EINVAL);
                }
                // SAFETY: It is of the layout that C has it in (asserted in call.rs), and ours alone.
                to_result(unsafe { klab_invoke(&mut *call) })?;
                user(core::mem::size_of::<Invoke>()).writer().write(&*call)?;
            }
            KLAB_DISARM => CAPTURE.lock().disarm(me.id)?,
            KLAB_COUNTERS => {
                let counters = KBox::new(CAPTURE.lock().counters(), GFP_KERNEL)?;
                user(core::mem::size_of::<Counters>())
                    .writer()
                    .write(&*counters)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

fn read_sites(mut user: UserSliceReader) -> Result<KVVec<Site>> {
    let (version, count): (u32, u32) = (user.read()?, user.read()?);
    let zero: u64 = user.read()?;
    if version != VERSION || zero != 0 || count as usize > SITES {
        return Err(EINVAL);
    }
    let mut sites = KVVec::with_capacity(count as usize, GFP_KERNEL)?;
    for _ in 0..count {
        sites.push(user.read()?, GFP_KERNEL)?;
    }
    Ok(sites)
}

/// One by one: together they are too long for the stack.
fn read_plans(mut user: UserSliceReader) -> Result<KVVec<Plan>> {
    let (version, zero): (u32, u32) = (user.read()?, user.read()?);
    if version != VERSION || zero != 0 {
        return Err(EINVAL);
    }
    let mut plans = KVVec::with_capacity(PLANS, GFP_KERNEL)?;
    for _ in 0..PLANS {
        plans.push(user.read()?, GFP_KERNEL)?;
    }
    Ok(plans)
}
