//! The RAM of a guest that only QEMU's gdbstub gives.
//!
//! QEMU stops the guest for a client of its stub, so that reading comes in bursts: the first read of one connects, which
//! stops the guest, and when nothing was read for some milliseconds it is let go again, if it ran before. Within a burst
//! nothing changes, so each page is fetched once.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use vm::{Gdb, Machine};

use crate::memory::{GuestPhys, PAGE_SIZE, PhysMemory, PhysRange, RamRange, sorted};
use crate::{Error, Result};

/// Time after the last read until a burst ends.
const IDLE: Duration = Duration::from_millis(30);
/// Interval between two looks at a burst that is held.
const HELD: Duration = Duration::from_secs(1);
/// The file in the guest's folder that says where a page was found: searching all RAM takes seconds here.
const FOUND: &str = "found";
/// Pages that a burst remembers.
const PAGES: usize = 16 << 10;
/// Pages whose beginnings are asked for at a time when one is searched.
const AHEAD: u64 = 256;

/// A guest's RAM behind a gdbstub.
#[derive(Debug)]
pub struct GdbMemory {
    shared: Arc<Shared>,
    ranges: Vec<PhysRange>,
}

#[derive(Debug)]
struct Shared {
    machine: Machine,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    burst: Option<Burst>,
    held: bool,
    /// The page that was given since it is where one was found before: what lies below it was not searched.
    guessed: Option<GuestPhys>,
}

#[derive(Debug)]
struct Burst {
    gdb: Gdb,
    last: Instant,
    pages: HashMap<u64, Box<[u8]>>,
}

impl GdbMemory {
    /// The memory of a machine, in these ranges. Nothing is connected yet.
    #[must_use]
    pub fn new(machine: Machine, ranges: &[RamRange]) -> Self {
        let shared = Shared {
            machine,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        // Ranges that overlap are none.
        let (_, ranges) = sorted(ranges).unwrap_or_default();
        Self {
            shared: Arc::new(shared),
            ranges,
        }
    }

    /// Checks that `at..at + len` is in one range.
    fn check(&self, at: GuestPhys, len: usize) -> Result<()> {
        let index = self.ranges.partition_point(|range| range.start <= at);
        let range = index.checked_sub(1).and_then(|i| self.ranges.get(i));
        let fits = range.is_some_and(|range| {
            let offset = at.0 - range.start.0;
            offset <= range.len && len as u64 <= range.len - offset
        });
        if fits {
            Ok(())
        } else {
            Err(Error::NotRam { at, len })
        }
    }

    fn found(&self) -> std::path::PathBuf {
        self.shared.machine.run_dir().join(FOUND)
    }

    fn guess(&self) -> Option<GuestPhys> {
        let text = std::fs::read_to_string(self.found()).ok()?;
        let at = u64::from_str_radix(text.trim(), 16).ok()?;
        at.is_multiple_of(PAGE_SIZE).then_some(GuestPhys(at))
    }

    fn search(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        for range in &self.ranges {
            let end = range.start.0.saturating_add(range.len);
            let first = range.start.0.max(from.0);
            let Some(mut at) = first.checked_next_multiple_of(PAGE_SIZE) else {
                break;
            };
            while at < end {
                let count = ((end - at) / PAGE_SIZE).min(AHEAD);
                let hit =
                    self.in_burst(|burst| Ok(burst.gdb.find(prefix, at, PAGE_SIZE, count)?))?;
                if let Some(hit) = hit {
                    return Ok(Some(GuestPhys(hit)));
                }
                at += count.max(1) * PAGE_SIZE;
            }
        }
        Ok(None)
    }

    /// Does `work` in the burst, a new one where there is none.
    fn in_burst<T>(&self, work: impl FnOnce(&mut Burst) -> Result<T>) -> Result<T> {
        let mut state = self.shared.state();
        let burst = self.shared.burst(&mut state)?;
        let done = work(burst);
        burst.last = Instant::now();
        if !matches!(done, Ok(_) | Err(Error::NotRam { .. })) {
            // After any other error the next read begins anew.
            state.burst.take().map(|burst| burst.gdb.end());
        }
        done
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn burst<'a>(self: &Arc<Self>, state: &'a mut State) -> Result<&'a mut Burst> {
        if state.burst.is_none() {
            let burst = Burst {
                gdb: self.machine.gdb()?,
                last: Instant::now(),
                pages: HashMap::new(),
            };
            state.burst = Some(burst);
            let shared = Arc::downgrade(self);
            let guard = thread::Builder::new().name("klab-gdb".to_owned());
            if let Err(e) = guard.spawn(move || watch(&shared)) {
                state.burst.take().map(|burst| burst.gdb.end());
                return Err(Error::machine(format!("cannot start a thread: {e}")));
            }
        }
        state
            .burst
            .as_mut()
            .ok_or_else(|| Error::machine("the gdbstub hung up".to_owned()))
    }
}

