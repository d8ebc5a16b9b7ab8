//! Listeners in a running guest: its TCP sockets in the state `LISTEN`, with the tasks that have them open.
//!
//! ```console
//! $ klab up
//! $ klab run default -- sh -c 'nc -l -p 8080 </dev/null >/dev/null 2>&1 &'
//! $ cargo run -p probes --example sockets default
//! ```

use std::process::ExitCode;

use probes::net::SocketTable;
use probes::{Guest, Result};

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: sockets GUEST");
        return ExitCode::FAILURE;
    };
    match Guest::attach(&name).and_then(|guest| show(&guest)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn show(guest: &Guest) -> Result<()> {
    let sockets = guest.sockets()?;
    let listening = sockets
        .iter()
        .filter(|socket| socket.table == SocketTable::Listen);
    for socket in listening {
        let Some(local) = socket.local else { continue };
        println!("{local} in network namespace {}", socket.netns);
        for owner in &socket.owners {
            println!("    {} {}, descriptor {}", owner.pid, owner.comm, owner.fd);
        }
    }
    for missing in &sockets.missing {
        println!("missing: {missing}");
    }
    Ok(())
}
