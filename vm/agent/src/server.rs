//! The server: one thread for every port of klab's, or for the serial line that it has instead.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use klab_wire::{LINE, PORTS, port_name};

use crate::{
    kmsg::{panic_text, say},
    port::Port,
    session::Session,
    workload::Workloads,
};

/// The argument that makes this binary the server.
pub(crate) const SERVE: &str = "serve";
const PORT_CLASS: &str = "/sys/class/virtio-ports";
/// Time after the last new port when no more are expected.
const SETTLED: Duration = Duration::from_secs(2);

/// Serves until the guest ends.
pub(crate) fn serve() -> ! {
    let _ = nix::sys::prctl::set_name(c"klab-agent");
    let workloads = Arc::new(Workloads::default());
    if let Some(device) = line() {
        say(format_args!("ready on {device}"));
        serve_port(&device, &workloads);
    }
    let mut serving = BTreeSet::new();
    let (mut news, mut said) = (Instant::now(), 0);
    loop {
        for (name, device) in ports() {
            if serving.insert(name) {
                news = Instant::now();
                let workloads = Arc::clone(&workloads);
                thread::spawn(move || serve_port(&device, &workloads));
            }
        }
        if serving.len() != said && news.elapsed() > Duration::from_millis(100)
            || serving.len() == PORTS && said != PORTS
        {
            said = serving.len();
            say(format_args!("ready on {said} ports"));
        }
        // Ports come one by one while the driver probes; afterwards a still guest stays still.
        if serving.len() == PORTS || !serving.is_empty() && news.elapsed() > SETTLED {
            loop {
                thread::park();
            }
        }
        if serving.is_empty() && news.elapsed() > Duration::from_secs(5) {
            say("no klab port yet: is virtio_console built in or among the initramfs's modules?");
            news = Instant::now();
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The names and device files of klab's ports that are there.
fn ports() -> Vec<(String, String)> {
    let Ok(class) = fs::read_dir(PORT_CLASS) else {
        return Vec::new();
    };
    let wanted: Vec<String> = (0..PORTS).map(port_name).collect();
    let mut ports = Vec::new();
    for entry in class.flatten() {
        let name = fs::read_to_string(entry.path().join("name"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        let device = Path::new("/dev").join(entry.file_name());
        if wanted.contains(&name) && device.exists() {
            ports.push((name, device.to_string_lossy().into_owned()));
        }
    }
    ports
}

/// The serial line that the kernel's command line names, of a guest without such ports.
fn line() -> Option<String> {
    let words = fs::read_to_string("/proc/cmdline").ok()?;
    let name = words
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(LINE))?;
    Some(format!("/dev/{name}"))
}

fn serve_port(device: &str, workloads: &Arc<Workloads>) -> ! {
    loop {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let port = Arc::new(Port::open(device)?);
            Session::new(port, Arc::clone(workloads)).serve()
        }));
        match served {
            Ok(Ok(())) => {}
            Ok(Err(e)) => say(format_args!("{device}: {e}")),
            Err(panic) => say(format_args!("{device}: {}", panic_text(&*panic))),
        }
        thread::sleep(Duration::from_millis(200));
    }
}
