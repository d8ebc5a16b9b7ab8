//! The state of a task, as the kernel reports it.

use serde::Serialize;

// include/linux/sched.h. None of these are in BTF: they are macros.
const TASK_UNINTERRUPTIBLE: u64 = 0x2;
const EXIT_DEAD: u64 = 0x10;
const EXIT_ZOMBIE: u64 = 0x20;
const TASK_NOLOAD: u64 = 0x400;
const TASK_RTLOCK_WAIT: u64 = 0x1000;
const TASK_FROZEN: u64 = 0x8000;
const TASK_IDLE: u64 = TASK_UNINTERRUPTIBLE | TASK_NOLOAD;
/// State of a task, as `/proc` has it.
const TASK_REPORT: u64 = 0x7f;
const TASK_REPORT_IDLE: u64 = TASK_REPORT + 1;

/// The state of a task: what `ps` prints in its column `S`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum TaskState {
    /// `R`: on a run queue or on a CPU.
    Running,
    /// `S`: sleeps, wakes for signals.
    Sleeping,
    /// `D`: sleeps, does not wake for signals.
    DiskSleep,
    /// `T`: stopped by a signal.
    Stopped,
    /// `t`: stopped by its tracer.
    Traced,
    /// `X`: gone, about to be freed.
    Dead,
    /// `Z`: gone, its parent has not asked yet.
    Zombie,
    /// `P`: a parked kernel thread.
    Parked,
    /// `I`: sleeps, and is not counted as load.
    Idle,
}

impl TaskState {
    /// From `task_struct.__state` and `exit_state`, as `__task_state_index()` of `include/linux/sched.h` does.
    #[must_use]
    pub const fn from_raw(state: u64, exit_state: u64) -> Self {
        let state = state & 0xffff_ffff;
        let mut report = (state | exit_state) & TASK_REPORT;
        if state & TASK_IDLE == TASK_IDLE {
            report = TASK_REPORT_IDLE;
        }
        if state & TASK_RTLOCK_WAIT != 0 || state & TASK_FROZEN != 0 {
            report = TASK_UNINTERRUPTIBLE;
        }
        match report {
            0 => Self::Running,
            1 => Self::Sleeping,
            2..4 => Self::DiskSleep,
            4..8 => Self::Stopped,
            8..EXIT_DEAD => Self::Traced,
            EXIT_DEAD..EXIT_ZOMBIE => Self::Dead,
            EXIT_ZOMBIE..0x40 => Self::Zombie,
            0x40..TASK_REPORT_IDLE => Self::Parked,
            _ => Self::Idle,
        }
    }

    /// The kernel's letter: `task_index_to_char()`.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Running => 'R',
            Self::Sleeping => 'S',
            Self::DiskSleep => 'D',
            Self::Stopped => 'T',
            Self::Traced => 't',
            Self::Dead => 'X',
            Self::Zombie => 'Z',
            Self::Parked => 'P',
            Self::Idle => 'I',
        }
    }

    /// The words of `/proc/PID/status`, of `fs/proc/array.c`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Sleeping => "sleeping",
            Self::DiskSleep => "disk sleep",
            Self::Stopped => "stopped",
            Self::Traced => "tracing stop",
            Self::Dead => "dead",
            Self::Zombie => "zombie",
            Self::Parked => "parked",
            Self::Idle => "idle",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// A scheduling policy: `SCHED_*` of `include/uapi/linux/sched.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Policy(pub u32);

impl Policy {
    /// The name without `SCHED_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "NORMAL",
            1 => "FIFO",
            2 => "RR",
            3 => "BATCH",
            5 => "IDLE",
            6 => "DEADLINE",
            7 => "EXT",
            _ => "?",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_the_kernels() {
        let letter = |state, exit| TaskState::from_raw(state, exit).letter();
        // TASK_RUNNING .. TASK_PARKED, one bit each.
        assert_eq!(
            [0, 1, 2, 4, 8, 0x40].map(|state| letter(state, 0)),
            ['R', 'S', 'D', 'T', 't', 'P']
        );
        // TASK_DEAD with exit states.
        assert_eq!(
            [letter(0x80, 0x10), letter(0x80, 0x20), letter(0x80, 0x30)],
            ['X', 'Z', 'Z']
        );
        // TASK_KILLABLE, TASK_IDLE, TASK_FROZEN, TASK_INTERRUPTIBLE|TASK_FREEZABLE, TASK_NEW.
        assert_eq!(
            [0x102, 0x402, 0x8000, 0x2001, 0x800].map(|state| letter(state, 0)),
            ['D', 'I', 'D', 'S', 'R']
        );
    }
}
