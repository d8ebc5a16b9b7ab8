//! PID 1 of a klab guest.
//!
//! One static binary with four lives, chosen by the way in which it was started: PID 1 ([`init`]) prepares the system,
//! starts the server and reaps; the server ([`server`]) answers on the virtio-serial ports, or a serial line; a
//! workload ([`workload`]) is a process for lessons to look at; one more loads or unloads a module and ends
//! ([`apart`]). PID 1 does so little that it has nothing to fail at; a server that dies is started again.

mod apart;
mod device;
mod error;
mod files;
mod init;
mod input;
mod kmsg;
mod modules;
mod port;
mod proc;
mod run;
mod server;
mod session;
mod workload;

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some(workload::PARENT) => workload::shape::parent(),
        Some(workload::CHILD) => workload::shape::child(&args.collect::<Vec<_>>()),
        Some(server::SERVE) => server::serve(),
        Some(apart::MODULE) => apart::child(&args.collect::<Vec<_>>()),
        Some(workload::socket::SEND) => workload::socket::send(&args.collect::<Vec<_>>()),
        Some(workload::socket::STREAM) => workload::socket::stream(&args.collect::<Vec<_>>()),
        _ if std::process::id() == 1 => init::init(),
        _ => {
            eprintln!("klab-agent is PID 1 of a klab guest: `klab up` puts it there");
            std::process::exit(2);
        }
    }
}
