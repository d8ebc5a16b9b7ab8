//! Requests of one host on one port.

use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use klab_wire::{
    Answer, Ask, Hello, HelloReply, Request, Stream,
    frame::{Decoder, FrameError},
};
use nix::{sys::time::TimeSpec, time::ClockId};

use crate::{
    apart::{self, Job},
    device::Device,
    error::{Error, Result},
    files::{self, Push},
    kmsg::{panic_text, say},
    port::{Input, Port},
    proc,
    run::{self, Running},
    workload::Workloads,
};

/// The clock is set when the host's is ahead by more.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// Sends the answers to one request.
#[derive(Debug, Clone)]
pub(crate) struct Responder {
    port: Arc<Port>,
    epoch: u64,
    id: u32,
}

impl Responder {
    /// The request's id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Fails once the host has gone.
    pub(crate) fn send(&self, answer: Answer) -> io::Result<()> {
        self.port.send(self.epoch, self.id, answer)
    }
}

/// The runs of one host, by their requests' ids.
pub(crate) type Runs = Arc<Mutex<HashMap<u32, Arc<Running>>>>;

/// Requests that one port's host has begun.
pub(crate) struct Session {
    port: Arc<Port>,
    workloads: Arc<Workloads>,
    epoch: u64,
    runs: Runs,
    push: Option<(u32, Result<Push>)>,
    device: Option<Device>,
}

impl Session {
    pub(crate) fn new(port: Arc<Port>, workloads: Arc<Workloads>) -> Self {
        let epoch = port.epoch();
        Self {
            port,
            workloads,
            epoch,
            runs: Runs::default(),
            push: None,
            device: None,
        }
    }

