"""Make a small dump of a kernel for tests/dumps.rs: `python probes/tests/dumps/make.py NAME KERNEL`, as in `7.3 default`.

A guest with something of everything is dumped by QEMU, every reader is run on the dump under strace, which says what of it
was read, and only those pages are kept. The whole dump is kept in klab's cache under the hash that NAME.sha256 has: where
it is still there, `make.py NAME` cuts the small one again from it, so that a new reader adds its pages and its output, and
changes no other. KLAB names the klab program; strace and zstd must be there. Afterwards `INSTA_UPDATE=always cargo test -p probes
--test dumps` accepts what the readers show: read the difference.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("KLAB_CACHE") or pathlib.Path.home() / ".cache/klab") / "dumps"

BLOCK = 4096
ZLIB = 1

# What the guest's busybox can make: what a command lists should not be empty where that can be helped.
POPULATION = r"""
for m in veth dummy nf_conntrack nf_nat; do modprobe $m 2>/dev/null; done
ip link add v0 type veth peer name v1; ip addr add 10.1.0.1/24 dev v0; ip link set v0 up; ip link set v1 up
ip route add 10.2.0.0/16 via 10.1.0.2; ip neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev v0
mkdir -p /tmp/t; mount -t tmpfs t /tmp/t; echo kept > /tmp/t/kept; ln -s kept /tmp/t/link
mkdir -p /sys/fs/cgroup/one/two
cd /tmp/t
(echo gone > gone; exec 3< gone; rm gone; exec sleep 1001) &
(sleep 1002 | cat) &
(exec unshare -m -n -u sleep 1004) &
(exec env COLOUR=blue sleep 1005) &
(exec nc -l -p 8080) > /dev/null < /dev/null 2>&1 &
(sh -c 'true & exec sleep 1007') &
sleep 2
"""


def run(*words):
    return subprocess.run([os.environ["KLAB"], *words], check=True, capture_output=True, text=True).stdout


def looks():
    """The commands that tests/dumps.rs tries."""
    for reader in json.loads(run("readers", "--json")):
        if reader["on_dumps"]:
            yield from ([reader["command"], *words] for words in reader["samples"])


def qmp(path, command, **arguments):
    """One command to QEMU."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(path)
        file = client.makefile("rw")
        file.readline()
        for request in [{"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}]:
            file.write(json.dumps(request) + "\n")
            file.flush()
            while "return" not in (answer := json.loads(file.readline())):
                assert "error" not in answer, answer


def dump(kernel, path):
    """A dump of a guest with this kernel, as QEMU writes it."""
    name = f"dump-{os.getpid()}"
    run("up", name, "--kernel", kernel)
    try:
        made = subprocess.run([os.environ["KLAB"], "run", name, "--", "sh", "-c", POPULATION], capture_output=True, text=True)
        print(made.stdout + made.stderr, end="")
        at, size = run("run", name, "--", "cat", "/sys/kernel/vmcoreinfo").split()
        run("pause", name)
        folder = json.loads(run("status", name, "--json"))[0]["run_dir"]
        qmp(f"{folder}/qmp2", "dump-guest-memory", paging=False, protocol=f"file:{path}", format="kdump-zlib")
    finally:
        run("down", name)
    unflatten(path)
    core = Kdump(path)
    note = core.read(int(at, 16), int(size, 16))
    # struct elf_note, its name, and VMCOREINFO: with it the kernel is not searched in the memory.
    names, length = struct.unpack_from("<II", note)
    start = 12 + (names + 3) // 4 * 4
    text = note[start : start + length]
    assert text.startswith(b"OSRELEASE="), text[:20]
    with path.open("r+b") as file:
        file.seek(BLOCK + 32)
        file.write(struct.pack("<QQ", len(core.bytes), len(text)))
        file.seek(len(core.bytes))
        file.write(text)


def unflatten(path):
    """QEMU writes pieces with their places; the file that they make (makedumpfile's struct makedumpfile_data_header)."""
    flat, at = path.read_bytes(), BLOCK
    assert flat.startswith(b"makedumpfile")
    with path.open("wb") as file:
        while True:
            place, size = struct.unpack_from(">qq", flat, at)
            if place < 0:
                return
            file.seek(place)
            file.write(flat[at + 16 : at + 16 + size])
            at += 16 + size


class Kdump:
    """What lies where in a kdump file (makedumpfile's diskdump_mod.h)."""

    def __init__(self, path):
        self.bytes = path.read_bytes()
        sub, bitmaps = struct.unpack_from("<II", self.bytes, 432)
        self.bitmap = (1 + sub) * BLOCK + bitmaps * BLOCK // 2
        self.descriptors = (1 + sub + bitmaps) * BLOCK
        bits = self.bytes[self.bitmap : self.descriptors]
        stored = [page for page in range(len(bits) * 8) if bits[page // 8] >> page % 8 & 1]
        # Page to (offset, size, flags, page_flags).
        self.pages = {
            page: struct.unpack_from("<QIIQ", self.bytes, self.descriptors + 24 * at) for at, page in enumerate(stored)
        }

    def page(self, page):
        offset, size, flags, _ = self.pages[page]
        data = self.bytes[offset : offset + size]
        if flags & ZLIB:
            return zlib.decompress(data)
        assert flags == 0 and size == BLOCK, "compressed by something other than zlib"
        return data

    def read(self, at, size):
        pages = b"".join(map(self.page, range(at // BLOCK, (at + size) // BLOCK + 1)))
        return pages[at % BLOCK :][:size]

    def only(self, kept):
        """The file with these pages, none compressed: that is for what the whole is compressed with."""
        kept = sorted(kept)
        bitmap = bytearray(self.descriptors - self.bitmap)
        for page in kept:
            bitmap[page // 8] |= 1 << page % 8
        data = self.descriptors + 24 * len(kept)
        data += -data % BLOCK
        table = b"".join(struct.pack("<QIIQ", data + BLOCK * at, BLOCK, 0, 0) for at in range(len(kept)))
        head = bytearray((self.bytes[: self.bitmap] + bitmap + table).ljust(data, b"\0"))
        # What is not there is left out, not zero: that would be level 1.
        struct.pack_into("<I", head, BLOCK + 8, 31)
        at, size = struct.unpack_from("<QQ", head, BLOCK + 32)
        struct.pack_into("<Q", head, BLOCK + 32, data + BLOCK * len(kept))
        return bytes(head) + b"".join(map(self.page, kept)) + self.bytes[at : at + size]


def looked_at(core, path, words):
    """The pages that a command reads."""
    # By their descriptors: all pages of zeros have one content.
    by_offset = {core.descriptors + 24 * at: page for at, page in enumerate(core.pages)}
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-f", "--seccomp-bpf", "-e", "trace=pread64", "-e", "signal=none", "-P", str(path), "-o", log.name]
        command += [os.environ["KLAB"], words[0], "--core", str(path), *words[1:]]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        offsets = {int(found) for found in re.findall(r", (\d+)\) = ", log.read())}
    return {by_offset[offset] for offset in offsets if offset in by_offset}


def whole(name, kernel):
    """The whole dump: the one that the small one was cut from, or of a new guest where a kernel is named."""
    CACHE.mkdir(parents=True, exist_ok=True)
    known = HERE / f"{name}.sha256"
    if kernel is None:
        path = CACHE / known.read_text().strip()
        assert path.exists(), f"{path} is not there: name a kernel to dump a new guest, which changes every output"
        return path
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = pathlib.Path(folder) / "core"
        dump(kernel, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        known.write_text(f"{digest}\n")
        return shutil.move(path, CACHE / digest)


def make(name, kernel=None):
    path = whole(name, kernel)
    core = Kdump(path)
    kept = set()
    for words in looks():
        kept |= looked_at(core, path, words)
    # Dumps are opened by their last page.
    kept.add(max(core.pages))
    small = HERE / f"{name}.kdump.zst"
    subprocess.run(["zstd", "--ultra", "-22", "-q", "-f", "-o", small], input=core.only(kept), check=True)
    print(f"{name}: {len(kept)} of {len(core.pages)} pages, {small.stat().st_size:,} bytes")


if __name__ == "__main__":
    make(*sys.argv[1:])
