"""drgn's own tests on klab's program, beside drgn itself on a dump of the same guest, both with the kernel's DWARF."""


def test_whatever_passes_on_the_dump_passes_on_klab(suite, guest, klab, tmp_path, capsys):
    files = [klab("vmlinux", "--kernel", "default").strip()]
    ours = suite(files, guest=guest)
    klab("dump", guest, str(tmp_path / "core"))
    theirs = suite(files, core=tmp_path / "core")
    passed = [name for name, (outcome, _) in theirs.items() if outcome == "passed"]
    worse = {name: ours.get(name) for name in passed if ours.get(name, ["absent"])[0] != "passed"}
    with capsys.disabled():
        both = sum(1 for name in passed if name not in worse)
        print(f"\nof drgn's {len(passed)} tests that pass on the dump {both} pass on klab")
    # It asks for what only a dump has.
    assert not worse, worse
    assert len(passed) > 400