impl Drop for GdbMemory {
    fn drop(&mut self) {
        if let Some(burst) = self.shared.state().burst.take() {
            // Nobody is there to be told.
            let _ = burst.gdb.end();
        }
    }
}

/// Lets the guest go on when a burst is over.
fn watch(shared: &Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut state = shared.state();
        let left = match &state.burst {
            None => return,
            Some(burst) => IDLE.saturating_sub(burst.last.elapsed()),
        };
        if state.held || !left.is_zero() {
            let wait = if state.held { HELD } else { left };
            drop(shared.changed.wait_timeout(state, wait));
            continue;
        }
        if let Some(burst) = state.burst.take() {
            let _ = burst.gdb.end();
        }
        return;
    }
}

impl Burst {
    /// Makes the pages from `first` to `last` known.
    fn fetch(&mut self, first: u64, last: u64) -> Result<()> {
        if self.pages.len() > PAGES {
            self.pages.clear();
        }
        let mut at = first;
        while at <= last {
            if self.pages.contains_key(&at) {
                at += 1;
                continue;
            }
            let missing = (at..=last.min(at + AHEAD))
                .take_while(|page| !self.pages.contains_key(page))
                .count();
            let mut bytes = vec![0; missing * PAGE_SIZE as usize];
            let from = GuestPhys(at * PAGE_SIZE);
            if !self.gdb.read(from.0, &mut bytes)? {
                return Err(Error::NotRam {
                    at: from,
                    len: bytes.len(),
                });
            }
            for page in bytes.chunks_exact(PAGE_SIZE as usize) {
                self.pages.insert(at, page.into());
                at += 1;
            }
        }
        Ok(())
    }

    fn read(&mut self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let here = at.offset(done as u64);
            // No more than is remembered at once.
            let rest = (buf.len() - done).min((AHEAD * PAGE_SIZE) as usize);
            let last = here.offset(rest as u64 - 1).0 / PAGE_SIZE;
            self.fetch(here.0 / PAGE_SIZE, last)?;
            let end = done + rest;
            while done < end {
                let here = at.offset(done as u64);
                let offset = here.page_offset() as usize;
                let len = (PAGE_SIZE as usize - offset).min(end - done);
                let page = self.pages.get(&(here.0 / PAGE_SIZE));
                let part = page.and_then(|page| page.get(offset..offset + len));
                let part = part.ok_or(Error::NotRam { at: here, len })?;
                buf[done..done + len].copy_from_slice(part);
                done += len;
            }
        }
        Ok(())
    }
}

impl PhysMemory for GdbMemory {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        self.check(at, buf.len())?;
        if buf.is_empty() {
            return Ok(());
        }
        self.in_burst(|burst| burst.read(at, buf))
    }

    fn read_once(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        self.check(at, buf.len())?;
        self.in_burst(|burst| match burst.gdb.read(at.0, buf)? {
            true => Ok(()),
            false => Err(Error::NotRam { at, len: buf.len() }),
        })
    }

    fn ranges(&self) -> &[PhysRange] {
        &self.ranges
    }

    /// Asks for the beginnings of pages alone. Where one was found before is looked at first.
    fn find_page(&self, prefix: &[u8], from: GuestPhys) -> Result<Option<GuestPhys>> {
        if from == GuestPhys(0)
            && let Some(guess) = self.guess()
        {
            let mut bytes = vec![0; prefix.len()];
            if self.read_once(guess, &mut bytes).is_ok() && bytes == prefix {
                self.shared.state().guessed = Some(guess);
                return Ok(Some(guess));
            }
        }
        let guessed = self.shared.state().guessed.take();
        let again = guessed.is_some_and(|guess| guess.offset(PAGE_SIZE) == from);
        let from = if again { GuestPhys(0) } else { from };
        let hit = self.search(prefix, from)?;
        if let Some(hit) = hit {
            // Without it the next one searches too.
            let _ = std::fs::write(self.found(), format!("{:x}", hit.0));
        }
        Ok(hit)
    }

    fn hold(&self, still: bool) -> Result<bool> {
        let mut state = self.shared.state();
        if still {
            self.shared.burst(&mut state)?;
            state.held = true;
        } else {
            state.held = false;
            if let Some(burst) = state.burst.take() {
                burst.gdb.end()?;
            }
        }
        drop(state);
        self.shared.changed.notify_all();
        Ok(true)
    }
}
