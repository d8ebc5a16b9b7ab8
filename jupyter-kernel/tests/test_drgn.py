"""`%%drgn` cells: values, streams, errors, interrupts, deaths, and the way to and from Rust cells."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import Kernel


@pytest.fixture(scope="module")
def guest(klab):
    name = f"drgn-cells-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture(scope="module")
def kernel(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    yield kernel
    kernel.stop()


def drgn(kernel, code, **options):
    return kernel.run("%%drgn\n" + code, **options)


def test_objects_are_shown_in_c(kernel):
    cell = drgn(kernel, "find_task(1).comm")
    assert cell.error is None, cell.error
    assert cell.value["text/plain"].strip() == '(char [16])"init"'
    assert "struct list_head {" in drgn(kernel, 'prog.type("struct list_head")').value["text/plain"]


def test_variables_stay_and_output_streams(kernel, tmp_path):
    drgn(kernel, "seen = 41")
    cell = drgn(kernel, "print('before')\nseen + 1")
    assert cell.stream() == "before\n" and cell.value["text/plain"].strip() == "42"
    seen = tmp_path / "seen"
    wait = f"while not os.path.exists({str(seen)!r}): time.sleep(0.05)"
    request = kernel.client.execute(f"%%drgn\nimport os, time\nprint('first')\n{wait}\nprint('second')")
    # It goes on once this was seen.
    kernel.until(request, lambda message: message["msg_type"] == "stream")
    seen.touch()
    kernel.finish(request)


def test_drgns_own_commands(kernel):
    cell = drgn(kernel, "%crash ps 1")
    assert cell.error is None and "init" in cell.stream(), cell.published


def test_bpf_is_the_same_for_both(kernel):
    cell = kernel.run("guest.agent()?.workload(WorkloadKind::Bpf)?;")
    assert cell.error is None, cell.error
    said = json.loads(kernel.run("%bpf --json").value["text/plain"])
    cell = drgn(
        kernel,
        """
import json
print(json.dumps([
    [[p.aux.id.value_(), p.value_(), p.aux.name.string_().decode(), p.len.value_(), [m.id.value_() for m in bpf_prog_used_maps(p)]]
     for p in bpf_prog_for_each()],
    [[m.id.value_(), m.value_(), m.name.string_().decode(), m.key_size.value_(), m.max_entries.value_()] for m in bpf_map_for_each()],
    [[link.id.value_(), link.value_(), link.prog.aux.id.value_()] for link in bpf_link_for_each()],
]))""",
    )
    programs = [[p["id"], p["at"], p["name"], p["len"], p["maps"]] for p in said["programs"]]
    maps = [[m["id"], m["at"], m["name"], m["key_size"], m["max_entries"]] for m in said["maps"]]
    links = [[link["id"], link["at"], link["program"]] for link in said["links"]]
    assert json.loads(cell.stream()) == [programs, maps, links], cell.published
    assert [len(programs), len(maps), len(links)] == [2, 2, 1]


def test_exceptions_are_errors_of_the_cell(kernel):
    cell = drgn(kernel, "def f():\n    return find_task(1).no_such\nf()")
    assert cell.error["ename"] == "AttributeError" and "no_such" in cell.error["evalue"]
    text = "\n".join(cell.error["traceback"])
    assert "return find_task(1).no_such" in text and "worker.py" not in text
    assert drgn(kernel, "1 +").error["ename"] == "SyntaxError"
    assert drgn(kernel, "prog.read(0xfffff00000000000, 8)").error["ename"] == "FaultError"
    assert drgn(kernel, "raise SystemExit").error["ename"] == "SystemExit"
    assert drgn(kernel, "seen").value["text/plain"].strip() == "41"


def test_an_interrupt_keeps_the_variables(kernel):
    request = kernel.client.execute("%%drgn\nprint('runs')\nwhile True: pass")
    kernel.until(request, lambda message: message["msg_type"] == "stream")
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error["ename"] == "Interrupted", cell.error
    assert drgn(kernel, "seen").value["text/plain"].strip() == "41"


def test_names_are_completed(kernel):
    drgn(kernel, "pass")
    code = "%%drgn\nfor_each_tas"
    request = kernel.client.complete(code, len(code))
    while True:
        reply = kernel.client.get_shell_msg(timeout=30)
        if reply["parent_header"].get("msg_id") == request:
            break
    assert "for_each_task" in reply["content"]["matches"]
    assert reply["content"]["cursor_start"] == len("%%drgn\n")


def test_rust_and_drgn_share_objects(kernel):
    cell = kernel.run('guest.drgn()?.eval("[t.pid for t in for_each_task()][:2]")?')
    assert cell.error is None, cell.error
    assert "1" in cell.value["text/plain"] and "2" in cell.value["text/plain"]
    cell = kernel.run('let init = guest.task(1)?;\nguest.drgn()?.set("init", &guest.at("struct task_struct", init.at)?)?;')
    assert cell.error is None, cell.error
    assert '"init"' in drgn(kernel, "init.comm").value["text/plain"]
    cell = kernel.run('guest.drgn()?.object("find_task(2)")?.member("comm")?.string()?')
    assert cell.error is None and "kthreadd" in cell.value["text/plain"], cell.error
    cell = kernel.run('guest.drgn()?.eval("1/0")?')
    assert "ZeroDivisionError" in cell.error["evalue"]


def test_an_interrupt_of_a_rust_cell_reaches_drgn(kernel):
    kernel.run("let kept = 5;")
    request = kernel.client.execute("println!(\"runs\"); guest.drgn()?.eval(\"__import__('time').sleep(6000)\")?")
    kernel.until(request, lambda message: message["msg_type"] == "stream")
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error["ename"] == "Interrupted", cell.error
    assert kernel.run("kept").value["text/plain"].strip() == "5"
    assert drgn(kernel, "seen").value["text/plain"].strip() == "41"


def test_a_reset_is_noticed(klab, kernel, guest):
    subprocess.run([klab, "reset", guest], check=True)
    cell = drgn(kernel, "find_task(1).comm")
    assert cell.error is None and "was reset" in cell.stream("stderr")


def test_its_death_is_one_sentence_and_it_is_started_again(kernel):
    pid = int(drgn(kernel, "import os\nos.getpid()").value["text/plain"])
    os.kill(pid, signal.SIGKILL)
    cell = drgn(kernel, "1")
    assert "the process of drgn died" in cell.error["evalue"] and "\n" not in cell.error["evalue"]
    assert drgn(kernel, "find_task(1).comm").error is None
    cell = drgn(kernel, "import ctypes\nctypes.string_at(0)")
    assert "Segmentation fault" in cell.error["evalue"], cell.error
    assert drgn(kernel, "1").error is None
    assert kernel.run("1 + 1").value["text/plain"].strip() == "2"
