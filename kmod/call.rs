//! Types that the module and the host share about calls of any function: the record, and the plan by which it is made.
//!
//! Both compile this same file, as they do `ring.rs`, whose rings, ioctls and rules hold here too. A function that is hooked
//! by [`How::Call`](super::ring::How::Call) leaves a record when it is called and one when it returns, and a tracepoint that
//! is hooked by [`How::Point`](super::ring::How::Point) one when it fires. Each is as long as a packet's, and begins with the
//! same two words.

#![allow(dead_code, unreachable_pub)] // each side uses its half

use core::mem::{offset_of, size_of};

use super::ring::bytes::{bytes, u32_at, u64_at};
use super::ring::{Context, Kind, POSITIONS, RECORD, VERSION, ioctl};

/// Plans of one capture.
pub const PLANS: usize = 32;
/// Conditions of one plan.
pub const CONDITIONS: usize = 4;
/// Members that one plan copies.
pub const FETCHES: usize = 8;
/// Bytes of copied members and of text in a record.
pub const TEXT: usize = 80;
/// Return addresses in a record: each is the low half of one.
pub const FRAMES: usize = TEXT / 4;
/// The 0 behind the text was there.
pub const TEXT_WHOLE: u8 = 1;
/// A condition could not be decided: what its argument points to cannot be read.
pub const UNDECIDED: u8 = 2;
/// There are more return addresses than fit.
pub const MORE_FRAMES: u8 = 4;
/// Bytes of `task_struct.comm`.
pub const COMM: usize = 16;

/// A call or a return, as it lies in the ring.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord {
    /// As of a packet: sequence, kind, context, bytes of text, or of return addresses, and flags ([`TEXT_WHOLE`], ..).
    pub commit: u64,
    /// Time, in nanoseconds: `ktime_get_mono_fast_ns()`.
    pub time: u64,
    /// The words that were in the registers of the arguments when the function was called; of a tracepoint its first arguments.
    pub args: [u64; POSITIONS as usize],
    /// Return value (`rax`), for a return.
    pub value: u64,
    /// `time` of the call: what a return and its call have in common, with site and pid.
    pub entered: u64,
    /// Low half of the address of the function, or of the `struct tracepoint`.
    pub site: u32,
    /// `current->pid`.
    pub pid: u32,
    /// `current->tgid`.
    pub tgid: u32,
    /// Bit `i`: member `i` of the plan could not be read.
    pub unread: u32,
    /// `current->comm`.
    pub comm: [u8; COMM],
    /// The members that the plan copies, one behind the other, and behind them the text that it asks for; for a call or a
    /// tracepoint.
    pub text: [u8; TEXT],
}

/// Comparison of one argument, or of a member of what it points to, with a constant.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Number of the argument, from 0; below [`POSITIONS`].
    pub arg: u8,
    /// [`Compare`].
    pub compare: u8,
    /// Bytes of what is compared: 1, 2, 4 or 8.
    pub width: u8,
    /// 1: it is signed.
    pub signed: u8,
    /// 1: what is compared lies at `offset` behind the argument; 0: it is the argument.
    pub hop: u8,
    /// 0.
    pub zero: u8,
    /// In bytes.
    pub offset: u16,
    /// Constant that it is compared with, as 64 bits.
    pub value: u64,
}

/// Comparisons.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `==`
    Equal = 0,
    /// `!=`
    Unequal = 1,
    /// `<`
    Less = 2,
    /// `<=`
    AtMost = 3,
    /// `>`
    More = 4,
    /// `>=`
    AtLeast = 5,
}

/// Member of what an argument points to, copied when the record is made.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Number of the argument, from 0; below [`POSITIONS`].
    pub arg: u8,
    /// Its bytes; 0: no member is meant.
    pub len: u8,
    /// 0.
    pub zero: u16,
    /// Its place behind the argument, in bytes.
    pub offset: u32,
}

/// Result of a plan's comparisons.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// One does not hold.
    No = 0,
    /// All hold.
    Yes = 1,
    /// None is known not to hold, and for one the memory could not be read.
    Undecided = 2,
}

