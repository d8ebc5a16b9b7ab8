//! A guest that is held still goes on when its holder ends, whatever ends it; a user's pause stays.
#![allow(clippy::unwrap_used)] // Helpers of tests, where it is fine.

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Say, isolated, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vm::{Error, Halt, Machine, Options, State, Why, agent};

fn up() -> Machine {
    Machine::up("held", &Options::default(), &mut Say::new()).unwrap()
}

fn state(machine: &Machine) -> State {
    machine.status().state
}

/// Not a test of its own: holds the guest until it is told what to do, or is killed.
#[test]
fn holder() {
    if !common::is_child("holder") {
        return;
    }
    let machine = Machine::attach("held").unwrap();
    if let Ok(at) = std::env::var("KLAB_TEST_BREAKPOINT") {
        let mut debugger = machine.debugger().unwrap();
        debugger.set(at.parse().unwrap()).unwrap();
        debugger.run(None).unwrap();
        println!("holding");
        std::thread::sleep(Duration::from_secs(600));
    }
    let hold = machine.hold().unwrap();
    println!("holding");
    let mut word = String::new();
    std::io::stdin().read_line(&mut word).unwrap();
    match word.trim() {
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "exec" => {
            use std::os::unix::process::CommandExt;
            let _ = Command::new("sleep").arg("60").exec();
        }
        "panic" => panic!("as it was told"),
        _ => hold.end().unwrap(),
    }
}

/// A process that holds the guest.
struct Holder {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Holder {
    fn begin() -> Self {
        Self::with(None)
    }

    fn with(breakpoint: Option<u64>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["holder", "--exact", "--nocapture"])
            .env(common::CHILD, "holder")
            // A panic that is told with its frames takes seconds to unwind.
            .env("RUST_BACKTRACE", "0")
            .envs(breakpoint.map(|at| ("KLAB_TEST_BREAKPOINT", at.to_string())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("holding") {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "it does not hold");
        }
        Self { child, out }
    }

    fn tell(&mut self, word: &str) {
        use std::io::Write;
        let mut stdin = self.child.stdin.take().unwrap();
        writeln!(stdin, "{word}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// Waits for its end, and for that of whatever has its stdout.
    fn ended(mut self) {
        self.child.wait().unwrap();
        let began = Instant::now();
        self.out.read_to_end(&mut Vec::new()).unwrap();
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "somebody keeps its stdout open"
        );
    }
}

/// The keepers of these processes.
fn keepers(of: u32) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let of = of.to_string();
    lines
        .filter(|line| {
            let mut words = line.split(|byte| *byte == 0);
            words
                .next()
                .is_some_and(|name| String::from_utf8_lossy(name).contains("keeper-"))
                && words.next() == Some(of.as_bytes())
        })
        .count()
}

fn halt_of(error: &Error) -> &Halt {
    match error {
        Error::Halted(halt) | Error::Agent(agent::Error::Halted(halt)) => halt,
        other => panic!("{other}"),
    }
}

#[test]
fn whatever_ends_its_holder_the_guest_goes_on() {
    isolated("whatever_ends_its_holder_the_guest_goes_on", || {
        let machine = up();
        let signals = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGKILL,
            Signal::SIGSEGV,
        ];
        for signal in signals {
            let holder = Holder::begin();
            assert!(!machine.runs().unwrap());
            holder.signal(signal);
            holder.ended();
            wait(&format!("the guest after {signal}"), 20, || {
                machine.runs().unwrap()
            });
        }
        for word in ["exit", "abort", "panic", "end", "exec"] {
            let mut holder = Holder::begin();
            let pid = holder.child.id();
            assert!(!machine.runs().unwrap());
            assert_eq!(keepers(pid), 1);
            holder.tell(word);
            wait(&format!("the guest after {word}"), 20, || {
                machine.runs().unwrap()
            });
            if word == "exec" {
                holder.signal(Signal::SIGKILL);
            }
            holder.ended();
            wait("the keeper's end", 20, || keepers(pid) == 0);
        }
        // A guest that a user has paused stays so; before the hold, and while it is held.
        machine.pause().unwrap();
        let holder = Holder::begin();
        holder.signal(Signal::SIGKILL);
        holder.ended();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(state(&machine), State::Paused);
        machine.resume().unwrap();
        let holder = Holder::begin();
        machine.pause().unwrap();
        holder.signal(Signal::SIGKILL);
        holder.ended();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(state(&machine), State::Paused);
        machine.resume().unwrap();
        assert_eq!(state(&machine), State::Running);
        assert!(!machine.run_dir().join("holds").exists());
        machine.down().unwrap();
    });
}

