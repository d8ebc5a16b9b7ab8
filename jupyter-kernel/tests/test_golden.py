"""What every reading command shows on a small dump is what it showed when that was last accepted.

`KLAB_ACCEPT=1` accepts what is shown now: read the difference before it is committed. golden/make.py makes the dumps.
"""

import json
import lzma
import os
import pathlib
import re
import subprocess

import pytest

from test_commands import LOOKS as ON_A_GUEST

GOLDEN = pathlib.Path(__file__).parent / "golden"
DUMPS = sorted(path.name.removesuffix(".kdump.xz") for path in GOLDEN.glob("*.kdump.xz"))
ACCEPT = os.environ.get("KLAB_ACCEPT") == "1"
# Addresses change with every new dump, and what is in columns stays there.
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b|\b(?=\d*[a-f])[0-9a-f]{8,16}\b")

# What reads more than the rest together: an audit all of the kernel's code, searches all page tables or a whole program.
WHOLE = [["audit"], ["search", "--limit", "3", "klab-agent"]]
WHOLE += [words for words in ON_A_GUEST if words[:2] == ["search", "--pid"]]
LOOKS = [words for words in ON_A_GUEST if words not in WHOLE] + [
    ["stack"],
    ["completion", "((struct device *)&platform_bus)->power.completion"],
    ["rt-mutex", "*(struct rt_mutex_base *)&empty_zero_page"],
]
# What has no golden output: kconfig, which these kernels do not have, and what is not for a dump.
OTHERS = """audit kconfig
skb up status attach detach dump down reset pause resume run cp drgn kmod vmlinux doctor kernel kernelspec prepare help"""


def words_of(words, core):
    return [words[0], "--core", str(core), *words[1:]]


def name_of(words):
    return re.sub(r"[^\w.]+", "-", " ".join(words)).strip("-")


def shape(value, at=""):
    """The names and kinds of a JSON value, a line each."""
    if isinstance(value, dict):
        return {line for key, inner in value.items() for line in shape(inner, f"{at}.{key}")}
    if isinstance(value, list):
        return {line for inner in value for line in shape(inner, f"{at}[]")} or {f"{at}[]"}
    return {f"{at}: {type(value).__name__}"}


@pytest.fixture(scope="module")
def cores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cores")
    for name in DUMPS:
        (folder / name).write_bytes(lzma.decompress((GOLDEN / f"{name}.kdump.xz").read_bytes()))
    return folder


@pytest.mark.parametrize("words", LOOKS, ids=name_of)
@pytest.mark.parametrize("dump", DUMPS)
def test_golden(klab, cores, dump, words):
    def run(*options):
        command = [klab, *words_of(words, cores / dump), *options]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    shown = run()
    shapes = "\n".join(sorted(shape(json.loads(run("--json")))))
    text = f"$ klab {' '.join(words)}\n{shown}\n--json\n{shapes}\n"
    masked = ADDRESS.sub(lambda found: re.sub(r"[0-9a-f](?!x)", "x", found[0]), text)
    accepted = GOLDEN / dump / f"{name_of(words)}.txt"
    if ACCEPT:
        accepted.parent.mkdir(exist_ok=True)
        accepted.write_text(masked)
    assert masked == accepted.read_text()


def test_every_command_has_golden_outputs(klab):
    said = subprocess.run([klab, "--help"], capture_output=True, text=True).stdout
    commands = re.findall(r"^  ([a-z]\S*)", said.split("\nCommands:\n")[1].split("\n\n")[0], re.MULTILINE)
    assert sorted(commands) == sorted({words[0] for words in LOOKS} | set(OTHERS.split()))
    assert DUMPS
    names = {f"{name_of(words)}.txt" for words in LOOKS}
    for dump in DUMPS:
        assert {path.name for path in (GOLDEN / dump).iterdir()} == names