/// Parts of the calls of some functions that are recorded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The calls: all that meet each of them.
    pub conditions: [Condition; CONDITIONS],
    /// Number of `conditions` that are meant.
    pub count: u8,
    /// Number of the argument that leads to text, from 1; 0: none does.
    pub text: u8,
    /// 1: the text's address lies at `offset` behind that argument; 0: the argument is the address.
    pub hop: u8,
    /// Return addresses that are recorded; 0: the stack is not.
    pub frames: u8,
    /// In bytes.
    pub offset: u32,
    /// The members that are copied.
    pub fetches: [Fetch; FETCHES],
}

/// Sets the plans that sites of `How::Call` and `How::Point` name by their `position`. Forgotten by disarming.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plans {
    /// [`VERSION`].
    pub version: u32,
    /// 0.
    pub zero: u32,
    /// The plans.
    pub plans: [Plan; PLANS],
}

/// Takes [`Plans`].
pub const KLAB_PLANS: u32 = ioctl(1, 6, size_of::<Plans>());

/// Bytes of text that a call of [`Invoke`] may be given.
pub const TEXTS: usize = 512;

/// Calls a function, in a thread of its own, and waits for its end.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invoke {
    /// [`VERSION`].
    pub version: u32,
    /// Number of arguments, for whoever reads a trace.
    pub count: u32,
    /// Address of the function.
    pub function: u64,
    /// Words for the registers of the arguments.
    pub args: [u64; POSITIONS as usize],
    /// Answer: the return value (`rax`).
    pub value: u64,
    /// Bit `i`: argument `i` is an offset into `text`, which the function is given the address of.
    pub texts: u32,
    /// Time limit of the wait, in milliseconds.
    pub limit: u32,
    /// Answer: [`Invoked`].
    pub state: u32,
    /// Answer: PID of the thread.
    pub thread: u32,
    /// Texts, each with its NUL. They are freed when the function has returned.
    pub text: [u8; TEXTS],
}

/// Ends of an [`Invoke`].
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invoked {
    /// It has returned.
    Returned = 0,
    /// It faulted: the kernel has ended its thread.
    Died = 1,
    /// It has not ended in time, and goes on.
    Runs = 2,
}

/// Takes an [`Invoke`], and gives it back.
pub const KLAB_INVOKE: u32 = ioctl(3, 7, size_of::<Invoke>());

const _: () = {
    assert!(offset_of!(Invoke, function) == 8 && offset_of!(Invoke, args) == 16);
    assert!(offset_of!(Invoke, value) == 64 && offset_of!(Invoke, texts) == 72);
    assert!(offset_of!(Invoke, state) == 80 && offset_of!(Invoke, text) == 88);
    assert!(size_of::<Invoke>() == 88 + TEXTS);
    assert!(size_of::<CallRecord>() == RECORD);
    assert!(offset_of!(CallRecord, time) == 8 && offset_of!(CallRecord, args) == 16);
    assert!(offset_of!(CallRecord, value) == 64 && offset_of!(CallRecord, entered) == 72);
    assert!(offset_of!(CallRecord, site) == 80 && offset_of!(CallRecord, tgid) == 88);
    assert!(offset_of!(CallRecord, comm) == 96 && offset_of!(CallRecord, text) == 112);
    assert!(size_of::<Condition>() == 16 && offset_of!(Condition, value) == 8);
    assert!(size_of::<Plan>() == 136 && offset_of!(Plan, offset) == 68);
    assert!(size_of::<Fetch>() == 8 && offset_of!(Plan, fetches) == 72);
    assert!(size_of::<Plans>() == 8 + PLANS * 136 && size_of::<Plans>() < 1 << 14);
};

impl CallRecord {
    /// Decodes a copied record.
    pub fn from_bytes(from: &[u8; RECORD]) -> Self {
        Self {
            commit: u64_at(from, 0),
            time: u64_at(from, 8),
            args: core::array::from_fn(|i| u64_at(from, 16 + i * 8)),
            value: u64_at(from, 64),
            entered: u64_at(from, 72),
            site: u32_at(from, 80),
            pid: u32_at(from, 84),
            tgid: u32_at(from, 88),
            unread: u32_at(from, 92),
            comm: bytes(from, 96),
            text: bytes(from, 112),
        }
    }

