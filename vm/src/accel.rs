//! The accelerator: found by a trial boot, remembered.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::paths;
use crate::progress::Progress;
use crate::qemu::{Accel, Qemu, Spec};
use crate::snapshot::Ready;

/// A boot takes 1-2 s with KVM and some 10 s without; a busy host takes several times that.
const KVM_PATIENCE: Duration = Duration::from_secs(20);
const TCG_PATIENCE: Duration = Duration::from_secs(180);

/// The ready state for `spec`, with the accelerator that works here; sets `spec.accel`.
///
/// The trial of KVM is the boot that makes the ready state: `/dev/kvm` can exist and still abort QEMU, stop the
/// guest or hang it.
pub(crate) fn ready(
    spec: &mut Spec,
    qemu: &Qemu,
    release: &str,
    progress: &mut dyn Progress,
) -> Result<Ready> {
    let remembered = recall(qemu, release);
    spec.accel = Accel::Kvm;
    if !spec.recorded && usable() && remembered != Some(Accel::Tcg) {
        match Ready::get(spec, qemu, KVM_PATIENCE, progress) {
            Ok(ready) => {
                remember(qemu, release, Accel::Kvm)?;
                return Ok(ready);
            }
            Err(
                error @ (Error::QemuEnded(_)
                | Error::NotAnswering { .. }
                | Error::Stopped { .. }
                | Error::Qmp { .. }),
            ) => progress.step(&format!(
                "KVM does not work here ({error}), going on without it"
            )),
            // Nothing that KVM is to blame for.
            Err(error) => return Err(error),
        }
        remember(qemu, release, Accel::Tcg)?;
    }
    spec.accel = Accel::Tcg;
    Ready::get(spec, qemu, TCG_PATIENCE, progress)
}

/// Tells whether `/dev/kvm` is ours to open.
fn usable() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn name(qemu: &Qemu, release: &str) -> String {
    format!("{} {release}", qemu.version)
}

fn table() -> Result<BTreeMap<String, Accel>> {
    let text = fs::read(paths::cache()?.join("accel.json")).unwrap_or_default();
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

fn recall(qemu: &Qemu, release: &str) -> Option<Accel> {
    table().ok()?.get(&name(qemu, release)).copied()
}

/// Remembers the outcome, so that the trial is not made again with this QEMU and kernel.
pub(crate) fn remember(qemu: &Qemu, release: &str, accel: Accel) -> Result<()> {
    let mut table = table()?;
    if table.insert(name(qemu, release), accel) == Some(accel) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&table).unwrap_or_default();
    paths::write_whole(&paths::cache()?.join("accel.json"), &text)
}
