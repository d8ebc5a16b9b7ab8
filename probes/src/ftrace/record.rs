//! A trace under way: the module armed, its records taken out of the rings.

use crate::Result;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::kmod::call::{
    CONDITIONS, CallRecord, Condition, FETCHES, Fetch, KLAB_PLANS, PLANS, Plan, Plans,
};
use crate::kmod::device::Armed;
use crate::kmod::reader::Event;
use crate::kmod::ring::{How, Site};

use super::calls::{Gap, TraceTally};
use super::condition::{self, Pushed};
use super::function::Function;

/// Records that are kept: 200 MB of them.
const MOST: usize = 1 << 20;

/// The module armed for some functions. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Recording {
    armed: Armed,
    pub(super) events: Vec<Event<CallRecord>>,
    left_out: u64,
    /// The next record of each CPU when it began.
    begun: Vec<(u32, u64)>,
}

/// What a recording gave.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) events: Vec<Event<CallRecord>>,
    pub(super) tally: TraceTally,
    /// Times in which records of a CPU are not there.
    pub(super) gaps: Vec<Gap>,
}

/// Conditions on each function's calls, and whether the guest sees to all of them.
pub(super) fn push(functions: &[Function], condition: Option<&str>) -> Vec<Pushed> {
    let each = functions.iter().map(|function| match condition {
        Some(text) => condition::push(text, function),
        None => Pushed {
            whole: true,
            ..Pushed::default()
        },
    });
    each.collect()
}

impl Recording {
    /// Arms.
    pub(super) fn begin(
        guest: &Guest,
        kernel: &Kernel,
        functions: &mut [Function],
        pushed: &mut [Pushed],
        frames: u8,
    ) -> Result<Self> {
        let mut plans: Vec<Plan> = Vec::new();
        let mut sites = Vec::new();
        for (function, pushed) in functions.iter_mut().zip(pushed) {
            let mut wanted = plan(function, pushed, frames);
            if !plans.contains(&wanted) && plans.len() + 1 >= PLANS {
                // The last is kept for what has no plan of its own: its calls come all, without text and members.
                wanted = Plan {
                    frames,
                    ..Plan::ALL
                };
                function.members.clear();
                function.text = None;
                pushed.whole = pushed.whole && pushed.conditions.is_empty();
            }
            let known = plans.iter().position(|known| *known == wanted);
            let number = known.unwrap_or_else(|| {
                plans.push(wanted);
                plans.len() - 1
            });
            sites.push(Site {
                address: function.at.0,
                position: u8::try_from(number).unwrap_or_default(),
                how: if function.point {
                    How::Point
                } else {
                    How::Call
                } as u8,
                zero: [0; 6],
            });
        }
        let plans = Plans::to_bytes(&plans);
        guest.load_kmod()?;
        let armed = Armed::new(guest, kernel, &sites, &[(KLAB_PLANS, &plans)], 0)?;
        Ok(Self {
            begun: armed.reader.sequences().collect(),
            armed,
            events: Vec::new(),
            left_out: 0,
        })
    }

    /// Takes what has come so far out of the rings.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.armed.reader.drain(false, &mut self.events)?;
        self.bound();
        Ok(())
    }

    /// Ends, and takes the rest.
    pub(super) fn end(mut self) -> Result<Recorded> {
        let missed = self.armed.disarm()?;
        self.armed.reader.drain(true, &mut self.events)?;
        self.bound();
        let reader = &self.armed.reader;
        let tally = TraceTally {
            delivered: reader.tally().delivered,
            lost: reader.tally().lost,
            missed,
            left_out: self.left_out,
            passed: reader.rejected(),
            undecided: 0,
            cpus: reader.cpus().to_vec(),
        };
        let ended: Vec<(u32, u64)> = reader.sequences().collect();
        Ok(Recorded {
            gaps: gaps(&self.events, &self.begun, &ended),
            events: self.events,
            tally,
        })
    }

    fn bound(&mut self) {
        self.left_out += self.events.len().saturating_sub(MOST) as u64;
        self.events.truncate(MOST);
    }
}

/// Times in which records of a CPU are not there, from the numbers of those that are.
fn gaps(events: &[Event<CallRecord>], begun: &[(u32, u64)], ended: &[(u32, u64)]) -> Vec<Gap> {
    let mut next: Vec<(u32, u64, Option<u64>)> = begun
        .iter()
        .map(|(cpu, sequence)| (*cpu, *sequence, None))
        .collect();
    let mut gaps = Vec::new();
    for event in events {
        let Some(of) = next.iter_mut().find(|(cpu, ..)| *cpu == event.cpu) else {
            continue;
        };
        if event.sequence > of.1 {
            gaps.push(Gap {
                cpu: event.cpu,
                after: of.2,
                before: Some(event.record.time),
                records: event.sequence - of.1,
            });
        }
        *of = (of.0, event.sequence + 1, Some(event.record.time));
    }
    for (cpu, sequence, last) in next {
        let end = ended.iter().find(|(ended, _)| *ended == cpu);
        let records = end.map_or(0, |(_, end)| end.saturating_sub(sequence));
        if records > 0 {
            gaps.push(Gap {
                cpu,
                after: last,
                before: None,
                records,
            });
        }
    }
    gaps
}

fn plan(function: &Function, pushed: &Pushed, frames: u8) -> Plan {
    let mut conditions = [Condition::NONE; CONDITIONS];
    for (to, condition) in conditions.iter_mut().zip(&pushed.conditions) {
        *to = *condition;
    }
    let mut fetches = [Fetch::NONE; FETCHES];
    for (to, member) in fetches.iter_mut().zip(&function.members) {
        *to = member.fetch();
    }
    let count = pushed.conditions.len().min(CONDITIONS);
    Plan {
        conditions,
        count: u8::try_from(count).unwrap_or_default(),
        text: function.text.map_or(0, |text| text.register + 1),
        hop: u8::from(function.text.is_some_and(|text| text.offset.is_some())),
        frames,
        fetches,
        offset: function
            .text
            .and_then(|text| text.offset)
            .unwrap_or(0)
            .into(),
    }
}
