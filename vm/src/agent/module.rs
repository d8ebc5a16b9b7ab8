//! Modules: loaded and unloaded by a process of the agent's, which may be in a module's own code for as long as that likes.

use std::time::{Duration, Instant};

use klab_wire::{Answer, Ask, Reply};
use nix::errno::Errno;

use super::{Client, Error, Result, unexpected};
use crate::progress::{Progress, Silent};

/// After so long it is said that a module's init or exit has not returned yet.
const SLOW: Duration = Duration::from_secs(3);
/// Time limit for the end of a process that was killed: one that is in a module's code does not end, or later.
const END: Duration = Duration::from_secs(1);
const SIGKILL: i32 = 9;

/// Reason for a call of a module's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Its init, when it is loaded.
    Init,
    /// Its exit, when it is unloaded: the `drop` of one in Rust.
    Exit,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Exit => "exit (`drop`)",
        }
    }
}

/// Reasons why a module is not loaded or not unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The kernel says no, or its init.
    #[error("{}", refused(.module, *.call, Errno::from_raw(*.errno)))]
    Refused {
        /// The module.
        module: String,
        /// The call that was to be made.
        call: Call,
        /// The error's number.
        errno: i32,
    },
    /// The kernel ended the process that was in its code: an oops. `klab log` has it.
    #[error(
        "{} of {module} did not return: the kernel ended it (signal {signal}, `log` says why){}",
        .call.name(), stuck(.module, .state.as_deref())
    )]
    Died {
        /// The module.
        module: String,
        /// The call.
        call: Call,
        /// The signal that its process got.
        signal: i32,
        /// Its state in `/proc/modules` afterwards, or why that is not known; none where there is no such module.
        state: Option<String>,
    },
    /// Ended before its code was called, since the user wanted so.
    #[error("stopped: {module} was neither loaded nor unloaded")]
    Stopped {
        /// The module.
        module: String,
    },
    /// The user wants no longer to wait for its code, which cannot be ended.
    #[error(
        "{} of {module} still runs in the guest (`stack` shows where, `log` what it said): nothing but `klab reset` ends it \
         before it returns",
        .call.name()
    )]
    StillRuns {
        /// The module.
        module: String,
        /// The call.
        call: Call,
    },
}

/// Says what the error's number means of these calls (`kernel/module/main.c`).
fn refused(module: &str, call: Call, errno: Errno) -> String {
    let name = format!("{errno:?}");
    let general = errno.desc();
    match (call, errno) {
        (Call::Exit, Errno::EAGAIN) => {
            format!("{module} is in use, so it is not unloaded ({name})")
        }
        (Call::Exit, Errno::ENOENT) => format!("no module {module} is loaded ({name})"),
        (Call::Exit, Errno::EBUSY) => format!(
            "{module} is not unloaded ({name}): it has no exit, or its init or exit has not returned yet; `modules` has its \
             state, and `klab reset` ends what is stuck"
        ),
        (Call::Exit, _) => format!("{module} is not unloaded: {name} ({general})"),
        (Call::Init, Errno::EEXIST) => format!(
            "{module} is not loaded: {name} (a module of this name is loaded already, or its init gave that)"
        ),
        (Call::Init, Errno::EBUSY) => format!(
            "{module} is not loaded: {name} (one of this name is being loaded or unloaded just now, or its init gave that)"
        ),
        (Call::Init, Errno::ENOEXEC) => format!(
            "{module} is not loaded: {name} (it is not made for this kernel: `log` says what does not fit; or its init gave \
             that)"
        ),
        (Call::Init, _) => format!(
            "{module} is not loaded: {name} ({general}); its init may have given that, else the kernel's `log` says why"
        ),
    }
}

fn stuck(module: &str, state: Option<&str>) -> String {
    match state {
        Some("Live") => format!("; {module} is loaded"),
        Some(state @ ("Loading" | "Unloading")) => {
            format!("; {module} is stuck in the state {state} until `klab reset`")
        }
        Some(unknown) => format!("; what became of {module} is not known: {unknown}"),
        None => format!("; {module} is not loaded"),
    }
}

