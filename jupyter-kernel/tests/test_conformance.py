"""What runtimed's testbed asks of a kernel, tier by tier, in klab's own words and with the right answers; and comms and subshells beyond it."""

import queue
import time
import uuid

import pytest
from conftest import KERNEL, REPLY, START, said
from jupyter_client.manager import start_new_kernel


def ask(kernel, channel, kind, content):
    """The reply to a request on a channel."""
    client = kernel.client
    message = client.session.msg(kind, content)
    getattr(client, f"{channel}_channel").send(message)
    wait = client.get_shell_msg if channel == "shell" else client.get_control_msg
    while True:
        reply = wait(timeout=REPLY)
        if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
            assert reply["msg_type"] == kind.replace("_request", "_reply")
            return reply["content"]


# Tier 1


def test_the_heart_beats(kernel):
    kernel.client.hb_channel.unpause()
    time.sleep(1.2)
    assert kernel.client.hb_channel.is_beating()


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_is_whole(kernel, channel):
    info = ask(kernel, channel, "kernel_info_request", {})
    assert info["status"] == "ok" and info["implementation"] == "klab"
    assert [int(part) for part in info["protocol_version"].split(".")] >= [5, 5]
    language = info["language_info"]
    assert (language["name"], language["file_extension"]) == ("rust", ".rs") and language["version"]
    assert set(info["supported_features"]) == {"debugger", "kernel subshells"}


@pytest.mark.parametrize("code, name", [('println!("hello");', "stdout"), ('eprintln!("hello");', "stderr"), ("%%sh\necho hello", "stdout")])
def test_text_goes_to_its_stream(kernel, code, name):
    cell = kernel.run(code)
    assert cell.reply["status"] == "ok"
    if code.startswith("%%sh"):
        assert "hello" in (cell.stream(name) + str(cell.value))
    else:
        assert cell.stream(name) == "hello\n"


def test_a_cell_is_busy_input_idle_and_all_of_it_names_its_request(kernel):
    request = kernel.client.execute("1 + 1")
    cell = kernel.finish(request)
    kinds = [(m["msg_type"], m["content"].get("execution_state")) for m in cell.published]
    assert kinds[0] == ("status", "busy") and kinds[-1] == ("status", "idle")
    assert kinds[1] == ("execute_input", None)
    assert cell.of("execute_input")[0] == {"code": "1 + 1", "execution_count": cell.reply["execution_count"]}
    assert {m["parent_header"]["msg_id"] for m in cell.published} == {request}
    assert cell.reply["status"] == "ok" and cell.reply["user_expressions"] == {}


# Tier 2


def test_completion_replaces_what_stands_there(kernel):
    kernel.run("let conformance_name = 42;")
    reply = ask(kernel, "shell", "complete_request", {"code": "conformance_na", "cursor_pos": 14})
    assert reply["status"] == "ok" and "conformance_name" in reply["matches"]
    assert (reply["cursor_start"], reply["cursor_end"]) == (0, 14)


def test_inspection_says_what_is_found(kernel):
    for code, found in [("%tasks", True), ("nothing_of_this_name", False)]:
        reply = ask(kernel, "shell", "inspect_request", {"code": code, "cursor_pos": len(code), "detail_level": 0})
        assert reply["status"] == "ok" and reply["found"] is found
        assert bool(reply["data"].get("text/plain")) is found


@pytest.mark.parametrize("code, status", [("1 + 1", "complete"), ("fn f() {", "incomplete"), ("fn f() }", "invalid"), ("%tasks", "complete")])
def test_completeness(kernel, code, status):
    assert ask(kernel, "shell", "is_complete_request", {"code": code})["status"] == status


def test_the_history_has_the_last_cells(kernel):
    kernel.run('"remembered"')
    tail = {"hist_access_type": "tail", "n": 10, "output": False, "raw": True}
    reply = ask(kernel, "shell", "history_request", tail)
    assert reply["status"] == "ok" and reply["history"][-1][2] == '"remembered"'


@pytest.mark.parametrize("code", ["let x = = 1;", "panic!()", "%nosuch", "%%drgn\n1 +"])
def test_an_error_is_replied_and_published(kernel, code):
    cell = kernel.run(code)
    assert cell.reply["status"] == "error"
    assert cell.error == {name: cell.reply[name] for name in ("ename", "evalue", "traceback")}
    assert cell.value is None


# Tier 3


def test_displays_values_and_their_updates(kernel):
    shown = kernel.run('let shown = display(probes::cell::Bundle::text("one")); shown.update(probes::cell::Bundle::text("two"));')
    (first,), (second,) = shown.of("display_data"), shown.of("update_display_data")
    assert (first["data"], second["data"]) == ({"text/plain": "one"}, {"text/plain": "two"})
    assert first["transient"]["display_id"] == second["transient"]["display_id"]
    assert kernel.run("6 * 7").value == {"text/plain": "42"}
    assert set(kernel.run("%help tasks").value) >= {"text/plain"}
    rich = kernel.run("guest.tasks()?").value
    assert "<table" in rich["text/html"] and "init" in rich["text/plain"]


# Tier 4


def test_a_cell_asks_for_a_line(kernel):
    request = kernel.client.execute("let mut line = String::new(); std::io::stdin().read_line(&mut line)?; line", allow_stdin=True)
    asked = kernel.client.get_stdin_msg(timeout=REPLY)
    assert asked["msg_type"] == "input_request" and asked["parent_header"]["msg_id"] == request
    kernel.client.input("test_input_42")
    assert "test_input_42" in kernel.finish(request).value["text/plain"]


