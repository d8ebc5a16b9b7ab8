"""Hours of use in minutes: readers, recordings, pauses, dumps, kills and resets in any order, on guests that have work to do.

KLAB names the klab program under test, KLAB_TEST_SOAK for how many minutes [10], KLAB_TEST_SEED which order. What is read is
read again from inside; what goes on for long (the notebook's kernel, and Python with drgn) must not grow, and nothing may be
left: no guest that stands still, no process, no warning in a guest's log.
"""

import gc
import json
import os
import random
import re
import signal
import subprocess
import time
import uuid

import drgn.helpers.linux as helpers
from jupyter_client.manager import start_new_kernel

import klab as package

MINUTES = float(os.environ.get("KLAB_TEST_SOAK", "10"))
SEED = int(os.environ.get("KLAB_TEST_SEED", random.randrange(2**32)))
GUESTS = [f"soak-{number}-{os.getpid()}" for number in range(3)]
#: What the processes of this test are known by, those that they start as well.
MARK = ("KLAB_SOAK", uuid.uuid4().hex)

#: Packets between two namespaces, and processes that come and go.
LOAD = """
modprobe veth; ip netns add a; ip netns add b; ip link add v netns a type veth peer name v netns b
for n in a b; do ip -n $n link set lo up; ip -n $n link set v up; done
ip -n a address add 10.9.0.1/24 dev v; ip -n b address add 10.9.0.2/24 dev v
ip netns exec a ping -c 1 -W 20 10.9.0.2 >/dev/null
ip netns exec a ping -q -i 0.2 10.9.0.2 >/dev/null 2>&1 </dev/null &
(while :; do cat /proc/self/maps >/tmp/maps; sleep 1; done) >/dev/null 2>&1 </dev/null &
"""

#: What a notebook's lines read. Those that are torn on a guest that runs are not whole, which is no fault.
READERS = """ps tree sockets stack slab runq irq timers modules log mounts net routes neigh nf-hooks vmstat meminfo zones
workqueue devices block softirq clock filesystems namespaces cgroups vmalloc locks rcu bpf""".split()
READERS += ["task 1", "files 1", "vma 1", "mm 1", "auxv 1", "path /bin/busybox", "what init_task", "search soak-nothing"]

#: What a kernel says of itself that is never well.
FAULT = re.compile(r"Oops|BUG:|WARNING:|Kernel panic|general protection|blocked for more than|soft lockup|refcount_t")

#: How much a process may have grown between the second third of the time and the last, in kB.
GROWTH = 16 << 10


def mark(pid):
    """Whether a process is of this test."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return "=".join(MARK).encode() in file.read().split(b"\0")
    except OSError:
        return False


def use(pid):
    """What a process has: its own memory in kB (not the guests' RAM, which it maps), files, threads."""
    status = open(f"/proc/{pid}/status").read()
    value = lambda name: int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])
    return value("RssAnon"), len(os.listdir(f"/proc/{pid}/fd")), value("Threads")


