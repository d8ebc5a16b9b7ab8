//! Modules of one's own whose init or exit panics, loops or sleeps: the agent goes on, and says what is so.

use std::time::{Duration, Instant};

use vm::agent::{Call, Error, ModuleError};
use vm::{Progress, Silent};

use crate::Guest;

/// A module in Rust.
fn source(name: &str, init: &str, drop: &str) -> String {
    format!(
        "use kernel::prelude::*;\n\
         module! {{ type: M, name: \"{name}\", authors: [\"klab\"], description: \"t\", license: \"GPL\", }}\n\
         struct M;\n\
         impl kernel::Module for M {{\n\
             fn init(_module: &'static ThisModule) -> Result<Self> {{\n{init}\n}}\n\
         }}\n\
         impl Drop for M {{\n\
             fn drop(&mut self) {{\n{drop}\n}}\n\
         }}\n"
    )
}

const SLEEP: &str = "kernel::time::delay::fsleep(kernel::time::Delta::from_secs(10));";
/// As the compiler does not see that nothing is in it.
const PANIC: &str =
    "let v = KVec::<u32>::new(); let n = *v.first().unwrap(); pr_info!(\"{}\\n\", n);";

/// Long enough for a build, of the compilers too.
const PATIENCE: Duration = Duration::from_secs(300);

struct Steps(Vec<String>);

impl Progress for Steps {
    fn step(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

fn load(guest: &mut Guest, name: &str, init: &str, drop: &str) -> vm::Result<Vec<String>> {
    let mut steps = Steps(Vec::new());
    let Guest { machine, client } = guest;
    let machine = machine.as_ref().unwrap();
    let built = machine.build_source(name, &source(name, init, drop), &mut Silent)?;
    eprint!("{}", built.warnings);
    let loaded = machine.load_built(client, &built, "", &mut steps);
    loaded.map(|()| steps.0)
}

fn module_error(error: vm::Error) -> ModuleError {
    match error {
        vm::Error::Agent(Error::Module(error)) => error,
        other => panic!("{other}"),
    }
}

fn state(guest: &mut Guest, name: &str) -> Option<String> {
    let modules = guest.modules().unwrap();
    modules
        .into_iter()
        .find(|m| m.name == name)
        .map(|m| m.state)
}

#[test]
fn an_init_that_panics_is_told_and_the_agent_goes_on() {
    let mut guest = Guest::up("panics");
    let error =
        module_error(load(&mut guest, "gcpanic", &format!("{PANIC} Ok(M)"), "").unwrap_err());
    let text = error.to_string();
    assert!(
        text.contains("init of gcpanic did not return") && text.contains("Loading"),
        "{text}"
    );
    assert!(
        matches!(&error, ModuleError::Died { module, call: Call::Init, state: Some(state), .. }
            if module == "gcpanic" && state == "Loading"),
        "{error:?}"
    );
    // The same client, on the same port, and another one.
    assert_eq!(guest.sh("echo on"), "on\n");
    assert_eq!(
        guest.another_client().shell("echo on").unwrap().text(),
        "on\n"
    );
    assert!(guest.sh("dmesg").contains("panicked at gcpanic.rs"));
    // A module that is stuck there is not unloaded, and that is said.
    let text = guest.unload_module("gcpanic").unwrap_err().to_string();
    assert!(
        text.contains("EBUSY") && text.contains("klab reset"),
        "{text}"
    );
}

#[test]
fn an_exit_that_panics_is_told() {
    let mut guest = Guest::up("panicdrop");
    load(&mut guest, "gcpdrop", "Ok(M)", PANIC).unwrap();
    let text = guest.unload_module("gcpdrop").unwrap_err().to_string();
    assert!(
        text.contains("exit (`drop`) of gcpdrop did not return") && text.contains("Unloading"),
        "{text}"
    );
    assert_eq!(guest.sh("echo on"), "on\n");
}

#[test]
fn a_slow_init_is_waited_for_and_others_are_served() {
    let mut guest = Guest::up("slow");
    let mut other = guest.another_client();
    let (steps, seen) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            // Until the init runs, then while it does.
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until {
                let modules = other.modules().unwrap();
                if modules
                    .iter()
                    .any(|m| m.name == "gcslow" && m.state == "Loading")
                {
                    return other.shell("echo meanwhile").unwrap().text();
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            "its init never ran".to_owned()
        });
        let steps = load(&mut guest, "gcslow", &format!("{SLEEP} Ok(M)"), SLEEP).unwrap();
        (steps, seen.join().unwrap())
    });
    assert_eq!(seen, "meanwhile\n");
    assert!(
        steps.iter().any(|step| step == "loading gcslow"),
        "{steps:?}"
    );
    assert!(
        steps
            .iter()
            .any(|step| step.contains("init of gcslow has not returned yet")),
        "{steps:?}"
    );
    assert_eq!(state(&mut guest, "gcslow").as_deref(), Some("Live"));
    guest.unload_module("gcslow").unwrap();
    assert_eq!(state(&mut guest, "gcslow"), None);
}

#[test]
fn an_init_without_end_is_left_alone_when_the_user_wants() {
    let mut guest = Guest::up("loops");
    let cancel = guest.canceller();
    let mut other = guest.another_client();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until
                && !other.modules().unwrap().iter().any(|m| m.name == "gcloop")
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            cancel.cancel();
        });
        let init = "let mut n = 0_u64; loop { n = core::hint::black_box(n).wrapping_add(1); if n == u64::MAX { break; } } Ok(M)";
        module_error(load(&mut guest, "gcloop", init, "").unwrap_err())
    });
    assert_eq!(
        error,
        ModuleError::StillRuns {
            module: "gcloop".to_owned(),
            call: Call::Init
        }
    );
    assert_eq!(state(&mut guest, "gcloop").as_deref(), Some("Loading"));
    assert_eq!(guest.sh("echo on"), "on\n");
    assert_eq!(
        guest.another_client().shell("echo on").unwrap().text(),
        "on\n"
    );
}

#[test]
fn an_errno_has_its_name_and_a_kernels_own_module_its_place() {
    let mut guest = Guest::up("errno");
    let error = load(&mut guest, "gcenomem", "Err(ENOMEM)", "").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("ENOMEM") && text.contains("its init may have given that"),
        "{text}"
    );
    assert_eq!(state(&mut guest, "gcenomem"), None);
    // An errno that a load of a module that is there gives too.
    let error = load(&mut guest, "gceexist", "Err(EEXIST)", "").unwrap_err();
    // The kernel itself makes EBUSY of it (`do_init_module`).
    let text = error.to_string();
    assert!(text.contains("EBUSY") || text.contains("EEXIST"), "{text}");
    assert!(text.contains("its init gave that"), "{text}");
    for name in ["loop", "virtio-net", "ext4"] {
        let text = load(&mut guest, name, "Ok(M)", "").unwrap_err().to_string();
        assert!(text.contains("of its own (kernel/"), "{text}");
    }
    load(&mut guest, "gc-dash", "Ok(M)", "").unwrap();
    assert_eq!(state(&mut guest, "gc_dash").as_deref(), Some("Live"));
    // Once more: the one of the earlier run goes first.
    let steps = load(&mut guest, "gc-dash", "Ok(M)", "").unwrap();
    assert!(
        steps
            .iter()
            .any(|step| step.contains("unloading the gc_dash")),
        "{steps:?}"
    );
    assert!(
        guest
            .unload_module("nosuch")
            .unwrap_err()
            .to_string()
            .contains("ENOENT")
    );
}
