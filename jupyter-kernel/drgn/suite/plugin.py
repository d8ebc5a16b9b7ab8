"""A plugin of the pytest that runs drgn's own tests: they get a program of ours, and what came of each is written down.

KLAB_SUITE_GUEST names a guest that klab reads, or KLAB_SUITE_CORE a dump that drgn reads by itself; KLAB_SUITE_FILES the
files with DWARF that are loaded, KLAB_SUITE_OUT the file that is written.
"""

import json
import os

OUTCOMES = {}


def program():
    import drgn

    import klab

    if core := os.environ.get("KLAB_SUITE_CORE"):
        prog = drgn.Program()
        prog.set_core_dump(core)
    else:
        prog = klab.program(os.environ["KLAB_SUITE_GUEST"])
    prog.load_debug_info(os.environ["KLAB_SUITE_FILES"].split(":"))
    return prog


def pytest_sessionstart(session):
    from tests.linux_kernel import LinuxKernelTestCase

    LinuxKernelTestCase.prog = program()


def pytest_runtest_logreport(report):
    """A test that failed in any of its parts failed; a subtest is a part of its test."""
    if report.failed:
        text = str(report.longrepr).rstrip().splitlines()
        OUTCOMES[report.nodeid] = ["failed", text[-1] if text else ""]
    elif report.skipped:
        OUTCOMES.setdefault(report.nodeid, ["skipped", str(report.longrepr)])
    elif report.when == "call":
        OUTCOMES.setdefault(report.nodeid, ["passed", ""])


def pytest_sessionfinish(session):
    with open(os.environ["KLAB_SUITE_OUT"], "w") as file:
        json.dump(OUTCOMES, file)
