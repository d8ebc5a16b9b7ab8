//! Commands.

use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use vm::agent::{Client, Error, Exit, PORTS, RunSpec, Stream};

use crate::Guest;

fn spec(argv: &[&str]) -> RunSpec {
    RunSpec {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        ..RunSpec::default()
    }
}

#[test]
fn commands_end_as_they_end() {
    let mut guest = Guest::up("ends");
    assert_eq!(guest.shell("exit 3").unwrap().status, Exit::Code(3));
    assert_eq!(
        guest.shell("kill -TERM $$").unwrap().status,
        Exit::Signal(15)
    );
    let output = guest.shell("echo out; echo err >&2").unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );

    let slow = RunSpec {
        timeout_ms: 300,
        ..spec(&["sh", "-c", "sleep 1000; true"])
    };
    assert_eq!(guest.run(&slow, |_, _| {}).unwrap(), Exit::TimedOut);
    // Its children went with it.
    assert!(guest.pids("sleep").is_empty());

    let message = guest.output(&["no-such-program"]).unwrap_err().to_string();
    assert!(
        message.contains("`no-such-program`") && !message.contains('\n'),
        "{message}"
    );
    assert!(guest.run(&spec(&[]), |_, _| {}).is_err());
    // A program that was left in the background is not waited for.
    assert_eq!(guest.sh("sleep 6000 & echo started"), "started\n");
    assert_eq!(guest.pids("sleep").len(), 1);
}

#[test]
fn a_command_gets_its_input_variables_and_folder() {
    let mut guest = Guest::up("input");
    let stdin: Vec<u8> = (0..60_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let wc = RunSpec {
        stdin: stdin.clone(),
        ..spec(&["cat"])
    };
    assert_eq!(guest.output_of(&wc).unwrap().stdout, stdin);
    let env = RunSpec {
        env: vec![("COLOUR".to_owned(), "green é".to_owned())],
        cwd: "/usr/sbin".to_owned(),
        ..spec(&["sh", "-c", "echo $COLOUR; pwd; cat"])
    };
    assert_eq!(
        guest.output_of(&env).unwrap().text(),
        "green é\n/usr/sbin\n"
    );
    let long = RunSpec {
        stdin: vec![0; 1 << 20],
        ..spec(&["cat"])
    };
    assert!(matches!(guest.run(&long, |_, _| {}), Err(Error::Stdin(_))));
    // Nobody reads the input.
    let unread = RunSpec {
        stdin,
        ..spec(&["true"])
    };
    assert_eq!(guest.run(&unread, |_, _| {}).unwrap(), Exit::Code(0));
}

#[test]
fn output_streams_while_the_command_runs() {
    let mut guest = Guest::up("streams");
    let mut other = guest.another_client();
    // Each line waits until the one before it was seen here.
    let line = "for i in 1 2 3; do echo $i; until [ -e /tmp/$i ]; do sleep 0.05; done; done";
    let mut text = String::new();
    let exit = guest.run(&spec(&["sh", "-c", line]), |stream, data| {
        assert_eq!(stream, Stream::Stdout);
        text.push_str(std::str::from_utf8(data).unwrap());
        let seen = text.trim_end();
        let output = other.shell(&format!("touch /tmp/{}", &seen[seen.len() - 1..]));
        assert!(output.unwrap().status.success());
    });
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(text, "1\n2\n3\n");
    // All of a lot.
    let output = guest.output(&["sh", "-c", "seq 1 200000"]).unwrap();
    assert_eq!(output.stdout.len(), 1_288_895);
    assert!(output.stdout.ends_with(b"\n200000\n"));
}

#[test]
fn a_run_is_cancelled_from_another_thread() {
    let mut guest = Guest::up("cancel");
    let cancel = guest.canceller();
    let (runs, it_runs) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        it_runs.recv().unwrap();
        cancel.cancel();
    });
    let line = spec(&["sh", "-c", "echo runs; exec sleep 6000"]);
    let exit = guest.run(&line, |_, _| runs.send(()).unwrap());
    assert_eq!(exit.unwrap(), Exit::Signal(9));
    thread.join().unwrap();
    assert_eq!(guest.sh("echo on"), "on\n");
}

