"""A cell that reads its stdin: the end of the file where nobody can answer, an input field where somebody can."""

READ = "let mut line = String::new(); let read = std::io::stdin().read_line(&mut line)?; (read, line)"


def test_nobody_answers_a_cell_that_may_not_ask(kernel):
    kernel.run("let kept = 7;")
    for _ in range(2):
        cell = kernel.run(READ, allow_stdin=False)
        assert cell.value["text/plain"] == '(0, "")', cell.published
    assert kernel.run("kept").value["text/plain"] == "7"


def test_the_user_is_asked(kernel):
    request = kernel.client.execute(READ, allow_stdin=True)
    asked = kernel.client.get_stdin_msg(timeout=30)
    assert asked["msg_type"] == "input_request"
    kernel.client.input("guest")
    cell = kernel.finish(request)
    assert cell.value["text/plain"] == '(6, "guest\\n")', cell.published
    assert kernel.run("kept").value["text/plain"] == "7"


def test_a_cell_that_waits_for_its_user_is_stopped(kernel):
    request = kernel.client.execute(READ, allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=30)
    kernel.manager.interrupt_kernel()
    assert kernel.finish(request).reply["status"] in ("ok", "error")
    assert kernel.run("kept").value["text/plain"] == "7"