#[test]
fn holds_overlap_and_are_told() {
    isolated("holds_overlap_and_are_told", || {
        let mut machine = up();
        // Two processes, and two holds of this one.
        let first = Holder::begin();
        let ours = [machine.hold().unwrap(), machine.hold().unwrap()];
        let mut second = Holder::begin();
        first.signal(Signal::SIGKILL);
        first.ended();
        for hold in ours {
            hold.end().unwrap();
            assert!(!machine.runs().unwrap());
        }
        // The holder is told, and that it goes on by itself.
        let status = machine.status();
        assert_eq!(status.state, State::Paused);
        let detail = status.detail.unwrap();
        let pid = second.child.id();
        assert!(detail.contains(&format!("process {pid}")), "{detail}");
        assert!(detail.contains("holder --exact"), "{detail}");
        let error = machine.resume().unwrap_err();
        assert!(
            matches!(&halt_of(&error).why, Why::Held(by) if by.pid == pid),
            "{error}"
        );
        second.tell("end");
        wait("the guest", 20, || machine.runs().unwrap());
        second.ended();
        // A keeper that was killed too: the next command does its work.
        let holder = Holder::begin();
        let line = |entry: std::fs::DirEntry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let is = line.contains("keeper-") && line.contains(&holder.child.id().to_string());
            is.then(|| entry.file_name().to_str()?.parse::<i32>().ok())?
        };
        let keeper = std::fs::read_dir("/proc").unwrap().flatten().find_map(line);
        kill(Pid::from_raw(keeper.unwrap()), Signal::SIGKILL).unwrap();
        holder.signal(Signal::SIGKILL);
        holder.ended();
        assert!(!machine.runs().unwrap());
        Machine::attach("held").unwrap();
        assert!(machine.runs().unwrap());
        // A reset ends what was held.
        let hold = machine.hold().unwrap();
        machine.reset().unwrap();
        assert_eq!(state(&machine), State::Running);
        assert!(matches!(hold.end().unwrap_err(), Error::Moved(_)));
        let hold = machine.hold().unwrap();
        machine.down().unwrap();
        assert!(matches!(hold.end().unwrap_err(), Error::Moved(_)));
    });
}

#[test]
fn of_two_names_of_a_guest_each_sees_what_the_other_does() {
    isolated(
        "of_two_names_of_a_guest_each_sees_what_the_other_does",
        || {
            let machine = up();
            let others = ["held-2", "held-3"]
                .map(|name| Machine::adopt(name, &machine.qmp_socket(), None).unwrap());
            let paused = |by: &Machine| {
                let detail = by.status().detail.unwrap_or_default();
                assert_eq!(state(by), State::Paused, "{detail}");
                assert!(detail.contains("process "), "{detail}");
            };
            let all = || others.iter().chain([&machine]);
            for pauses in all() {
                pauses.pause().unwrap();
                all().for_each(paused);
                for goes_on in all() {
                    goes_on.resume().unwrap();
                    all().for_each(|machine| assert_eq!(state(machine), State::Running));
                    pauses.pause().unwrap();
                }
                machine.resume().unwrap();
                // It goes on after the last hold, by whatever name.
                let hold = pauses.hold().unwrap();
                for other in all() {
                    let error = other.resume().unwrap_err();
                    assert!(matches!(halt_of(&error).why, Why::Held(_)), "{error}");
                    other.hold().unwrap().end().unwrap();
                    assert!(!machine.runs().unwrap());
                }
                hold.end().unwrap();
                assert!(machine.runs().unwrap());
            }
            // A pause by a name that is gone stays, and is known by the others.
            let [second, third] = others;
            second.pause().unwrap();
            second.detach().unwrap();
            paused(&third);
            paused(&machine);
            machine.resume().unwrap();
            third.detach().unwrap();
            machine.down().unwrap();
        },
    );
}