    /// The text behind `fetched` bytes of members, as much of it as was copied, and whether that is all; `None`: it could not
    /// be read.
    pub fn text(&self, fetched: usize) -> Option<(&[u8], bool)> {
        let len = usize::from((self.commit >> 48) as u8);
        let whole = self.flags() & TEXT_WHOLE != 0;
        let text = self.text.get(fetched..).unwrap_or_default();
        (len > 0 || whole).then(|| (text.get(..len).unwrap_or(text), whole))
    }

    /// The `len` bytes of member `index`, which lie behind `before` bytes of others; `None`: they could not be read.
    pub fn member(&self, index: usize, before: usize, len: usize) -> Option<&[u8]> {
        let read = index < FETCHES && self.unread & 1 << index == 0;
        self.text
            .get(before..before.checked_add(len)?)
            .filter(|_| read)
    }

    /// The return addresses of a stack, the innermost first, and whether these are all.
    pub fn frames(&self) -> (impl Iterator<Item = u64> + '_, bool) {
        let len = usize::from((self.commit >> 48) as u8);
        let words = self.text.get(..len).unwrap_or(&self.text).chunks_exact(4);
        let all = words.map(|word| 0xffff_ffff_0000_0000 | u64::from(u32_at(word, 0)));
        (all, self.flags() & MORE_FRAMES == 0)
    }

    /// Tells whether the plan's comparisons could not be decided.
    pub const fn is_undecided(&self) -> bool {
        self.flags() & UNDECIDED != 0
    }

    const fn flags(&self) -> u8 {
        (self.commit >> 56) as u8
    }

    /// Kind of event; `None`: nothing of a call or a tracepoint.
    pub const fn kind(&self) -> Option<Kind> {
        match Kind::from_byte((self.commit >> 32) as u8) {
            Some(kind @ (Kind::Call | Kind::Return | Kind::Point | Kind::Stack)) => Some(kind),
            _ => None,
        }
    }

    /// In what the CPU was.
    pub const fn context(&self) -> Context {
        Context::from_byte((self.commit >> 40) as u8)
    }

    /// The whole address of the hooked function, or of the `struct tracepoint`.
    pub const fn address(&self) -> u64 {
        0xffff_ffff_0000_0000 | self.site as u64
    }
}

impl Plans {
    /// The ioctl's bytes for at most [`PLANS`] plans; more are left out.
    pub fn to_bytes(plans: &[Plan]) -> [u8; size_of::<Self>()] {
        let mut to = [0; size_of::<Self>()];
        to[..4].copy_from_slice(&VERSION.to_le_bytes());
        for (index, to) in to[8..].chunks_exact_mut(size_of::<Plan>()).enumerate() {
            let plan = plans.get(index).unwrap_or(&Plan::ALL);
            for (to, one) in to.chunks_exact_mut(16).zip(&plan.conditions) {
                to[..5].copy_from_slice(&[one.arg, one.compare, one.width, one.signed, one.hop]);
                to[6..8].copy_from_slice(&one.offset.to_le_bytes());
                to[8..].copy_from_slice(&one.value.to_le_bytes());
            }
            to[64..68].copy_from_slice(&[plan.count, plan.text, plan.hop, plan.frames]);
            to[68..72].copy_from_slice(&plan.offset.to_le_bytes());
            for (to, one) in to[72..].chunks_exact_mut(8).zip(&plan.fetches) {
                to[..2].copy_from_slice(&[one.arg, one.len]);
                to[4..].copy_from_slice(&one.offset.to_le_bytes());
            }
        }
        to
    }
}

