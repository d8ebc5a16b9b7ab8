//! Faults that must not break it: dead clients, garbage, a killed server, other kernels.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime},
};

use klab_wire::{Ask, Request, Run, frame};
use vm::agent::{Client, Error};

use crate::Guest;

#[test]
fn dead_clients_leave_nothing() {
    let mut guest = Guest::up("deadclients");
    let folder = guest.folder();
    let socket = folder.join("agent.1");
    // Arbitrary bytes; half a frame; a whole request whose client is gone before the answer; a run.
    let run = Ask::Run(Run {
        argv: vec!["sleep".to_owned(), "777".to_owned()],
        ..Run::default()
    });
    let pull = Ask::Pull {
        path: "/proc/kallsyms".to_owned(),
    };
    let push = Ask::Push {
        path: "/tmp/half".to_owned(),
        mode: 0o644,
    };
    let chunk = Ask::Chunk {
        data: vec![7; 60_000],
        last: false,
    };
    let request = |ask| frame::encode(&Request { id: 1, ask }).unwrap();
    let garbage: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let half = request(chunk.clone())[..30_000].to_vec();
    let attacks = [
        garbage,
        half,
        request(pull),
        request(run),
        [request(push), request(chunk)].concat(),
    ];
    for (n, bytes) in attacks.iter().enumerate() {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        // Long enough to be begun, or not at all.
        std::thread::sleep(Duration::from_millis(if n % 2 == 0 { 0 } else { 300 }));
        drop(stream);
        let start = Instant::now();
        // Its port is there again once QEMU has seen that the other end is gone; until then the next one serves.
        let mut client = loop {
            let client = guest.another_client();
            if client.port() == 1 {
                break client;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{n}");
        };
        assert_eq!(client.shell("echo alive").unwrap().text(), "alive\n");
    }
    // The commands that they began end once the agent has seen that its client is gone.
    let until = Instant::now() + Duration::from_secs(60);
    while !guest.pids("sleep").is_empty() || !guest.sh("ls -A /tmp").is_empty() {
        assert!(Instant::now() < until, "something of it is left");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_request_of_another_version_is_answered() {
    let guest = Guest::up("version");
    let mut stream = UnixStream::connect(guest.folder().join("agent.3")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // The payload is no request: an error, with the agent's own version in the frame.
    stream
        .write_all(&frame::encode(&(250_u8, vec![0xff_u8; 40])).unwrap())
        .unwrap();
    let mut header = [0; frame::HEADER];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[..4], frame::MAGIC);
    assert_eq!(header[4..6], frame::VERSION.to_le_bytes());
}

#[test]
fn a_killed_server_is_started_again() {
    let mut guest = Guest::up("killed");
    let server = guest.pids("klab-agent");
    // The run's own end is seen by nobody: the server is gone, and comes back with clean ports.
    guest.set_timeout(Duration::from_secs(15));
    let message = guest
        .shell(&format!("kill -9 {}", server[0]))
        .unwrap_err()
        .to_string();
    assert!(message.contains("was lost"), "{message}");
    assert_eq!(guest.sh("echo same client"), "same client\n");
    let mut client = guest.another_client();
    let tasks = client.proc_tasks().unwrap();
    assert!(
        tasks.iter().any(|t| t.comm == "klab-agent") && tasks.iter().all(|t| t.pid != server[0])
    );
    let log = client.kmsg().unwrap();
    assert!(log.iter().any(|r| r.text.contains("is started again")));
}

#[test]
fn a_paused_guest_says_so_and_answers_again() {
    let mut guest = Guest::up("paused");
    guest.machine().pause().unwrap();
    guest.set_timeout(Duration::from_secs(1));
    let message = guest.ping().unwrap_err().to_string();
    assert!(message.contains("paused"), "{message}");
    assert!(matches!(guest.shell("true"), Err(Error::Halted(_))));
    guest.machine().resume().unwrap();
    guest.set_timeout(Duration::from_secs(30));
    assert_eq!(guest.sh("echo back"), "back\n");
}

#[test]
fn the_clock_is_the_hosts_and_power_off_ends_it() {
    let mut guest = Guest::up("clock");
    let host = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap().as_secs_f64()
    };
    let before = host();
    let now: f64 = guest.sh("date +%s").trim().parse().unwrap();
    let after = host();
    // It was set to whole seconds.
    let between = before - 3.0..after + 3.0;
    assert!(between.contains(&now), "{between:?} {now}");
    guest.power_off().unwrap();
    let folder = guest.folder();
    let until = Instant::now() + Duration::from_secs(20);
    while guest.ping().is_ok() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Client::connect(&folder, Duration::from_secs(1)).is_err());
}

#[test]
fn debian_12s_kernels_have_the_agent_too() {
    for release in ["6.1", "6.12"] {
        let mut guest = Guest::with_kernel("old", release);
        assert!(guest.hello().release.starts_with(&format!("{release}.")));
        assert!(guest.proc_tasks().unwrap().len() > 40);
        assert!(
            guest
                .load_module("nft_masq", "")
                .unwrap()
                .contains(&"nf_tables".to_owned())
        );
        guest.sh("nft add table ip t && ip link add v0 type veth peer name v1");
    }
}