def test_an_interrupt_is_answered_between_cells(kernel):
    assert ask(kernel, "control", "interrupt_request", {})["status"] == "ok"
    assert kernel.run("1").reply["status"] == "ok"


def test_counts_go_on(kernel):
    first, second = (kernel.run("1").reply["execution_count"] for _ in range(2))
    assert second == first + 1


def test_a_shutdown_is_answered_and_ends_the_kernel():
    manager, client = start_new_kernel(START, kernel_name=KERNEL)
    message = client.session.msg("shutdown_request", {"restart": False})
    client.control_channel.send(message)
    reply = client.get_control_msg(timeout=REPLY)["content"]
    assert (reply["status"], reply["restart"]) == ("ok", False)
    deadline = time.monotonic() + 10
    while manager.provisioner.process.poll() is None:
        assert time.monotonic() < deadline, "the kernel goes on"
        time.sleep(0.05)
    client.stop_channels()
    manager.cleanup_resources()


# Comms


@pytest.fixture
def comm(kernel):
    name = str(uuid.uuid4())
    assert said(kernel, "comm_open", {"comm_id": name, "target_name": "klab", "data": {}}) == []
    yield name
    said(kernel, "comm_close", {"comm_id": name, "data": {}})
    assert name not in ask(kernel, "shell", "comm_info_request", {})["comms"]


def test_a_comm_lives_until_it_is_closed(kernel, comm):
    reply = ask(kernel, "shell", "comm_info_request", {"target_name": "klab"})
    assert reply["status"] == "ok" and reply["comms"][comm] == {"target_name": "klab"}
    assert comm not in ask(kernel, "shell", "comm_info_request", {"target_name": "other"})["comms"]


def test_a_comm_to_nobody_is_closed(kernel):
    (answer,) = said(kernel, "comm_open", {"comm_id": "nobodys", "target_name": "jupyter.widget", "data": {}})
    assert (answer["msg_type"], answer["content"]["comm_id"]) == ("comm_close", "nobodys")


def what(kernel, comm, **data):
    (answer,) = said(kernel, "comm_msg", {"comm_id": comm, "data": data})
    assert (answer["msg_type"], answer["content"]["comm_id"]) == ("comm_msg", comm)
    return answer["content"]["data"]


def test_an_address_is_looked_up_where_its_view_came_from(kernel, comm):
    address = kernel.run("%p &init_task").value["text/plain"].split()[-1]
    address = address[address.index("0xffff") :]
    answer = what(kernel, comm, id=1, what=address, cell="%tasks")
    assert answer["id"] == 1 and "init_task" in answer["text"] and "<table" in answer["html"]
    assert answer["source"].startswith("--guest ")
    elsewhere = what(kernel, comm, id=2, what=address, cell="%tasks --guest nosuch-guest")
    assert elsewhere["source"] == "--guest nosuch-guest" and "nosuch-guest" in elsewhere["error"]
    assert "no address" in what(kernel, comm, id=3, what="1; rm -rf /", cell="")["error"]


# Subshells


def send(kernel, subshell, code):
    message = kernel.client.session.msg(
        "execute_request",
        {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True},
    )
    message["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(message)
    return message["header"]["msg_id"]


@pytest.fixture
def subshell(kernel):
    made = ask(kernel, "control", "create_subshell_request", {})
    assert made["status"] == "ok"
    yield made["subshell_id"]
    named = {"subshell_id": made["subshell_id"]}
    assert ask(kernel, "control", "delete_subshell_request", named)["status"] == "ok"
    assert ask(kernel, "control", "delete_subshell_request", named)["status"] == "error"


LIVE = 'watch(std::time::Duration::from_millis(100), || guest.eval("jiffies_64"))?'


def test_others_are_asked_while_a_view_lives(kernel, subshell):
    kernel.run("let kept = 5;")
    live = kernel.client.execute(LIVE)
    kernel.until(live, lambda message: message["msg_type"] == "update_display_data")
    for code in ["%tasks", "guest.tasks()?", "%%sh\necho hello", "%%drgn\nprog['init_task'].comm"]:
        cell = kernel.finish(send(kernel, subshell, code))
        assert cell.reply["status"] == "ok", code
        assert cell.value or cell.stream(), code
    kernel.until(live, lambda message: message["msg_type"] == "update_display_data")
    # Rust that is compiled has one process, where the view is.
    waits = send(kernel, subshell, "kept + 1")
    told = kernel.until(waits, lambda message: message["msg_type"] == "stream")
    assert "another cell of Rust runs" in told["content"]["text"]
    with pytest.raises(queue.Empty):
        kernel.client.get_shell_msg(timeout=0.5)
    ask(kernel, "control", "interrupt_request", {})
    replies = {}
    while len(replies) < 2:
        reply = kernel.client.get_shell_msg(timeout=REPLY)
        replies[reply["parent_header"]["msg_id"]] = reply["content"]
    assert replies[live]["ename"] == replies[waits]["ename"] == "Interrupted"
    assert kernel.run("kept").value["text/plain"] == "5"


def test_a_rust_cell_of_a_subshell_has_its_turn(kernel, subshell):
    own = kernel.client.execute('println!("runs"); std::thread::sleep(std::time::Duration::from_secs(2)); let slept = 7;')
    kernel.until(own, lambda message: message["msg_type"] == "stream")
    other = send(kernel, subshell, "let other = 8;")
    replies = {}
    while len(replies) < 2:
        reply = kernel.client.get_shell_msg(timeout=REPLY)
        replies[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
    assert replies == {own: "ok", other: "ok"} and list(replies) == [own, other]
    assert kernel.run("slept + other").value["text/plain"] == "15"
