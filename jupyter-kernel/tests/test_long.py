"""A long session: 500 cells of all kinds. No variable is lost, no cell's text shows in another, and memory stays bounded.

How long cells take at its end, beside its beginning, is printed: `pytest -s`.
"""

import os
import re
import statistics
import time

from conftest import Kernel, children

CELLS = 500
#: How much the kernel's three processes may hold of their own at the end more than after a fifth of it, in kB.
GROWTH = 96 << 10


def memory(pid):
    """What a process and those that it started have of their own, in kB."""
    try:
        status = open(f"/proc/{pid}/status").read()
    except OSError:
        # A compiler that has just ended.
        return 0
    own = re.search(r"^RssAnon:\s+(\d+)", status, re.M)
    return int(own[1] if own else 0) + sum(memory(child) for child, _ in children(pid))


def shown(cell):
    assert cell.error is None, cell.error
    return cell.value["text/plain"] if cell.value else cell.stream()


class Session:
    def __init__(self, kernel):
        self.kernel = kernel
        self.kept = {}
        self.took = {}

    def run(self, kind, code):
        began = time.monotonic()
        cell = self.kernel.run(code)
        self.took.setdefault(kind, []).append(time.monotonic() - began)
        return cell

    # Each kind of cell, by its number, which makes its text a new one.

    def expression(self, i):
        assert shown(self.run("expression", f"{i} + 1_000_000")) == str(i + 1_000_000)

    def reader(self, i):
        assert int(shown(self.run("reader", f"guest.tasks()?.len() * 1000 + {i}"))) % 1000 == i

    def variable(self, i):
        shown(self.run("let", f"let mut kept_{i} = vec![{i}u64; 3];"))
        self.kept[i] = f"[{i}, {i}, {i}]"

    def changed(self, i):
        old = next(iter(self.kept), None)
        if old is not None:
            value = self.run("changed", f"kept_{old}[0] += {i}; kept_{old}.clone()")
            first = int(self.kept[old].strip("[]").split(",")[0]) + i
            self.kept[old] = f"[{first}, {old}, {old}]"
            assert shown(value) == self.kept[old]

    def line(self, i):
        assert f"{i}" in shown(self.run("%", f"%p {i} + 0"))

    def answered(self, i):
        assert "PID" in shown(self.run("reader alone", "guest.tasks()?"))

    def item(self, i):
        shown(self.run("item", f"fn item_{i}(x: u64) -> u64 {{ x + {i} }}"))
        assert shown(self.run("expression", f"item_{i}(1)")) == str(i + 1)

    def printed(self, i):
        assert self.run("print", f'println!("cell {i}");').stream() == f"cell {i}\n"

    def shell(self, i):
        assert shown(self.run("%%sh", f"%%sh\necho in {i}")).strip() == f"in {i}"

    def wrong(self, i):
        cell = self.run("does not compile", f"let wrong: u8 = nothing_{i};")
        assert f"nothing_{i}" in cell.error["evalue"], cell.error

    def panics(self, i):
        cell = self.run("panic", f'panic!("at {i}")')
        assert f"at {i}" in cell.error["evalue"], cell.error


def test_five_hundred_cells_lose_nothing(guest, capsys):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        session = Session(kernel)
        shown(kernel.run("1"))
        kinds = [
            session.expression, session.reader, session.variable, session.line, session.printed, session.answered,
            session.changed, session.item, session.shell, session.wrong, session.variable, session.expression, session.panics,
        ]
        after_a_fifth = None
        for i in range(CELLS):
            kinds[i % len(kinds)](i)
            if i == CELLS // 5:
                after_a_fifth = memory(kernel.manager.provisioner.pid)
        for i, value in session.kept.items():
            assert shown(kernel.run(f"kept_{i}")) == value
        at_the_end = memory(kernel.manager.provisioner.pid)
    finally:
        kernel.stop()
    with capsys.disabled():
        print(f"\nmemory after {CELLS // 5} cells {after_a_fifth >> 10} MiB, at the end {at_the_end >> 10} MiB")
        for kind, took in session.took.items():
            part = max(1, len(took) // 5)
            first, last = (1000 * statistics.median(some) for some in (took[:part], took[-part:]))
            print(f"{kind:18} first fifth {first:6.1f} ms, last fifth {last:6.1f} ms")
    assert at_the_end - after_a_fifth < GROWTH, (after_a_fifth, at_the_end)


def test_types_of_the_same_name_in_two_cells_are_two(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    mirror = '#[derive(Mirror)] #[mirror(c = "struct task_struct")] struct T { #[mirror(member = "%s")] n: i32 }'
    load = "guest.load::<T>(guest.task(2)?.at)?.n"
    try:
        # Within a cell, and for all that follow.
        for cell in ("{ %s %s }", "%s\n%s"):
            for member, value in (("pid", "2"), ("prio", "120"), ("pid", "2")):
                assert shown(kernel.run(cell % (mirror % member, load))) == value, (cell, member)
        # What one cell kept is no type of another's.
        shown(kernel.run("let kept: Box<dyn std::any::Any> = { struct L(u64); Box::new(L(7)) };"))
        assert shown(kernel.run("{ struct L([u8; 64]); kept.downcast_ref::<L>().is_none() }")) == "true"
    finally:
        kernel.stop()
