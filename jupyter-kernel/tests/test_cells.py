"""Cells: values, output while they run, and failures that count as failures."""

import time

from conftest import Kernel


def test_a_value_and_its_count(kernel):
    first = kernel.run("1 + 1")
    assert first.value["text/plain"] == "2"
    assert first.reply["status"] == "ok"
    second = kernel.run("let x = 40;\nx + 2")
    assert second.value["text/plain"] == "42"
    assert second.reply["execution_count"] == first.reply["execution_count"] + 1
    assert second.of("execute_input")[0]["execution_count"] == second.reply["execution_count"]


def test_unit_shows_nothing(kernel):
    assert kernel.run("()").value is None
    assert kernel.run("let y = 1;").value is None


def test_types_of_variables_are_inferred(kernel):
    assert kernel.run("let v = vec![1, 2].into_iter().map(|x| x as f64 / 2.0).collect::<Vec<_>>();").error is None
    assert kernel.run("v").value["text/plain"] == "[0.5, 1.0]"
    assert kernel.run("v.len()").value["text/plain"] == "2"


def test_a_cell_without_history_has_no_count(kernel):
    before = kernel.run("1").reply["execution_count"]
    silent = kernel.run("2", silent=True)
    assert silent.reply["execution_count"] == before
    assert not silent.of("execute_input") and silent.value is None
    assert kernel.run("3", store_history=False).reply["execution_count"] == before
    assert kernel.run("4").reply["execution_count"] == before + 1


def test_user_expressions(kernel):
    cell = kernel.run("let seven = 7;", user_expressions={"a": "seven + 1", "b": "nothing"})
    expressions = cell.reply["user_expressions"]
    assert expressions["a"]["data"]["text/plain"] == "8"
    assert expressions["b"]["status"] == "error" and expressions["b"]["ename"] == "E0425"


def test_output_comes_while_the_cell_runs(kernel):
    request = kernel.client.execute(
        'println!("early"); std::thread::sleep(std::time::Duration::from_secs(2)); println!("late");'
    )
    kernel.until(request, lambda m: m["msg_type"] == "stream" and "early" in m["content"]["text"])
    early = time.monotonic()
    rest = kernel.finish(request)
    assert "late" in rest.stream()
    assert time.monotonic() - early > 1


def test_output_without_a_newline_neither_hangs_nor_is_lost(kernel):
    cell = kernel.run('print!("half"); use std::io::Write; std::io::stdout().flush().unwrap();')
    assert cell.stream() == "half"
    assert kernel.run('print!("not flushed");').stream() == "not flushed"
    assert kernel.run('eprint!("error");').stream("stderr") == "error"


def test_output_keeps_its_place_among_displays(kernel):
    cell = kernel.run('println!("1"); let shown = display(probes::cell::Bundle::text("2")); println!("3");')
    kinds = [m["msg_type"] for m in cell.published if m["msg_type"] in ("stream", "display_data")]
    assert kinds == ["stream", "display_data", "stream"]


def test_a_display_is_updated_in_place(kernel):
    cell = kernel.run('{ let mut bar = Progress::new("pages", 3); for page in 0..3 { bar.set(page + 1); } }')
    first = cell.of("display_data")[0]
    last = cell.of("update_display_data")[-1]
    assert first["transient"]["display_id"] == last["transient"]["display_id"]
    assert "0/3" in first["data"]["text/plain"] and "3/3" in last["data"]["text/plain"]


def test_a_view_shows_its_faces(kernel):
    kernel.run(
        """
        #[derive(Debug)] pub struct Ring(u32);
        impl View for Ring {
            fn text(&self) -> String { format!("ring of {}", self.0) }
            fn svg(&self) -> Option<String> { Some("<svg xmlns='http://www.w3.org/2000/svg'/>".to_owned()) }
        }
        impl Ring { pub fn evcxr_display(&self) { probes::cell::show_view(self) } }
        """
    )
    value = kernel.run("Ring(3)").value
    assert value["text/plain"] == "ring of 3" and value["image/svg+xml"].startswith("<svg")
    assert kernel.run("Ok::<Ring, String>(Ring(4))").value["text/plain"] == "ring of 4"


def fails(cell, ename, *texts):
    assert cell.reply["status"] == "error", cell.published
    assert cell.reply["ename"] == cell.error["ename"] == ename
    whole = "\n".join([cell.error["evalue"], *cell.error["traceback"]])
    for text in texts:
        assert text in whole, whole


def test_a_panic_is_an_error_at_its_line(kernel):
    kernel.run("let kept = 5;")
    fails(kernel.run('let a = 1;\npanic!("no {a}");'), "Panic", "no 1", "cell:2")
    fails(kernel.run("\n\nassert_eq!(kept, 6);"), "Panic", "left: 5", "cell:3")
    assert kernel.run("kept").value["text/plain"] == "5"


def test_a_panic_that_was_caught_is_no_error(kernel):
    cell = kernel.run('std::panic::catch_unwind(|| panic!("caught")).is_err()')
    assert cell.reply["status"] == "ok" and cell.value["text/plain"] == "true"


def test_a_question_mark_is_an_error(kernel):
    fails(kernel.run('let n: i32 = "x".parse::<i32>()?;'), "Error", "invalid digit")
    fails(kernel.run('println!("before"); Err(std::io::Error::other("disk"))?;'), "Error", "disk")