class Soak:
    def __init__(self, program, folder, chance):
        self.program, self.folder, self.chance = program, folder, chance
        self.env = {**os.environ, **dict([MARK])}
        self.manager, self.client = start_new_kernel(120, kernel_name="klab", env=self.env)
        for guest in GUESTS:
            self.klab("up", guest)
            self.inside(guest, LOAD)
        # What is killed later is a recording, not the compiler.
        self.klab("kmod", "build", "--guest", GUESTS[0])

    def start(self, *words):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([self.program, *words], env=self.env, text=True, start_new_session=True, **pipes)

    def end_by(self, process, *signals):
        """Ends a command: a terminal's signals go to all that it has started as well."""
        chosen = self.chance.choice(signals)
        if chosen in (signal.SIGINT, signal.SIGHUP):
            os.killpg(process.pid, chosen)
        else:
            process.send_signal(chosen)
        process.communicate(timeout=300)

    def klab(self, *words, codes=(0,)):
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode in codes, (words, process.returncode, out[-2000:], err[-2000:])
        return out

    def inside(self, guest, script):
        return self.klab("run", guest, "--", "sh", "-c", script)

    def line(self, text):
        """A line of a notebook: what it prints."""
        said = []
        reply = self.client.execute_interactive(text, timeout=120, output_hook=lambda message: said.append(message["content"]))
        assert reply["content"]["status"] == "ok", (text, said)

    # What is done, each on a guest.

    def read(self, guest):
        for reader in self.chance.sample(READERS, 5):
            self.line(f"%{reader} --guest {guest}")

    def compare(self, guest):
        """A reading beside the guest's own: what is there before and after is shown."""
        ask = lambda: self.inside(guest, "cd /proc; echo [0-9]*; ls /sys/class/net; wc -l <modules; wc -l <1/mounts; head -1 meminfo").split("\n")
        before = ask()
        shown = {name: json.loads(self.klab(name, "--guest", guest, "--json", codes=(0, 1))) for name in ["ps", "net", "modules", "mounts", "meminfo"]}
        same = set(before) & set(ask())
        pids = [set(map(int, asked[0].split())) for asked in (before, ask())]
        assert pids[0] & pids[1] <= {task.get("pid") for task in shown["ps"]}, (before, shown["ps"])
        names = {device.get("name") for device in shown["net"]}
        # The root below the root is hidden from every process.
        mounts = [mount for mount in shown["mounts"] if mount["fs_type"] != "nullfs"]
        counts = [str(len(shown["modules"])), str(len(mounts))]
        total = next(line["value"] for line in shown["meminfo"] if line["name"] == "MemTotal")
        assert {"lo", *counts} <= same and "lo" in names and any(line.split()[1:2] == [str(total)] for line in same if "MemTotal" in line), (same, counts)

    def drgn(self, guest):
        prog = package.program(guest)
        assert helpers.find_task(prog, 1).comm.string_() == b"init"
        assert len(prog.stack_trace(2)) > 2
        del prog
        gc.collect()

    def record(self, guest):
        packets = json.loads(self.klab("skb", "--guest", guest, "--about", "icmp", "--json", "sleep", "1"))
        assert packets["paths"], packets

    def stop_recording(self, guest):
        process = self.start("skb", "--guest", guest, "--about", "icmp", "sleep", "100")
        time.sleep(self.chance.uniform(0, 8))
        self.end_by(process, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

    def pause(self, guest):
        self.klab("pause", guest)
        self.line(f"%ps --guest {guest}")
        self.klab("ps", "--guest", guest)
        self.klab("resume", guest)

    def dump(self, guest):
        path = os.path.join(self.folder, "core")
        self.klab("dump", guest, path)
        assert any(task["comm"] == "init" for task in json.loads(self.klab("ps", "--core", path, "--json")))
        os.unlink(path)

    def kill_a_dump(self, guest):
        path = os.path.join(self.folder, "part")
        process = self.start("dump", guest, path)
        time.sleep(self.chance.uniform(0, 1))
        self.end_by(process, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
        if os.path.exists(path):
            os.unlink(path)
        assert not os.listdir(self.folder)

    def kill_a_command(self, guest):
        process = self.start("run", guest, "--", "sleep", "1000")
        time.sleep(self.chance.uniform(0, 1))
        self.end_by(process, signal.SIGINT, signal.SIGKILL)

    def unload(self, guest):
        if "klab " in self.inside(guest, "cat /proc/modules"):
            self.klab("kmod", "unload", "--guest", guest)

    def reset(self, guest):
        self.log_is_clean(guest)
        self.klab("reset", guest)
        self.inside(guest, LOAD)

    # What must hold.

    def runs(self, guest):
        """Whatever was done, the guest goes on by itself in a moment."""
        deadline = time.monotonic() + 20
        while (said := self.klab("status", guest, "--json")) and json.loads(said)[0]["state"] != "running":
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        self.inside(guest, "true")

    def log_is_clean(self, guest):
        bad = [line for line in self.inside(guest, "dmesg").splitlines() if FAULT.search(line)]
        assert not bad, bad

    def end(self):
        for guest in GUESTS:
            self.log_is_clean(guest)
            self.klab("down", guest)
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        deadline = time.monotonic() + 20
        while left := [pid for pid in os.listdir("/proc") if pid.isdigit() and mark(pid)]:
            commands = [open(f"/proc/{pid}/cmdline").read().replace("\0", " ") for pid in left if os.path.exists(f"/proc/{pid}")]
            assert time.monotonic() < deadline, commands
            time.sleep(0.2)
        run = os.environ.get("KLAB_RUN")
        assert not run or not set(GUESTS) & set(os.listdir(run))


def steady(name, samples):
    """Neither memory nor files nor threads grow once all has been used."""
    third = len(samples) // 3
    before, after = ([max(values) for values in zip(*part)] for part in (samples[third : 2 * third], samples[2 * third :]))
    print(f"{name}: RssAnon {before[0]} -> {after[0]} kB, files {before[1]} -> {after[1]}, threads {before[2]} -> {after[2]}")
    assert after[0] <= before[0] + GROWTH, name
    assert after[1] <= before[1] + 4 and after[2] <= before[2] + 4, name


def test_nothing_grows_and_nothing_is_left(tmp_path, capsys):
    program = os.environ.get("KLAB")
    assert program and os.access(program, os.X_OK), "KLAB must name the klab program"
    chance = random.Random(SEED)
    soak = Soak(program, tmp_path, chance)
    kernel = soak.manager.provisioner.pid
    actions = [soak.read] * 6 + [soak.compare] * 3 + [soak.drgn] * 2 + [soak.record, soak.stop_recording, soak.pause, soak.dump]
    actions += [soak.kill_a_dump, soak.kill_a_command, soak.unload, soak.reset]
    samples, done = [], {}
    end = time.monotonic() + 60 * MINUTES
    with capsys.disabled():
        print(f"\nseed {SEED}")
        while time.monotonic() < end:
            action, guest = chance.choice(actions), chance.choice(GUESTS)
            try:
                action(guest)
                soak.runs(guest)
            except Exception as error:
                error.add_note(f"at {action.__name__} on {guest}, seed {SEED}, after {done}")
                raise
            done[action.__name__] = done.get(action.__name__, 0) + 1
            samples.append((use(kernel), use(os.getpid())))
        print(" ".join(f"{name} {count}" for name, count in sorted(done.items())))
        soak.end()
        assert len(samples) >= 9, "there was no time for anything"
        steady("the notebook's kernel", [of_kernel for of_kernel, _ in samples])
        steady("Python with drgn", [own for _, own in samples])


