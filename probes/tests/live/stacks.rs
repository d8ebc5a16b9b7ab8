//! Stack traces: `/proc/PID/task/TID/stack`, frame by frame.

use std::collections::BTreeMap;
use std::time::Duration;

use probes::{ErrorKind, Guest};
use probes::memory::GuestVirt;
use probes::sched::{Task, TaskState};
use probes::text::Instruction;
use probes::unwind::{Frame, StackKind, StackTrace, TraceEnd};
use probes::view::View as _;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

crate::on_kernels!(are_those_of_proc, in_the_middle_of_a_switch);

/// A thread in `/proc`: how often it left its CPU, and its stack, `function+0xoffset [module]` line by line.
type Said = (u64, Vec<String>);

fn ask(ground: &mut Ground) -> BTreeMap<i32, Said> {
    let text = ground.sh(r#"for t in /proc/[0-9]*/task/[0-9]*; do
            echo "@${t##*/}"; grep -s ctxt_switches $t/status; cat $t/stack 2>/dev/null; done; true"#);
    let mut said: BTreeMap<i32, Said> = BTreeMap::new();
    let mut last = 0;
    for line in text.lines() {
        if let Some(tid) = line.strip_prefix('@') {
            last = tid.parse().unwrap();
            said.insert(last, Said::default());
        } else if line.contains("ctxt_switches") {
            let count = line.split_whitespace().nth(1).unwrap();
            said.get_mut(&last).unwrap().0 += count.parse::<u64>().unwrap();
        } else if let Some(place) = line.strip_prefix("[<0>] ") {
            // The function's size stands between its offset and its module.
            let (place, rest) = place.split_once('/').unwrap();
            let module = rest.split_once(' ').map(|(_, module)| format!(" {module}"));
            said.get_mut(&last)
                .unwrap()
                .1
                .push(format!("{place}{}", module.unwrap_or_default()));
        }
    }
    said
}

fn line(frame: &Frame) -> String {
    let module = frame.module.as_ref().map(|module| format!(" [{module}]"));
    format!(
        "{}+{:#x}{}",
        frame.function,
        frame.offset,
        module.unwrap_or_default()
    )
}

pub(crate) fn are_those_of_proc(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let mut ledger = Ledger::new(format!("stacks on {kernel}"));
    sleeping(&mut ledger, &mut ground);
    zombies(&mut ledger, &mut ground);
    running(&mut ledger, &mut ground);
    interrupted(&mut ledger, &mut ground);
    ledger.end(&[
        ("stack", 70),
        ("followed to its end", 85),
        ("zombie", 3),
        ("one trace a CPU", 8),
        ("interrupted kernel", 10),
    ]);
}

/// Tasks that sleep, against `/proc`. Gives what memory has.
fn sleeping(ledger: &mut Ledger, ground: &mut Ground) -> Vec<StackTrace> {
    let (before, seen, after) = ground.sandwich(ask, |guest| {
        let text = |name| guest.symbol(name);
        Ok((
            guest.stack_traces()?,
            text("__sched_text_start")?..text("__sched_text_end")?,
        ))
    });
    let (traces, scheduler) = seen;
    ledger.same("all", "missing", &traces.missing, &Vec::new());
    // /proc does not show the functions that in_sched_functions() knows.
    let shown = |ip: GuestVirt| !scheduler.contains(&ip);
    for trace in traces.iter() {
        followed(ledger, trace);
        let (Some(first), Some(last)) = (before.get(&trace.pid), after.get(&trace.pid)) else {
            continue;
        };
        // One that ran in between may be back where it was.
        if trace.cpu.is_some() || first.1.is_empty() || first.0 != last.0 {
            continue;
        }
        let memory: Vec<String> = trace
            .frames
            .iter()
            .filter(|frame| shown(frame.ip))
            .map(line)
            .collect();
        let who = format!("{} {}", trace.pid, trace.comm);
        ledger.steady(&who, "stack", &memory, (&first.1, &last.1));
    }
    traces.items
}

fn followed(ledger: &mut Ledger, trace: &StackTrace) {
    let lost = matches!(trace.end, TraceEnd::Lost(_));
    ledger.same(told(trace), "followed to its end", &lost, &false);
}

fn told(trace: &StackTrace) -> String {
    trace.text()
}

/// Tasks whose stack is freed: `/proc` shows nothing of it.
fn zombies(ledger: &mut Ledger, ground: &mut Ground) {
    let guest = ground.guest.clone();
    for task in guest.tasks().unwrap().iter() {
        if task.state != TaskState::Zombie {
            continue;
        }
        let path = format!("cat /proc/{}/stack", task.pid);
        ledger.same(
            &task.comm,
            "zombie in /proc",
            &ground.sh(&path),
            &String::new(),
        );
        let trace = guest.stack_trace(task.pid).unwrap();
        ledger.same(task.pid, "zombie", &trace.end, &TraceEnd::Freed);
        ledger.same(task.pid, "zombie's frames", &trace.frames, &Vec::new());
    }
}

/// Each thread has one trace, and each CPU that of the task whose stack its stack pointer is in. Gives the traces.
fn each_task_once(ledger: &mut Ledger, guest: &Guest) -> Vec<StackTrace> {
    let traces = guest.stack_traces().unwrap();
    ledger.same("all", "missing", &traces.missing, &Vec::new());
    let size = guest.thread_size().unwrap();
    let mut threads = Vec::new();
    for process in guest.tasks().unwrap().iter() {
        threads.extend(guest.threads(process.pid).unwrap());
    }
    for registers in guest.registers().unwrap() {
        let cpu = registers.cpu;
        let of: Vec<&StackTrace> = traces.iter().filter(|t| t.cpu == Some(cpu)).collect();
        ledger.same(cpu, "one trace a CPU", &of.len(), &1);
        let Some(trace) = of.first() else { continue };
        let rsp = GuestVirt(registers.rsp);
        let holds = |task: &&Task| task.stack < rsp && rsp <= task.stack.offset(size);
        if registers.rip >> 63 == 0 {
            let current = guest.current(cpu).unwrap();
            ledger.same(told(trace), "a program's CPU", &trace.pid, &current.pid);
        } else if let Some(task) = threads.iter().find(holds) {
            ledger.same(told(trace), "whose stack", &trace.pid, &task.pid);
        }
        if let Some(first) = trace.frames.first() {
            let at = (GuestVirt(registers.rip), rsp);
            ledger.same(told(trace), "first frame", &(first.ip, first.sp), &at);
        }
    }
    let mut pids: Vec<i32> = traces.iter().map(|trace| trace.pid).collect();
    pids.retain(|pid| *pid != 0);
    pids.sort_unstable();
    let count = pids.len();
    pids.dedup();
    ledger.same("all", "each once", &pids.len(), &count);
    for thread in &threads {
        let there = pids.binary_search(&thread.pid).is_ok();
        ledger.same(format!("{thread:?}"), "each task", &there, &true);
    }
    traces.items
}

/// Tasks on the CPUs, in the kernel or in user space.
fn running(ledger: &mut Ledger, ground: &mut Ground) {
    ground
        .agent
        .workload(WorkloadKind::Busy { count: 2 })
        .unwrap();
    for _ in 0..4 {
        ground
            .guest
            .paused(|guest| {
                for trace in each_task_once(ledger, guest) {
                    followed(ledger, &trace);
                }
                Ok(())
            })
            .unwrap();
    }
}

/// The address of a function behind its `endbr64`, which a direct call may leave out.
fn entry(guest: &Guest, name: &str) -> u64 {
    let kernel = guest.kernel().unwrap();
    let suffix = format!("{name}.");
    let mut symbols = kernel.symbols().unwrap().iter();
    let found = symbols.find(|symbol| {
        symbol.name == name || symbol.name.starts_with(&suffix) && !symbol.name.ends_with(".cold")
    });
    let at = found.unwrap_or_else(|| panic!("no function {name}")).at;
    match kernel.read_u32(at).unwrap() {
        0xfa1e_0ff3 => at.0 + 4,
        _ => at.0,
    }
}

/// A CPU that an interrupt found in the kernel, stopped in its handler: the frames go on behind the interrupt's, to the
/// system call or the idle loop that it broke into.
fn interrupted(ledger: &mut Ledger, ground: &mut Ground) {
    ground.sh("killall klab-busy 2>/dev/null; ip link set lo up; (setsid ping -q -i 0.002 127.0.0.1 >/dev/null 2>&1 &)");
    let guest = ground.guest.clone();
    let mut debugger = guest.machine().unwrap().debugger().unwrap();
    debugger.set(entry(&guest, "hrtimer_interrupt")).unwrap();
    let mut at = None;
    let mut seen = 0;
    // Each is in an interrupt; a CPU that is idle, or in a system call, is in the kernel.
    for _ in 0..2000 {
        debugger.run(at.take()).unwrap();
        let stop = debugger
            .wait(PATIENCE)
            .unwrap()
            .expect("no interrupt comes");
        at = Some(stop);
        if !stop.breakpoint {
            continue;
        }
        let traces = each_task_once(ledger, &guest);
        let trace = traces.iter().find(|t| t.cpu == Some(stop.cpu)).unwrap();
        followed(ledger, trace);
        let Some(broken) = trace.frames.iter().position(|frame| frame.interrupted) else {
            // It broke into a program.
            ledger.same(
                told(trace),
                "interrupted program",
                &trace.end,
                &TraceEnd::User,
            );
            continue;
        };
        let entry = &trace.frames[broken - 1].function;
        ledger.same(told(trace), "interrupt", &entry.starts_with("asm_"), &true);
        let last = trace.frames.last().unwrap();
        let ends = [
            "entry_SYSCALL",
            "secondary_startup",
            "ret_from_fork",
            "asm_",
        ];
        let known = trace.pid == 0 || ends.iter().any(|name| last.function.starts_with(name));
        let known = known || last.interrupted && trace.end == TraceEnd::User;
        ledger.same(told(trace), "interrupted kernel", &known, &true);
        // The interrupt's frames are on its CPU's stack, but for where it came in.
        ledger.same(
            told(trace),
            "stack of interrupts",
            &trace.frames[0].stack,
            &StackKind::Irq,
        );
        // It may have broken into another's, which is on the same stack: below all of them is the task's.
        let mut below = trace.frames.iter().map(|frame| frame.stack);
        let below = below.find(|stack| *stack != StackKind::Irq);
        let text = trace.text();
        let marked = text.contains("\n  <IRQ>\n") && text.contains("\n  </IRQ>\n");
        ledger.same(&text, "marked", &marked, &true);
        ledger.same(told(trace), "stack below", &below, &Some(StackKind::Task));
        seen += 1;
        if seen >= 10 {
            break;
        }
    }
}

/// Time that something may take which happens all the time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A CPU that stands where one task gives it to the next: before its stack pointer is changed, right behind that, and
/// after `current` is changed.
pub(crate) fn in_the_middle_of_a_switch(kernel: &str) {
    let mut ground = Ground::new(kernel);
    let mut ledger = Ledger::new(format!("stacks in a switch on {kernel}"));
    let guest = ground.guest.clone();
    ground.sh("ip link set lo up; (setsid ping -q -i 0.002 127.0.0.1 >/dev/null 2>&1 &)");
    ground
        .agent
        .workload(WorkloadKind::Busy { count: 2 })
        .unwrap();
    let switch = guest
        .disassembly(guest.symbol("__switch_to_asm").unwrap())
        .unwrap();
    let changes = |one: &Instruction| one.text.ends_with("(%rsi), %rsp");
    let change = switch.instructions.iter().position(changes);
    let change = change.expect("__switch_to_asm() changes no stack");
    let places = [
        switch.instructions[change].at.0,
        switch.instructions[change + 1].at.0,
        entry(&guest, "__switch_to"),
        entry(&guest, "finish_task_switch"),
    ];
    for place in places {
        let mut debugger = guest.machine().unwrap().debugger().unwrap();
        debugger.set(place).unwrap();
        let mut at = None;
        for _ in 0..20 {
            debugger.run(at.take()).unwrap();
            let stop = debugger.wait(PATIENCE).unwrap().expect("no switch comes");
            at = Some(stop);
            if !stop.breakpoint {
                continue;
            }
            let traces = each_task_once(&mut ledger, &guest);
            let on_cpu = traces.iter().find(|t| t.cpu == Some(stop.cpu)).unwrap();
            let current = guest.current(stop.cpu).unwrap();
            // It may be dead, or an idle one.
            let other = traces
                .iter()
                .find(|t| t.pid == current.pid && t.cpu != Some(stop.cpu));
            if let Some(other) = other.filter(|_| on_cpu.pid != current.pid) {
                let first = other.frames.first().map(|frame| frame.function.as_str());
                let asleep = first.is_some_and(|name| {
                    name.starts_with("__schedule") || name.starts_with("ret_from_fork")
                });
                ledger.same(told(other), "asleep already", &asleep, &true);
                ledger.same(told(other), "no CPU's", &other.cpu, &None);
            }
            for trace in [Some(on_cpu), other].into_iter().flatten() {
                followed(&mut ledger, trace);
                if trace.pid != 0 {
                    match guest.stack_trace(trace.pid) {
                        Ok(alone) => ledger.same(told(trace), "the same alone", &alone, trace),
                        // In its last switch a task has no PID any more.
                        Err(error) => ledger.same(
                            told(trace),
                            "gone from the PIDs",
                            &(error.kind(), trace.state),
                            &(ErrorKind::Absent, TaskState::Dead),
                        ),
                    }
                }
            }
        }
    }
    ledger.end(&[
        ("one trace a CPU", 100),
        ("whose stack", 40),
        ("asleep already", 10),
        ("the same alone", 40),
    ]);
}

/// While tracers replace return addresses and call from code of their own making.
pub(crate) fn while_traced(kernel: &str) {
    const HERE: &str = "cd /sys/kernel/tracing";
    // Functions of sleepers, and ones that run often: all functions would be too many for an emulated CPU.
    const TRACED: &str = "schedule schedule_timeout schedule_hrtimeout* do_nanosleep hrtimer_nanosleep vfs_* ksys_* \
                          pipe_* do_epoll_wait do_poll* do_wait kernel_wait4 ip_* icmp_* rcu_gp_* inet_* sock_*";
    let mut ground = Ground::to_trace(kernel);
    ground.fill();
    let mut ledger = Ledger::new(format!("stacks while traced on {kernel}"));
    ground.sh("ip link set lo up; (setsid ping -q -i 0.01 127.0.0.1 >/dev/null 2>&1 &)");
    // A return probe of a function that is under way.
    ground.sh(&format!(
        "{HERE}; echo 'r:klab/back vfs_read' >kprobe_events; echo 1 >events/klab/back/enable
         mkfifo /tmp/pipe
         (setsid sleep 9000 </dev/null >/tmp/pipe 2>/dev/null &)
         setsid cat /tmp/pipe </dev/null >/dev/null 2>&1 & cat=$!
         until grep -q vfs_read /proc/$cat/stack; do sleep 0.1; done"
    ));
    let traces = sleeping(&mut ledger, &mut ground);
    replaced(&mut ledger, &ground, &traces, "arch_rethook_trampoline");
    // The graph tracer, after some time in which the sleepers went to sleep under it.
    ground.sh(&format!(
        "{HERE}; for f in {TRACED}; do echo \"$f\" >>set_ftrace_filter; done 2>/dev/null
         echo function_graph >current_tracer; sleep 2"
    ));
    let traces = sleeping(&mut ledger, &mut ground);
    replaced(&mut ledger, &ground, &traces, "return_to_handler");
    ground.sh(&format!(
        "{HERE}; echo nop >current_tracer; echo 0 >events/klab/back/enable; echo >kprobe_events
         echo function >current_tracer"
    ));
    let mut trampolines = 0;
    let guest = ground.guest.clone();
    let mut debugger = guest.machine().unwrap().debugger().unwrap();
    debugger.set(entry(&guest, "function_trace_call")).unwrap();
    let mut at = None;
    for _ in 0..40 {
        debugger.run(at.take()).unwrap();
        let stop = debugger.wait(PATIENCE).unwrap().expect("nothing is traced");
        at = Some(stop);
        if !stop.breakpoint {
            continue;
        }
        let traces = each_task_once(&mut ledger, &guest);
        let trace = traces.iter().find(|t| t.cpu == Some(stop.cpu)).unwrap();
        followed(&mut ledger, trace);
        let names: Vec<&str> = trace.frames.iter().map(|f| f.function.as_str()).collect();
        let called = names.get(1).copied().unwrap_or_default();
        // With one user alone its function is called by a trampoline, or by the kernel's own code.
        let known = ["ftrace_trampoline", "ftrace_call", "ftrace_caller"].contains(&called);
        ledger.same(told(trace), "who calls the tracer", &known, &true);
        trampolines += usize::from(called == "ftrace_trampoline");
    }
    drop(debugger);
    ledger.same("function", "trampolines", &(trampolines > 0), &true);
    for _ in 0..30 {
        let traces = guest.paused(Guest::stack_traces).unwrap();
        traces.iter().for_each(|trace| followed(&mut ledger, trace));
    }
    ground.sh(&format!("{HERE}; echo nop >current_tracer"));
    ledger.end(&[
        ("stack", 100),
        ("arch_rethook_trampoline", 1),
        ("return_to_handler", 3),
        ("who calls the tracer", 30),
    ]);
}

/// Counts the frames whose return address lies on the stack as that of a trampoline.
fn replaced(ledger: &mut Ledger, ground: &Ground, traces: &[StackTrace], name: &'static str) {
    let trampoline = ground.guest.symbol(name).unwrap();
    let kernel = ground.guest.kernel().unwrap();
    for trace in traces.iter().filter(|trace| trace.cpu.is_none()) {
        for frame in trace
            .frames
            .iter()
            .skip(1)
            .filter(|frame| !frame.interrupted)
        {
            // Where it stood still and is still: the task may have run since.
            if kernel.read_u64(frame.sp.back(8)) == Ok(trampoline.0) {
                ledger.same(frame, name, &(frame.ip == trampoline), &false);
            }
        }
    }
}