def test_a_value_that_is_an_error_is_an_error(kernel):
    fails(kernel.run('"x".parse::<i32>()'), "Error", "InvalidDigit")
    assert kernel.run('"7".parse::<i32>()').value["text/plain"] == "Ok(7)"


def test_what_does_not_compile_is_shown_where_it_stands(kernel):
    cell = kernel.run('let fine = 1;\nlet wrong: u64 = "text";')
    fails(cell, "E0308", "cell:2", "^^^^^^")
    fails(kernel.run("no_such_name"), "E0425", "no_such_name", "^^^^")
    fails(kernel.run("let é = ü;"), "E0425", "ü", "^")


def test_a_failure_aborts_the_cells_that_wait(kernel):
    first = kernel.client.execute('panic!("stop")')
    second = kernel.client.execute("1")
    assert kernel.finish(first).reply["status"] == "error"
    assert kernel.finish(second).reply["status"] == "aborted"
    first = kernel.client.execute('panic!("go on")', stop_on_error=False)
    second = kernel.client.execute("1")
    assert kernel.finish(first).reply["status"] == "error"
    assert kernel.finish(second).reply["status"] == "ok"


def test_a_cell_asks_its_user(kernel):
    cell = kernel.run("%help")
    assert "%help" in cell.value["text/plain"]
    fails(kernel.run("%no_such_command"), "Error", "%help")


def test_half_a_cell_is_an_error_with_its_place(kernel):
    for code, text in [
        ('}\nprintln!("after")', "unexpected closing delimiter"),
        ("/* open", "not closed"),
        ("let", "pattern"),
        ("let x = (1;", "not closed"),
    ]:
        cell = kernel.run(code)
        fails(cell, "CompileError", text, "cell:1")
        assert not cell.stream()


def test_no_inner_name_is_seen(kernel):
    for code in ["let z", "let z = 5 let", "let a = std::"]:
        cell = kernel.run(code)
        assert cell.reply["status"] == "error" and "evcxr" not in "".join(cell.error["traceback"]), cell.error


def test_a_lint_of_an_earlier_cell_heads_no_error(kernel):
    kernel.run("macro_rules! never_used { ($p:expr) => { $p } }")
    cell = kernel.run("no_such_name")
    fails(cell, "E0425", "no_such_name")
    assert "unused" not in "".join(cell.error["traceback"])


def test_a_loop_has_no_value(kernel):
    kernel.run("let moved = vec![1, 2];")
    cell = kernel.run('for x in moved { println!("{x}") }')
    assert cell.error is None and cell.stream() == "1\n2\n" and cell.value is None


def test_help_is_not_taken_for_the_error(kernel):
    fails(kernel.run("exit"), "E0425", "cannot find value `exit`", "^^^^")
    cell = kernel.run("use rand::Rng;")
    fails(cell, "E0432", "rand", ":dep rand", "^^^^")
    assert "cargo add" not in "".join(cell.error["traceback"])
    assert kernel.run("1 + 1").value["text/plain"] == "2"


def test_lines_are_what_people_mean(kernel):
    for line in ["  %help", "klab tasks --help", "$ klab tasks --help", "%help tasks", "?tasks", "%tasks?"]:
        cell = kernel.run(line)
        assert cell.error is None and "tasks" in cell.value["text/plain"], line
    cell = kernel.run("%time 20 + 22")
    assert cell.value["text/plain"] == "42" and "wall time" in cell.stream()


def test_words_of_other_languages_name_their_cell(kernel):
    def said(code):
        error = kernel.run(code).error
        assert error is not None, code
        return "\n".join(error["traceback"])

    for code in ["prog.stack_trace(find_task(2))", "for task in for_each_task(prog):\n    print(task.pid)"]:
        assert "begin the cell with `%%drgn`" in said(code)
    assert "this is Python" in said("import os")
    assert "`%sh ls` runs it in the guest" in said("ls")
    assert "`%ps` is the command" in said("ps")
    assert ":dep rand" in said("use rand::Rng;")
    assert "a cell ends by itself" in said("exit") and "cannot find value `exit`" in said("exit")
    assert "keep the value itself" in said("let kept = &String::from(\"x\");")
    assert "collect it" in said("let it = vec![1].into_iter().filter(|x| *x > 0);")
    assert "Box<dyn Fn" in said("let f = |a: i32| a + 1;")


def test_the_cure_of_no_guest_is_the_notebooks():
    kernel = Kernel(env={"KLAB_GUEST": "nosuch"})
    try:
        for code in ["guest.tasks()?", "%ps", "%%drgn\nprog", "%%sh\nls"]:
            error = kernel.run(code).error
            assert "`%guest up nosuch`" in error["evalue"], error
            assert "`klab up" not in "\n".join(error["traceback"]), error
    finally:
        kernel.stop()


def test_what_begins_anew_and_what_stands_below_is_said(kernel):
    atomic = "std::sync::atomic::AtomicU64"
    cell = kernel.run(f"static COUNTED: {atomic} = {atomic}::new(0);")
    assert cell.error is None and "`COUNTED` begins anew" in cell.stream("stderr")
    cell = kernel.run("thread_local! { static T: u32 = const { 41 } }\nT.with(|t| *t + 1)")
    assert cell.error is None and cell.value["text/plain"] == "42", cell.published
    assert "at the top of a cell" in "\n".join(kernel.run("let below = 1;\n%ps").error["traceback"])
