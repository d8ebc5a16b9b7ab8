"""Commands: `%` lines in a notebook, the same in a shell, and the cells that `--code` prints, on a live guest."""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from conftest import Kernel

SEARCHES = [
    ["search", "--limit", "3", "klab-agent"],
    ["search", "--physical", "--as", "pointer", "--into", "64", "--limit", "3", "init_task"],
    ["search", "--pid", "1", "--as", "regex", "--limit", "2", "[i]nit"],
]


def looks(klab):
    """Every command that reads, with words that every guest has something to show for."""
    listed = subprocess.run([klab, "readers", "--json"], capture_output=True, text=True, check=True)
    readers = json.loads(listed.stdout)
    assert len(readers) > 60
    # These kernels do not have their configuration in them.
    readers = [reader for reader in readers if reader["command"] != "kconfig"]
    return [[reader["command"], *words] for reader in readers for words in reader["samples"]] + SEARCHES


@pytest.fixture(scope="module")
def guest(klab):
    name = f"commands-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    subprocess.run([klab, "run", name, "--", "modprobe", "veth"], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture(scope="module")
def kernel(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    yield kernel
    kernel.stop()


def test_every_code_is_a_cell_that_runs(kernel, shell, klab):
    for words in looks(klab):
        code = shell(words[0], "--code", *words[1:])
        assert code.returncode == 0, code.stderr
        cell = kernel.run(code.stdout)
        assert cell.error is None, (words, code.stdout, cell.error)
        assert cell.value["text/plain"], words


def test_a_line_and_the_shell_show_the_same(kernel, shell, klab, request):
    request.addfinalizer(lambda: shell("resume"))
    shell("pause")
    for words in looks(klab):
        # A line of these takes C as it is written; other words are quoted as in a shell.
        takes_c = words[0] in ["eval", "list", "type-of"]
        cell = kernel.run("%" + (" ".join(words) if takes_c else shlex.join(words)))
        assert cell.error is None, (words, cell.error)
        shown = cell.value or cell.of("display_data")[0]["data"]
        assert shown["text/plain"].strip() == shell(*words).stdout.strip(), words
        assert json.loads(shell(*words, "--json").stdout) is not None


def completed(kernel, text, behind=""):
    request = kernel.client.complete(text + behind, len(text))
    while (reply := kernel.client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != request:
        pass
    return text[: reply["content"]["cursor_start"]], reply["content"]["matches"]


def test_c_in_strings_is_completed_before_the_first_cell_and_while_one_runs(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        # The Rust session starts meanwhile, and is not asked.
        assert completed(kernel, 'guest.eval("init_task.co', '")?') == ('guest.eval("init_task.', ["comm"])
        assert "linux_banner" in completed(kernel, 'let a = guest.symbol("linux_ba', '")?;')[1]
        assert "task_struct" in completed(kernel, 'guest.type_of("struct task_st')[1]
        assert "struct task_struct" in completed(kernel, '#[derive(Mirror)]\n#[mirror(c = "task_str')[1]
        mirror = '#[mirror(c = "struct task_struct")]\nstruct T { #[mirror(member = "__sta'
        assert completed(kernel, mirror, '")] s: u64 }')[1] == ["__state"]
        chain = 'let task = guest.find_task(1)?;\ntask.member("fs")?.member("um'
        assert completed(kernel, chain)[1] == ["umask"]
        assert "veth" in completed(kernel, 'guest.module("ve')[1]

        def shown(text, behind=""):
            reply = kernel.client.inspect(text + behind, len(text), reply=True, timeout=60)["content"]
            return reply["data"].get("text/plain", "")

        assert "struct list_head *next" in shown('guest.type_of("struct list_he', 'ad")').replace("* next", "*next")
        assert "linux_banner" in shown('guest.symbol("linux_ba', 'nner")') and shown('guest.symbol("linux_ba', 'nner")').startswith("0x")
        request = kernel.client.execute("loop { check_interrupt(); }")
        kernel.until(request, lambda message: message["msg_type"] == "execute_input")
        assert completed(kernel, 'guest.eval("init_task.co')[1] == ["comm"]
        kernel.manager.interrupt_kernel()
        kernel.finish(request)
    finally:
        kernel.stop()


def until(kernel, text, wanted):
    """The guest's answer may come late; it is there for a later question."""
    for _ in range(100):
        found = completed(kernel, text)
        if wanted in found[1]:
            return found
        time.sleep(0.1)
    raise AssertionError((text, found))


def test_shell_cells_are_completed_by_the_guest(kernel, shell, guest, request):
    until(kernel, "%%sh\nunam", "uname")
    before, names = until(kernel, "%%sh\nls -l /etc/../pro", "proc/")
    assert (before, names) == ("%%sh\nls -l /etc/../", ["proc/"])
    assert "cmdline" in until(kernel, "%sh cat /proc/cmd", "cmdline")[1]
    assert completed(kernel, "%%sh\nls --al")[1] == []
    request.addfinalizer(lambda: shell("resume"))
    shell("pause")
    assert completed(kernel, "%%sh\ncat /sys/ker")[1] == []


def test_lines_are_completed_by_what_the_guest_has(kernel):
    def complete(text):
        return completed(kernel, text)

    assert complete("%tas") == ("%", ["task", "task-tree", "tasks"])
    assert "1" in complete("%address-map ")[1]
    assert "comm" in complete("%p init_task.co")[1]
    assert complete("%p init_task.co")[0] == "%p init_task."
    assert "task_struct" in complete("%struct task_st")[1]
    assert "veth" in complete("%module ve")[1]
    assert complete("%slab task_s")[1] == ["task_struct"]


def test_guests_and_their_snapshots_are_completed(kernel, klab, guest):
    snapshot = f"here-{os.getpid()}"
    subprocess.run([klab, "snapshot", "--guest", guest, snapshot], check=True)
    try:
        begun = f"here-{str(os.getpid())[:1]}"
        for line in ("%guest restore ", "%ps --since ", f"%guest snapshot --guest {guest} "):
            assert snapshot in completed(kernel, line + begun)[1], line
        for line in ("%ps --guest ", "%guest reset ", "%guest status ", "%guest snapshot x --guest ", "%sh --guest "):
            assert guest in completed(kernel, line + guest[:1])[1], line
        assert guest not in completed(kernel, "%guest snapshot ")[1]
    finally:
        subprocess.run([klab, "snapshot", "--guest", guest, "--forget", snapshot], check=True)


def test_lines_follow_a_guest_that_is_started_anew(kernel, klab):
    name = f"anew-{os.getpid()}"

    def up(*options):
        subprocess.run([klab, "up", name, *options], check=True)

    def looks():
        said = subprocess.run([klab, "run", name, "--", "uname", "-r"], capture_output=True, text=True).stdout.strip()
        cell = kernel.run(f"%log --guest {name}")
        assert cell.error is None, cell.error
        shown = cell.value or cell.of("display_data")[0]["data"]
        assert f"Linux version {said} " in shown["text/plain"]
        return said

    up()
    first = looks()
    assert kernel.run(f"%guest reset {name}").error is None
    assert looks() == first
    subprocess.run([klab, "down", name], check=True)
    assert "`%guest up " in kernel.run(f"%log --guest {name}").error["evalue"]
    up("--kernel", "6.1")
    assert looks() != first
    subprocess.run([klab, "down", name], check=True)


def test_lines_are_filtered_and_written_to_files(kernel, tmp_path):
    def text(line):
        cell = kernel.run(line)
        assert cell.error is None, cell.error
        return cell.value["text/plain"]

    tasks = text("%ps").splitlines()
    assert text("%ps | head 3").splitlines() == tasks[:3]
    assert [line.split()[0] for line in text("%ps | grep -i KTHREADD").splitlines()] == ["2"]
    assert text("%p 3 > 2 | grep int").strip() == "(int)1"
    assert text("%p 1 | 2").strip() == "(int)3"
    file = tmp_path / "a b.txt"
    assert "(1 lines)" in text(f"%ps | grep kthreadd > '{file}'")
    text(f"%ps | head 1 >> '{file}'")
    assert len(file.read_text().splitlines()) == 2
    assert "behind a `|` stand" in kernel.run("%ps | less").error["evalue"]


def test_a_cell_is_measured(kernel):
    for code in ["%timeit %ps | head 1", "%timeit guest.tasks()?", "%%timeit\nlet n = guest.tasks()?.len();\nn + 1"]:
        cell = kernel.run(code)
        assert cell.error is None, (code, cell.error)
        words = cell.stream().split()
        assert words[0::2][:2] == ["mean", "least"] and words[-1] == "runs" and int(words[-2]) > 1, cell.stream()
        assert cell.value is None
    assert "takes `%` lines or Rust" in kernel.run("%timeit").error["evalue"]
    assert kernel.run("%timeit nosuch(1)").error["ename"] == "E0425"
    assert kernel.run("%timeit %nosuch").error is not None


def test_the_variables_are_listed(kernel):
    kernel.run("let counted: u64 = 7;")
    for line in ["%who", "%whos", "%vars"]:
        assert "counted: u64" in kernel.run(line).value["text/plain"]


def test_ps_has_the_processes_of_proc(shell, guest):
    tasks = {task["pid"]: task["comm"] for task in json.loads(shell("ps", "--json").stdout)}
    assert tasks[1] == "init" and tasks[2] == "kthreadd"
    names = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(cat $p/comm); done"
    listed = shell("run", guest, "--", "sh", "-c", names)
    of_proc = dict(line.split(" ", 1) for line in listed.stdout.splitlines() if " " in line)
    # /proc tells more of a worker's name than its comm holds.
    same = [pid for pid, comm in tasks.items() if of_proc.get(str(pid), "").startswith(comm)]
    # Kernel threads come and go between the two readings.
    assert len(same) > 0.9 * len(tasks)


def test_a_shell_cell_streams_and_fails_as_its_command_does(kernel):
    assert kernel.run("%%sh\necho one; echo two >&2").stream() == "one\n"
    assert "exit code 3" in kernel.run("%%sh\nexit 3").error["evalue"]


def test_what_is_printed_is_read_back(shell, guest):
    for name in ["init_task.comm", "init_task.cpus_mask.bits", "&init_task.tasks", "vfs_read"]:
        expression, value = shell("p", name).stdout.partition(" = ")[::2]
        assert shell("p", expression.strip()).stdout.partition(" = ")[2] == value
    # All frames of all sleepers, assembler's and the compiler's parts of functions among them.
    frames = [line.split(None, 1) for line in shell("stack").stdout.splitlines() if line.startswith("  0x")]
    assert frames
    for at, place in {place: (at, place) for at, place in frames}.values():
        assert shell("sym", place).stdout.split()[0] == at, place


def test_symbols_of_one_name_can_be_chosen(shell, guest):
    told = json.loads(shell("sym", "--json", "name_show").stdout)
    kallsyms = shell("run", guest, "--", "grep", " name_show$", "/proc/kallsyms").stdout.split()[0::3]
    assert sorted(one["at"] for one in told) == sorted(int(at, 16) for at in kallsyms)
    assert len(told) > 1
    for one in told:
        again = json.loads(shell("sym", "--json", one["spelling"]).stdout)
        assert [other["at"] for other in again] == [one["at"]]


def test_a_notebook_has_its_own_words(kernel, guest):
    error = kernel.run(f"%mm 4000000 --guest {guest}").error
    assert "`%tasks` lists those there are" in error["evalue"], error


def test_run_has_the_exit_code_of_its_command(shell, guest):
    ran = shell("run", guest, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "out\n", "err\n")
    ran = shell("run", guest, "--json", "--", "uname", "-s")
    assert json.loads(ran.stdout) == {"exit_code": 0, "stdout": "Linux\n", "stderr": ""}


@pytest.mark.parametrize(
    "words, says",
    [
        (["ps", "--guest", "nosuch"], "`klab up nosuch` starts it"),
        (["down", "nosuch"], "there is no guest `nosuch`"),
        (["sym", "init_tsk"], "did you mean `init_task`?"),
        (["struct", "task_struc"], "did you mean `task_struct`?"),
        (["p", "init_task.com"], "did you mean `comm`?\n  init_task.com\n            ^"),
        (["p", "init_task.mm->"], "a member's name is wanted"),
        (["mm", "4000000"], "there is no task with pid 4000000"),
        (["mm", "2"], "kernel thread"),
        (["module", "nosuch"], "no module `nosuch` is loaded"),
        (["kconfig"], "built without CONFIG_IKCONFIG"),
        (["list", "init_task.pid"], "list_head"),
        (["page", "99999999"], "has no struct page"),
        (["pagecache", "/no/such"], "is not in the dentry cache"),
        (["slab", "task"], "did you mean `"),
        (["search", ""], "the needle is empty"),
        (["search", "--as", "regex", "("], "is no regular expression"),
        (["search", "--as", "bytes", "xyz"], "two hexadecimal digits"),
        (["list", "init_task.tasks", "--of", "task_struct"], "TYPE.MEMBER"),
        (["ps", "--core", "/dev/null"], "ELF core"),
        (["mm", "4000000"], "`klab tasks` lists those there are"),
        (["p", "&name_show"], "vmlinux:name_show@2 ("),
        (["dis", "name_show"], "is the name of several"),
        (["what", "name_show"], "is the name of several"),
        (["sym", "nosuch:schedule"], "no module `nosuch` is loaded"),
        (["struct", "int"], "`int` is built in"),
        (["struct", "long long unsigned int"], "`long long unsigned int` is built in"),
        (["struct", "slab", "kmem_cache"], "did you mean `struct slab`?"),
    ],
)
def test_what_is_wrong_is_said_with_its_cure(shell, words, says):
    ran = shell(*words)
    assert ran.returncode != 0 and says in ran.stderr and not ran.stdout, ran
    assert "panicked" not in ran.stderr


def test_a_walk_that_ends_early_is_shown_and_fails(shell):
    ran = shell("vtop", "0x10")
    assert ran.returncode == 1 and ran.stdout.startswith("LEVEL") and "not mapped" in ran.stdout, ran


def test_a_value_that_cannot_be_read_is_told_and_fails(shell):
    ran = shell("p", "entry_SYSCALL_64_after_hwframe")
    assert ran.returncode == 1 and "is code whose type is not in BTF" in ran.stdout, ran


def test_aliases_are_the_command(shell, request):
    # A worker of the kernel has another work in its name a moment later.
    request.addfinalizer(lambda: shell("resume"))
    shell("pause")
    assert shell("ps").stdout == shell("tasks").stdout
    assert "[alias: ps]" in shell("--help").stdout


def test_a_first_recording_is_json_alone(klab, guest, shell):
    assert shell("kmod", "unload").returncode in (0, 1)
    said = shell("skb", "--json", "ping", "-c", "1", "127.0.0.1")
    assert said.returncode == 0, said.stderr
    paths = json.loads(said.stdout)["paths"]
    assert any("ICMP echo request" in path["packet"] for path in paths)
    assert all(path["stages"] for path in paths)


def until_armed(klab, guest):
    """Waits until a recording runs: ftrace's own list of what is hooked."""
    words = [klab, "run", guest, "--", "cat", "/sys/kernel/tracing/enabled_functions"]
    for _ in range(200):
        if "klab" in subprocess.run(words, capture_output=True, text=True, check=True).stdout:
            return
        time.sleep(0.1)
    raise AssertionError("nothing was hooked")


def test_ctrl_c_shows_what_was_recorded(klab, guest, shell):
    shell("kmod", "load")
    words = ["skb", "--about", "echo request", "sh", "-c", "ping -c 1 127.0.0.1; sleep 1000"]
    env = {**os.environ, "KLAB_GUEST": guest}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([klab, *words], env=env, **pipes) as recording:
        until_armed(klab, guest)
        second = shell("skb", "true")
        assert second.returncode == 1
        assert "another recording runs" in second.stderr and str(recording.pid) in second.stderr
        for _ in range(200):
            if shell("run", guest, "--", "pidof", "sleep").stdout.strip():
                break
            time.sleep(0.1)
        recording.send_signal(signal.SIGINT)
        out, err = recording.communicate(timeout=30)
    assert recording.returncode == 130, err
    assert "127.0.0.1 > 127.0.0.1 ICMP echo request" in out and "packets;" in out, out
    assert "interrupted" in err
    assert "sleep 1000" not in shell("run", guest, "--", "ps").stdout
    assert shell("skb", "true").returncode == 0


def test_an_interrupted_cell_shows_what_was_recorded(klab, guest, kernel):
    request = kernel.client.execute("%skb sh -c 'ping -c 1 127.0.0.1; sleep 1000'")
    until_armed(klab, guest)
    time.sleep(3)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error is None, cell.error
    assert "127.0.0.1 > 127.0.0.1 ICMP echo request" in cell.value["text/plain"]