impl Invoke {
    /// The ioctl's bytes.
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut to = [0; size_of::<Self>()];
        to[..4].copy_from_slice(&self.version.to_le_bytes());
        to[4..8].copy_from_slice(&self.count.to_le_bytes());
        to[8..16].copy_from_slice(&self.function.to_le_bytes());
        for (to, word) in to[16..64].chunks_exact_mut(8).zip(self.args) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        to[72..76].copy_from_slice(&self.texts.to_le_bytes());
        to[76..80].copy_from_slice(&self.limit.to_le_bytes());
        to[88..].copy_from_slice(&self.text);
        to
    }

    /// The ioctl's answer: the return value, what became of the call if that is known, and its thread.
    pub fn answer(from: &[u8; size_of::<Self>()]) -> (u64, Option<Invoked>, u32) {
        let state = match u32_at(from, 80) {
            0 => Some(Invoked::Returned),
            1 => Some(Invoked::Died),
            2 => Some(Invoked::Runs),
            _ => None,
        };
        (u64_at(from, 64), state, u32_at(from, 84))
    }
}

impl Compare {
    /// All, by their numbers.
    pub const ALL: [Self; 6] = [
        Self::Equal,
        Self::Unequal,
        Self::Less,
        Self::AtMost,
        Self::More,
        Self::AtLeast,
    ];

    fn holds<T: Ord>(self, left: T, right: T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::Less => left < right,
            Self::AtMost => left <= right,
            Self::More => left > right,
            Self::AtLeast => left >= right,
        }
    }
}

impl Condition {
    /// Without a meaning: beyond [`Plan::count`].
    pub const NONE: Self = Self {
        arg: 0,
        compare: 0,
        width: 8,
        signed: 0,
        hop: 0,
        zero: 0,
        offset: 0,
        value: 0,
    };

    /// Tells whether it means anything.
    pub fn is_sound(&self) -> bool {
        self.arg < POSITIONS
            && usize::from(self.compare) < Compare::ALL.len()
            && matches!(self.width, 1 | 2 | 4 | 8)
            && self.signed <= 1
            && self.hop <= 1
            && self.zero == 0
    }

    /// Tells whether a word meets it: that in the argument's register, or that which it leads to.
    pub fn holds(&self, word: u64) -> bool {
        let unused = 64_u32.saturating_sub(u32::from(self.width).saturating_mul(8)) & 63;
        let (word, value) = (word << unused, self.value);
        let Some(compare) = Compare::ALL.get(usize::from(self.compare)) else {
            return false;
        };
        match self.signed {
            0 => compare.holds(word >> unused, value),
            _ => compare.holds(word as i64 >> unused, value as i64),
        }
    }
}

impl Fetch {
    /// Without a meaning.
    pub const NONE: Self = Self {
        arg: 0,
        len: 0,
        zero: 0,
        offset: 0,
    };
}

impl Plan {
    /// Every call, without text.
    pub const ALL: Self = Self {
        conditions: [Condition::NONE; CONDITIONS],
        count: 0,
        text: 0,
        hop: 0,
        frames: 0,
        offset: 0,
        fetches: [Fetch::NONE; FETCHES],
    };

    /// Tells whether it means anything.
    pub fn is_sound(&self) -> bool {
        let fetches = &self.fetches;
        usize::from(self.count) <= CONDITIONS
            && self.conditions.iter().all(Condition::is_sound)
            && self.text <= POSITIONS
            && self.hop <= 1
            && usize::from(self.frames) <= FRAMES
            && self.offset < 1 << 16
            && fetches
                .iter()
                .all(|one| one.arg < POSITIONS && one.zero == 0)
            && fetches.iter().all(|one| one.offset < 1 << 16)
            && fetches
                .iter()
                .map(|one| usize::from(one.len))
                .sum::<usize>()
                <= TEXT
    }

    /// Tells whether a call with these words in its registers is recorded; `read` gives so many bytes of memory, as a number.
    pub fn wants(
        &self,
        args: &[u64; POSITIONS as usize],
        read: impl Fn(u64, u8) -> Option<u64>,
    ) -> Wanted {
        let mut wanted = Wanted::Yes;
        for condition in self.conditions.iter().take(usize::from(self.count)) {
            let Some(word) = args.get(usize::from(condition.arg)) else {
                return Wanted::No;
            };
            let word = match condition.hop {
                0 => Some(*word),
                _ => read(
                    word.wrapping_add(u64::from(condition.offset)),
                    condition.width,
                ),
            };
            match word {
                Some(word) if condition.holds(word) => {}
                Some(_) => return Wanted::No,
                None => wanted = Wanted::Undecided,
            }
        }
        wanted
    }
}
