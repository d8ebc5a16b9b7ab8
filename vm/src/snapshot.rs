//! Ready states: a guest is booted once, and every guest of the same make starts from what it became.
//!
//! RAM is in a file already, so that QEMU saves only its devices (`x-ignore-shared`): some hundred KB.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::agent;
use crate::error::{At, Error, Result};
use crate::folder::{self, FORMAT};
use crate::launch::{self, Launch, Owner};
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::qemu::{self, Accel, Begin, Qemu, READY, STATES, Spec};
use crate::qmp::Qmp;
use crate::ram;
use crate::sparse::{self, Zeros};
use crate::temporary::Temporary;
use klab_facts::RamRange;

/// Number of ready states that are kept; each takes what its guest had in use.
const KEPT: usize = 8;

/// A saved state.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) key: String,
    /// `ram`, `state`, `serial.log`, `ready.json`.
    pub(crate) folder: PathBuf,
    pub(crate) ranges: Vec<RamRange>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    ranges: Vec<RamRange>,
    /// Lengths of `ram` and `state`: a state that someone took parts from is made again.
    lengths: [u64; 2],
}

impl Ready {
    /// The saved state `key`, if it is there.
    pub(crate) fn find(key: &str) -> Result<Option<Self>> {
        Self::open(key, paths::cache()?.join("ready").join(key))
    }

    /// The state that is saved in a folder, if it is whole.
    pub(crate) fn open(key: &str, folder: PathBuf) -> Result<Option<Self>> {
        let Ok(text) = fs::read(folder.join("ready.json")) else {
            return Ok(None);
        };
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            return Ok(None);
        };
        if !lengths(&folder).is_ok_and(|lengths| lengths == note.lengths) {
            return Ok(None);
        }
        // Used now: the oldest go first.
        if let Ok(file) = File::open(folder.join("ready.json")) {
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(Some(Self {
            key: key.to_owned(),
            folder,
            ranges: note.ranges,
        }))
    }

    /// The saved state for `spec`, made now if it is not there; of several processes that need it at once one makes it.
    pub(crate) fn get(
        spec: &Spec,
        qemu: &Qemu,
        patience: Duration,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        let key = key(spec, qemu)?;
        if let Some(ready) = Self::find(&key)? {
            return Ok(ready);
        }
        let all = paths::private(&paths::cache()?.join("ready"), "KLAB_CACHE")?;
        let lock = paths::lock(&all.join(format!("{key}.lock")), Duration::from_secs(300))?;
        let _lock = lock.ok_or_else(|| Error::Locked("(ready state)".to_owned()))?;
        if let Some(ready) = Self::find(&key)? {
            return Ok(ready);
        }
        progress.step("booting the kernel once");
        let name = format!(".ready-{}-{}", &key[..8], std::process::id());
        let folder = paths::run()?.join(&name);
        let lock = folder::lock(&folder, true, Duration::ZERO)?
            .ok_or_else(|| Error::Locked("(ready state)".to_owned()))?;
        let launch = Launch {
            name: "ready",
            folder: &folder,
            spec,
            qemu,
            owner: Owner::ThisProcess,
        };
        let mut made = make(&launch, &all, &key, patience, progress);
        if let Err(error @ (Error::QemuEnded(_) | Error::Stopped { .. })) = &made
            && spec.accel == Accel::Tcg
        {
            // Its translator errs now and then on a busy host; a kernel that cannot boot fails twice.
            progress.step(&format!("{error}; booting it once more"));
            process::end(&folder)?;
            made = make(&launch, &all, &key, patience, progress);
        }
        let removed = folder::remove(&folder);
        drop(lock);
        made?;
        removed?;
        prune(&all, &key);
        Self::find(&key)?.ok_or(Error::NotReady(key))
    }
}

fn make(
    launch: &Launch<'_>,
    all: &Path,
    key: &str,
    patience: Duration,
    progress: &mut dyn Progress,
) -> Result<()> {
    paths::tidy(all);
    launch.boot(patience)?;
    progress.step("saving its ready state");
    let mut qmp = Qmp::connect(launch.folder)?;
    if launch.spec.recorded {
        stop_at_work(&mut qmp, launch.folder)?;
    } else {
        qmp.stop()?;
    }
    let to = all.join(key);
    // Left by a cache that someone took parts from.
    let _ = fs::remove_dir_all(&to);
    save(&mut qmp, launch.folder, launch.spec, &to, "KLAB_CACHE")?;
    qmp.quit();
    Ok(())
}

/// Loop that keeps a recorded guest's CPU at work for some tenths of a second, and ends by itself.
const WORK: &str = "(i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done) </dev/null >/dev/null 2>&1 &";
/// Number of tries to stop it there.
const TRIES: usize = 20;