    /// Serves hosts, one after the other, until the port fails.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let mut decoder = Decoder::new();
        let port = Arc::clone(&self.port);
        let result = port.read(|input| match input {
            Input::Bytes(bytes) => decoder.feed(bytes, |request| self.request(request)),
            Input::Quiet => decoder.reset(),
            Input::Gone => {
                decoder.reset();
                self.end();
            }
        });
        self.end();
        result
    }

    /// Ends what the present host has begun, for it is gone or there is a new one.
    fn end(&mut self) {
        self.epoch = self.port.next_epoch();
        self.push = None;
        self.device = None;
        // Each run takes itself out of its own table, which the next host does not see.
        for run in std::mem::take(&mut self.runs)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            run.kill(libc::SIGKILL);
        }
    }

    fn request(&mut self, request: Result<Request, FrameError>) {
        let (id, ask) = match request {
            Ok(Request { id, ask }) => (id, ask),
            Err(e) => {
                let _ = self.port.send(self.epoch, 0, Answer::Error(e.to_string()));
                return;
            }
        };
        if matches!(ask, Ask::Hello(_)) {
            self.end();
        }
        let to = Responder {
            port: Arc::clone(&self.port),
            epoch: self.epoch,
            id,
        };
        let answer = match catch_unwind(AssertUnwindSafe(|| self.carry_out(ask, &to))) {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(answer))) => answer,
            Ok(Err(Error(text))) => Answer::Error(text),
            Err(panic) => {
                let text = format!("the agent failed at this request: {}", panic_text(&*panic));
                say(&text);
                Answer::Error(text)
            }
        };
        // A host that has gone needs no answer.
        let _ = to.send(answer);
    }

    /// Carries a request out; the answer that ends it, if it is not sent otherwise.
    fn carry_out(&mut self, ask: Ask, to: &Responder) -> Result<Option<Answer>> {
        Ok(Some(match ask {
            Ask::Hello(hello) => hello_reply(&hello)?,
            Ask::Ping => Answer::Done,
            Ask::Run(spec) => {
                run::start(spec, to.clone(), &self.runs)?;
                return Ok(None);
            }
            Ask::Kill { run: id, signal } => {
                let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(run) = runs.get(&id) else {
                    return Err(Error(
                        "what it did was lost: the guest's agent was started again".to_owned(),
                    ));
                };
                run.kill(signal);
                Answer::Done
            }
            Ask::Stdin { run, data, last } => {
                let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
                match runs.get(&run) {
                    Some(run) => return run.feed(data, last, to.clone()).map(|()| None),
                    None => Answer::Fed { open: false },
                }
            }
            Ask::Push { path, mode } => {
                self.push = Some((to.id, Push::begin(path, mode)));
                return Ok(None);
            }
            Ask::Chunk { data, last } => return self.chunk(to.id, &data, last),
            Ask::Pull { path } => {
                files::pull(&path, to)?;
                Answer::Done
            }
            Ask::LoadModule { name, params } => {
                apart::start(&Job::Load { name, params }, to.clone(), &self.runs)?;
                return Ok(None);
            }
            Ask::UnloadModule { name } => {
                apart::start(&Job::Unload { name }, to.clone(), &self.runs)?;
                return Ok(None);
            }
            Ask::WorkloadStart(kind) => Answer::Workload(self.workloads.start(kind)?),
            Ask::WorkloadStep { id, bytes } => Answer::Workload(self.workloads.step(id, bytes)?),
            Ask::WorkloadStop { id } => {
                self.workloads.stop(id)?;
                Answer::Done
            }
            Ask::WorkloadList => {
                for info in self.workloads.list() {
                    to.send(Answer::Workload(info))?;
                }
                Answer::Done
            }
            Ask::Proc(query) => {
                proc::read(&query, to)?;
                Answer::Done
            }
            Ask::DeviceOpen => {
                self.device = None;
                self.device = Some(Device::open()?);
                Answer::Done
            }
            Ask::DeviceClose => {
                self.device = None;
                Answer::Done
            }
            Ask::DeviceIoctl { request, data } => {
                let device = self
                    .device
                    .as_ref()
                    .ok_or_else(|| Error("/dev/klab is not open".to_owned()))?;
                Answer::Output {
                    stream: Stream::Stdout,
                    data: device.ioctl(request, &data)?,
                }
            }
            Ask::PowerOff => {
                to.send(Answer::Done)?;
                power_off()?;
                return Ok(None);
            }
        }))
    }

    fn chunk(&mut self, id: u32, data: &[u8], last: bool) -> Result<Option<Answer>> {
        let Some((push_id, push)) = &mut self.push else {
            return Ok(None);
        };
        if *push_id != id {
            return Ok(None);
        }
        let written = match push {
            Ok(push) => push.chunk(data),
            Err(Error(text)) => Err(Error(std::mem::take(text))),
        };
        if let Err(e) = written {
            // Said once; what the host has already sent of the file is dropped.
            self.push = None;
            return Err(e);
        }
        if last && let Some((_, Ok(push))) = self.push.take() {
            push.finish()?;
            return Ok(Some(Answer::Done));
        }
        Ok(None)
    }
}

fn hello_reply(hello: &Hello) -> Result<Answer> {
    let host = Duration::from_nanos(hello.time_ns);
    let now = Duration::from(ClockId::CLOCK_REALTIME.now()?);
    // Forward only: a greeting that waited for the guest to boot is late itself.
    if host > now + CLOCK_SLACK {
        ClockId::CLOCK_REALTIME.set_time(TimeSpec::from(host))?;
    }
    let uname = nix::sys::utsname::uname()?;
    let cpus = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)?.unwrap_or(0);
    Ok(Answer::Hello(HelloReply {
        nonce: hello.nonce,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        release: uname.release().to_string_lossy().into_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        cpus: u32::try_from(cpus).unwrap_or(0),
    }))
}

fn power_off() -> Result<()> {
    // So that the answer leaves the port before the machine ends.
    std::thread::sleep(Duration::from_millis(50));
    nix::unistd::sync();
    nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF)?;
    Ok(())
}
