"""Crates of `:dep`, and what else once had the library of the cells compiled anew: the process lives, variables stay."""

import pytest


def pid(kernel):
    return kernel.run("std::process::id()").value["text/plain"]


@pytest.mark.parametrize(
    "dep, use, value",
    [
        ('serde_json = "1"', 'serde_json::json!({"a": kept}).to_string()', '"{\\"a\\":5}"'),
        ('itertools = "0.14"', "itertools::Itertools::join(&mut [1, 2].iter(), \"+\")", '"1+2"'),
        # More features of what the library uses too.
        ('regex = "1"', 'regex::Regex::new(r"^\\p{Greek}+$")?.is_match("λ")', "true"),
    ],
)
def test_a_crate_costs_its_own_time_and_no_variable(kernel, dep, use, value):
    kernel.run("let kept = 5;")
    before = pid(kernel)
    cell = kernel.run(f":dep {dep}\n{use}")
    assert cell.error is None and cell.value["text/plain"] == value, cell.published
    assert kernel.run("kept").value["text/plain"] == "5"
    assert pid(kernel) == before
    assert kernel.run(use).value["text/plain"] == value


def test_what_the_library_reads_is_what_a_crate_writes(kernel):
    cell = kernel.run(':dep serde_json = "1"\nserde_json::to_string(&probes::memory::GuestPhys(0x1000)).is_ok()')
    assert cell.error is None and cell.value["text/plain"] == "true", cell.published


def test_a_crate_that_is_not_there_is_an_error_and_nothing_else(kernel):
    kernel.run("let kept = 6;")
    assert kernel.run(':dep no_such_crate_of_klab = "1"\n1').reply["status"] == "error"
    assert kernel.run("kept").value["text/plain"] == "6"


def test_a_level_is_for_the_cell_alone(kernel):
    kernel.run("let kept = 7;")
    before = pid(kernel)
    kernel.run(":opt 0")
    assert kernel.run("kept + 1").value["text/plain"] == "8"
    kernel.run(":opt 2")
    assert pid(kernel) == before


def test_what_would_need_another_library_is_refused(kernel):
    for line in [":toolchain nightly", ":allow_static_linking 0", ':dep probes = "1"']:
        cell = kernel.run(line)
        assert cell.reply["status"] == "error" and line.split()[0] in "".join(cell.error["traceback"])
    assert kernel.run("1 + 1").value["text/plain"] == "2"


def test_an_await_needs_no_runtime(kernel):
    kernel.run("async fn three() -> i32 { 3 }")
    assert kernel.run("three().await").value["text/plain"] == "3"
    assert kernel.run("let seven = async { three().await + 4 }.await;").error is None
    assert kernel.run("seven").value["text/plain"] == "7"
    assert kernel.run(":show_deps").value["text/plain"].count("=") <= 6
    assert "tokio" not in kernel.run(":show_deps").value["text/plain"]
