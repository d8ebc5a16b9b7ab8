"""Output: few messages, not without end, in order."""

import time


def test_small_writes_are_joined(kernel):
    cell = kernel.run("for i in 0..2000 { println!(\"{i}\") }")
    assert cell.stream().splitlines() == [str(i) for i in range(2000)]
    assert len(cell.of("stream")) < 100


def test_output_has_a_bound_and_the_rest_is_in_a_file(kernel):
    cell = kernel.run('for _ in 0..50_000 { println!("{}", "x".repeat(999)) }')
    assert len(cell.stream()) <= 1 << 20
    said = cell.stream("stderr")
    assert f"{50_000_000 - len(cell.stream())} bytes" in said, said
    whole = said.strip().rsplit(" ", 1)[1]
    assert open(whole).read() == ("x" * 999 + "\n") * 50_000


def test_a_flood_is_stopped_with_its_variables(kernel):
    kernel.run("let kept = 7;")
    request = kernel.client.execute('for i in 0u64.. { println!("{i}") }')
    kernel.until(request, lambda message: message["msg_type"] == "stream")
    time.sleep(2)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.reply["ename"] == "Interrupted" and "kept" in cell.reply["evalue"]
    assert kernel.run("kept").value["text/plain"] == "7"


def test_a_flood_of_python_ends_with_its_stop(kernel):
    request = kernel.client.execute('%%drgn\nwhile True: print("y")')
    kernel.until(request, lambda message: message["msg_type"] == "stream")
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert sum(len(part["text"]) for part in cell.of("stream")) < 2 << 20


def test_both_streams_keep_their_order(kernel):
    cell = kernel.run(
        'for i in 0..3 { eprintln!("e{i}"); std::thread::sleep(std::time::Duration::from_millis(20)); println!("o{i}"); '
        "std::thread::sleep(std::time::Duration::from_millis(20)); }"
    )
    assert "".join(part["text"] for part in cell.of("stream")).split() == ["e0", "o0", "e1", "o1", "e2", "o2"]