#[test]
fn breakpoints_end_with_their_debugger() {
    isolated("breakpoints_end_with_their_debugger", || {
        let machine = up();
        let said = machine
            .agent()
            .unwrap()
            .shell("grep ' __x64_sys_sethostname$' /proc/kallsyms");
        let said = said.unwrap().text();
        let at = u64::from_str_radix(said.split(' ').next().unwrap(), 16).unwrap();
        // While it runs, and where it stands at one.
        for stands in [false, true] {
            let holder = Holder::with(Some(at));
            std::thread::scope(|scope| {
                let run = stands.then(|| {
                    let machine = &machine;
                    scope.spawn(|| machine.agent().unwrap().shell("hostname a"))
                });
                if stands {
                    wait("the breakpoint", 20, || !machine.runs().unwrap());
                }
                holder.signal(Signal::SIGKILL);
                holder.ended();
                wait("the keeper", 20, || {
                    !machine.run_dir().join("holds").exists()
                });
                if let Some(run) = run {
                    assert!(run.join().unwrap().unwrap().status.success());
                }
            });
            // On each CPU.
            let line = "for cpu in 1 2; do taskset $cpu hostname b$cpu; done; hostname";
            let said = machine.agent().unwrap().shell(line).unwrap().text();
            assert_eq!(said, "b2\n");
        }
        machine.down().unwrap();
    });
}

#[test]
fn who_waits_is_told_why() {
    isolated("who_waits_is_told_why", || {
        let mut machine = up();
        // A pause: before and while something runs.
        let mut client = machine.agent().unwrap();
        let error = std::thread::scope(|scope| {
            let run = scope.spawn(|| client.shell("sleep 30").unwrap_err());
            std::thread::sleep(Duration::from_millis(500));
            machine.pause().unwrap();
            run.join().unwrap()
        });
        assert!(error.to_string().contains("`klab resume held`"), "{error}");
        let error = machine.agent().unwrap_err();
        assert!(
            matches!(halt_of(&error).why, Why::Paused(Some(_))),
            "{error}"
        );
        machine.resume().unwrap();
        // A hold of another process: what runs, and what connects, waits for as long as that takes.
        let mut client = machine.agent().unwrap();
        client.set_timeout(Duration::from_secs(5));
        std::thread::scope(|scope| {
            let run = scope.spawn(|| client.shell("sleep 1; echo done").unwrap().text());
            std::thread::sleep(Duration::from_millis(300));
            let mut holder = Holder::begin();
            let connected = scope.spawn(|| machine.agent().map(drop));
            std::thread::sleep(Duration::from_secs(8));
            holder.tell("end");
            assert_eq!(run.join().unwrap(), "done\n");
            connected.join().unwrap().unwrap();
            holder.ended();
        });
        // A panic under way, and the next ones.
        let mut client = machine.agent().unwrap();
        let error = client.shell("sleep 0.5; echo c > /proc/sysrq-trigger; sleep 100");
        let error = Error::Agent(error.unwrap_err());
        assert!(
            matches!(halt_of(&error).why, Why::Panicked(Some(_))),
            "{error}"
        );
        assert!(error.to_string().contains("`klab reset held`"), "{error}");
        for error in [
            machine.agent().unwrap_err(),
            machine.resume().unwrap_err(),
            machine.pause().unwrap_err(),
        ] {
            assert!(matches!(halt_of(&error).why, Why::Panicked(_)), "{error}");
        }
        assert_eq!(state(&machine), State::Panicked);
        // One that powers itself off.
        machine.reset().unwrap();
        machine.agent().unwrap().power_off().unwrap();
        wait("its end", 20, || state(&machine) == State::PoweredOff);
        let error = machine.agent().unwrap_err();
        assert!(matches!(halt_of(&error).why, Why::PoweredOff), "{error}");
        machine.down().unwrap();
    });
}

#[test]
fn a_port_that_does_not_greet_is_passed_over() {
    isolated("a_port_that_does_not_greet_is_passed_over", || {
        let machine = up();
        // The guest's end of the first three ports is in a stopped agent's hands: the file is there, nobody reads it.
        let mut client = machine.agent().unwrap();
        assert_eq!(client.port(), 0);
        client.shell("true").unwrap();
        let stuck: Vec<_> = (1..4)
            .map(|port| {
                // QEMU serves no second client on a socket that another has connected to: as a port whose agent is
                // busy.
                let socket = machine.run_dir().join(format!("agent.{port}"));
                std::os::unix::net::UnixStream::connect(socket).unwrap()
            })
            .collect();
        let mut other = machine.agent().unwrap();
        assert_eq!(other.shell("echo here").unwrap().text(), "here\n");
        assert!(other.port() >= 4, "{}", other.port());
        assert_eq!(state(&machine), State::Running);
        drop((client, stuck));
        machine.down().unwrap();
    });
}