impl Client {
    /// Loads a module and what it depends on, as modprobe does; says which were loaded, dependencies first. Waits for
    /// as long as the module's init takes.
    ///
    /// # Errors
    /// When the guest has no such module, its kernel refuses it, or the module's init does not come back
    /// ([`ModuleError`]).
    pub fn load_module(&mut self, name: &str, params: &str) -> Result<Vec<String>> {
        self.load_module_with(name, params, &mut Silent)
    }

    /// The same, which says when the module's init takes long, and ends early when `progress` says that the user wants
    /// it. [`Client::canceller`] does that too.
    ///
    /// # Errors
    /// As [`Client::load_module`].
    pub fn load_module_with(
        &mut self,
        name: &str,
        params: &str,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>> {
        let ask = Ask::LoadModule {
            name: name.to_owned(),
            params: params.to_owned(),
        };
        let file = name.rsplit('/').next().unwrap_or(name);
        match self.module(file.trim_end_matches(".ko"), Call::Init, ask, progress)? {
            Answer::Loaded(names) => Ok(names),
            other => Err(unexpected(&other)),
        }
    }

    /// Unloads a module. Waits for as long as its exit takes.
    ///
    /// # Errors
    /// When it is not loaded, in use, or its exit does not come back ([`ModuleError`]).
    pub fn unload_module(&mut self, name: &str) -> Result<()> {
        self.unload_module_with(name, &mut Silent)
    }

    /// The same, as [`Client::load_module_with`].
    ///
    /// # Errors
    /// As [`Client::unload_module`].
    pub fn unload_module_with(&mut self, name: &str, progress: &mut dyn Progress) -> Result<()> {
        let ask = Ask::UnloadModule {
            name: name.to_owned(),
        };
        match self.module(name, Call::Exit, ask, progress)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn module(
        &mut self,
        name: &str,
        call: Call,
        ask: Ask,
        progress: &mut dyn Progress,
    ) -> Result<Answer> {
        let mut long = self.begin(ask)?;
        let mut module = name.replace('-', "_");
        // Unloading has no word for it: the kernel calls the exit at once.
        let mut called = (call == Call::Exit).then(Instant::now);
        let (mut said, mut killed) = (false, None);
        loop {
            if killed.is_none() && (self.cancelled() || progress.stopped()) {
                self.kill(&long)?;
                killed = Some(Instant::now());
            }
            if killed.is_some_and(|since| since.elapsed() > END) {
                return Err(ModuleError::StillRuns { module, call }.into());
            }
            if !said && called.is_some_and(|since| since.elapsed() > SLOW) {
                said = true;
                progress.step(&format!(
                    "{} of {module} has not returned yet (`stack` shows where it is)",
                    call.name()
                ));
            }
            let answer = match self.next(&mut long, &[])? {
                None => continue,
                Some(Reply { answer, .. }) => answer,
            };
            match answer {
                Answer::Loading(next) => {
                    progress.step(&format!("loading {next}"));
                    (module, called, said) = (next, Some(Instant::now()), false);
                }
                Answer::Refused { module, errno } => {
                    return Err(ModuleError::Refused {
                        module,
                        call,
                        errno,
                    }
                    .into());
                }
                Answer::Died { signal } => {
                    return Err(self.died(module, call, signal, killed.is_some()).into());
                }
                Answer::Error(text) => return Err(Error::Agent(text)),
                answer => return Ok(answer),
            }
        }
    }

    /// Looks what became of the module.
    fn died(&mut self, module: String, call: Call, signal: i32, killed: bool) -> ModuleError {
        let state = match self.modules() {
            Ok(all) => all.into_iter().find(|other| other.name == module),
            Err(error) => {
                return ModuleError::Died {
                    module,
                    call,
                    signal,
                    state: Some(error.to_string()),
                };
            }
        };
        let state = state.map(|module| module.state);
        let untouched = match call {
            Call::Init => state.is_none(),
            Call::Exit => state.as_deref() == Some("Live"),
        };
        if killed && signal == SIGKILL && untouched {
            return ModuleError::Stopped { module };
        }
        ModuleError::Died {
            module,
            call,
            signal,
            state,
        }
    }
}