#[test]
fn every_port_serves_at_once_and_one_more_is_refused() {
    let mut guest = Guest::up("ports");
    let folder = guest.folder();
    let mut others: Vec<Client> = (1..PORTS).map(|_| guest.another_client()).collect();
    assert!(matches!(
        Client::connect(&folder, Duration::from_secs(1)),
        Err(Error::Busy)
    ));
    // Each waits for a file that the next one makes.
    std::thread::scope(|scope| {
        for client in &mut others {
            scope.spawn(|| {
                let line = format!(
                    "until [ -e /tmp/go ]; do sleep 0.05; done; echo {}",
                    client.port()
                );
                let output = client.shell(&line).unwrap();
                assert_eq!(output.text(), format!("{}\n", client.port()));
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        guest.sh("touch /tmp/go");
    });
    drop(others);
    guest.another_client().ping().unwrap();
}

#[test]
fn input_of_any_length_comes_whole_and_ends() {
    let mut guest = Guest::up("longinput");
    let mut file = tempfile::tempfile().unwrap();
    let mut block = vec![0_u8; 1 << 20];
    let (mut seed, mut hash) = (1_u64, Sha256::new());
    for _ in 0..50 {
        for byte in &mut block {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 56) as u8;
        }
        hash.update(&block);
        file.write_all(&block).unwrap();
    }
    file.rewind().unwrap();
    let wanted: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut out = Vec::new();
    let exit = guest.run_from(&spec(&["sha256sum"]), Some(file.as_fd()), |_, data| {
        out.extend_from_slice(data);
    });
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(String::from_utf8(out).unwrap(), format!("{wanted}  -\n"));

    // There and back at once: neither side waits for the other.
    file.rewind().unwrap();
    let mut hash = Sha256::new();
    let exit = guest.run_from(&spec(&["cat"]), Some(file.as_fd()), |_, data| {
        hash.update(data)
    });
    assert_eq!(exit.unwrap(), Exit::Code(0));
    let back: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(back, wanted);

    // A command that reads a little of it, and one that reads nothing and lives on.
    file.rewind().unwrap();
    let head = guest.output_from(&spec(&["head", "-c", "3"]), Some(file.as_fd()));
    assert_eq!(head.unwrap().stdout.len(), 3);
    file.rewind().unwrap();
    let exit = guest.run_from(
        &spec(&["sh", "-c", "exec <&-; sleep 1; exit 4"]),
        Some(file.as_fd()),
        |_, _| {},
    );
    assert_eq!(exit.unwrap(), Exit::Code(4));
}

#[test]
fn input_that_comes_slowly_is_heard_as_it_comes() {
    let mut guest = Guest::up("slowinput");
    let (from, to) = std::io::pipe().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let talk = std::thread::spawn(move || {
        let mut to = to;
        for word in ["one", "two"] {
            writeln!(to, "{word}").unwrap();
            // The next word only after the echo of this one.
            assert_eq!(heard.recv().unwrap(), format!("<{word}>\n"));
        }
    });
    let line = "while read word; do echo \"<$word>\"; done; echo over";
    let mut last = Vec::new();
    let exit = guest.run_from(&spec(&["sh", "-c", line]), Some(from.as_fd()), |_, data| {
        last = data.to_vec();
        let _ = said.send(String::from_utf8_lossy(data).into_owned());
    });
    assert_eq!(exit.unwrap(), Exit::Code(0));
    talk.join().unwrap();
    assert_eq!(last, b"over\n");
    // An input that cannot be read is said, and the command ended.
    let folder = std::fs::File::open("/").unwrap();
    let error = guest
        .run_from(&spec(&["cat"]), Some(folder.as_fd()), |_, _| {})
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot read the command's input"),
        "{error}"
    );
    assert_eq!(guest.sh("echo on"), "on\n");
}