/// Stops a guest that will be recorded while its CPU works.
///
/// A CPU that waits has QEMU's timer for its waking armed. That one runs in QEMU's main loop, also in a machine that stands: there it
/// ends the wait, but leaves out what that does to the guest's clock (`icount_warp_rt`, softmmu/icount.c@v7.2.0). A replay that stands
/// at the beginning of its record for longer than the record did would never leave it.
fn stop_at_work(qmp: &mut Qmp, folder: &Path) -> Result<()> {
    for _ in 0..TRIES {
        let mut client = agent::Client::connect(folder, Duration::from_secs(10))?;
        client.shell(WORK)?;
        drop(client);
        qmp.stop()?;
        if qmp.human("info registers")?.contains("HLT=0") {
            return Ok(());
        }
        qmp.cont()?;
    }
    Err(Error::NotAtWork)
}

/// Saves a machine that stands still as the folder `to`, which appears whole or not at all. `variable` moves the file system
/// that it lies on.
pub(crate) fn save(
    qmp: &mut Qmp,
    folder: &Path,
    spec: &Spec,
    to: &Path,
    variable: &'static str,
) -> Result<()> {
    let all = to.parent().unwrap_or(to);
    let temporary = Temporary::folder(all)?;
    let ranges = ram::parse(&qmp.human("info mtree -f")?, spec.memory)?;
    let (path, file) = launch::ram(folder, spec.memory)?;
    // Only the blocks in use count: both files are sparse.
    let used = file
        .metadata()
        .at("look at", &path)?
        .blocks()
        .saturating_mul(512);
    paths::need_room(all, used, variable)?;
    let state = temporary.path().join("state");
    let ram = temporary.path().join("ram");
    let saved = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&ram)
        .at("make", &ram)?;
    if spec.recorded {
        // QEMU's own state has the RAM too.
        qmp.save(READY)?;
        let from = folder.join(STATES);
        fs::copy(&from, &state).at("save", &from)?;
    } else {
        save_devices(qmp, folder, &state)?;
        sparse::copy(&file, &saved, Zeros::Drop).at("save", &path)?;
    }
    let serial = temporary.path().join("serial.log");
    fs::copy(folder.join("serial.log"), &serial).at("write", &serial)?;
    let text = serde_json::to_vec_pretty(&Note {
        ranges,
        lengths: lengths(temporary.path()).at("look at", temporary.path())?,
    })
    .unwrap_or_default();
    paths::write_whole(&temporary.path().join("ready.json"), &text)?;
    temporary.place(to)
}

fn lengths(folder: &Path) -> io::Result<[u64; 2]> {
    Ok([
        fs::metadata(folder.join("ram"))?.len(),
        fs::metadata(folder.join("state"))?.len(),
    ])
}

/// QEMU may start no program and takes no file here, so that the state goes over a socket that we listen on.
fn save_devices(qmp: &mut Qmp, folder: &Path, to: &Path) -> Result<()> {
    let socket = folder.join("outgoing");
    // Of a save that was killed.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).at("make", &socket)?;
    let file = File::create(to).at("make", to)?;
    let done = std::thread::scope(|scope| {
        let received = scope.spawn(|| receive(&listener, file));
        let sent = qmp
            .migrate(Path::new("outgoing"))
            .and_then(|()| qmp.migrated());
        let received = received
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the copy failed")));
        sent.and(received.at("write", to))
    });
    let _ = fs::remove_file(&socket);
    done
}

fn receive(listener: &UnixListener, mut file: File) -> io::Result<()> {
    use std::os::fd::AsFd;
    let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::from(10_000u16))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    io::copy(&mut stream, &mut file).map(drop)
}

/// Removes the ready states that were not used for longest.
fn prune(all: &Path, fresh: &str) {
    let Ok(entries) = fs::read_dir(all) else {
        return;
    };
    let used = |path: &Path| {
        fs::metadata(path.join("ready.json"))
            .and_then(|meta| meta.modified())
            .ok()
    };
    let mut states: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((used(&path)?, path)))
        .collect();
    states.sort();
    let surplus = states.len().saturating_sub(KEPT);
    for (_, path) in states
        .iter()
        .take(surplus)
        .filter(|(_, path)| !path.ends_with(fresh))
    {
        let _ = fs::remove_file(path.join("ready.json"));
        let _ = fs::remove_dir_all(path);
    }
}

/// Inputs of a ready state. Files count by place, size and time: hashing them would take longer than
/// the start of a guest.
fn key(spec: &Spec, qemu: &Qemu) -> Result<String> {
    let mut hash = Sha256::new();
    for path in [&spec.vmlinuz, &spec.initramfs] {
        let meta = fs::metadata(path).at("look at", path)?;
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(format!(
            "\0{} {} {}\0",
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec()
        ));
    }
    hash.update(format!("{FORMAT}\0{}\0", qemu.version));
    // All that it is started with, but for where it lies.
    for begin in [Begin::Boot, Begin::Incoming] {
        for arg in qemu::args("", spec, Path::new(""), Path::new(""), begin) {
            hash.update(arg.as_encoded_bytes());
            hash.update("\0");
        }
    }
    if spec.accel == Accel::Kvm {
        // The host's processor is the guest's.
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let lines = info.lines().take_while(|line| !line.is_empty());
        lines
            .filter(|line| line.starts_with("model") || line.starts_with("flags"))
            .for_each(|line| hash.update(line));
    }
    Ok(hash
        .finalize()
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
