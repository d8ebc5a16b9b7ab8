"""klab's readers of the kernel's memory management beside drgn's helpers, on the same memory: a paused guest."""

import json

import drgn
import drgn.cli
import pytest
from drgn import Object

#: What fills the guest: a swap area in use, a file system with files, a pool of huge pages.
FURNISH = r"""
    set -e
    modprobe loop
    dd if=/dev/zero of=/tmp/swap bs=1M count=32; losetup /dev/loop0 /tmp/swap; mkswap /dev/loop0; swapon /dev/loop0
    dd if=/dev/zero of=/tmp/disk bs=1M count=32; losetup /dev/loop1 /tmp/disk; mke2fs -F /dev/loop1
    mkdir -p /disk; mount -t ext4 /dev/loop1 /disk; dd if=/dev/zero of=/disk/file bs=4k count=500
    echo 4 >/proc/sys/vm/nr_hugepages
"""


@pytest.fixture(scope="module")
def here(prog, sh):
    """The names of drgn's own prompt, in a guest that is furnished and stands still."""
    sh(FURNISH)
    drgn.set_default_prog(prog)
    return drgn.cli.default_globals(prog)


@pytest.fixture
def klab_json(run):
    return lambda *words: json.loads(run(words[0], "--json", *words[1:]))


def test_pages(prog, here, klab_json, still):
    pfns = [0, 0x100, 0x1000, 0x5555, 0xA000, 0x12345, 0x1F000]
    pfns += [here["virt_to_pfn"](task).value_() for task in list(here["for_each_task"]())[:20]]
    pfns += [here["virt_to_pfn"](cache).value_() for cache in list(here["for_each_slab_cache"]())[:10]]
    slabs = 0
    for pfn in pfns:
        ours = klab_json("page", str(pfn))
        page = here["pfn_to_page"](pfn)
        assert ours["at"] == page.value_() and here["page_to_pfn"](page) == ours["pfn"]
        assert ours["raw_flags"] == here["page_flags"](page).value_()
        head = here["compound_head"](page)
        # drgn names every flag that shares a bit; the first of them is the kernel's own.
        named = {name.removeprefix("PG_") for name in here["decode_page_flags"](head).split("|")}
        assert set(ours["flags"]) <= named
        assert bool(ours["folio"]) == here["PageCompound"](page)
        if ours["folio"]:
            assert ours["folio"]["at"] == head.value_() and ours["folio"]["order"] == here["compound_order"](head)
        assert (ours["kind"] == "slab") == here["PageSlab"](head)
        slabs += ours["kind"] == "slab"
        assert ours["refcount"] == head._refcount.counter
        assert ours["phys"] == here["page_to_phys"](page).value_() and ours["virt"] == here["page_to_virt"](page).value_()
    assert slabs > 10


def test_zones(prog, here, klab_json, still):
    compared = 0
    for ours, node in zip(klab_json("zones"), here["for_each_online_pgdat"](), strict=True):
        assert (ours["at"], ours["id"], ours["present"]) == (node.value_(), node.node_id, node.node_present_pages)
        for zone, theirs in zip(ours["zones"], node.node_zones, strict=True):
            theirs = theirs.address_of_()
            marks = zone["watermarks"]
            assert zone["at"] == theirs.value_() and zone["name"] == theirs.name.string_().decode()
            assert marks["min"] == here["min_wmark_pages"](theirs)
            assert marks["low"] == here["low_wmark_pages"](theirs)
            assert marks["high"] == here["high_wmark_pages"](theirs)
            assert zone["free"] == here["zone_page_state"](theirs, prog["NR_FREE_PAGES"])
            assert (zone["spanned"], zone["managed"]) == (theirs.spanned_pages, theirs.managed_pages.counter)
            compared += 1
    assert compared >= 4


def test_free_blocks(prog, here, klab_json, still):
    buddy = klab_json("buddy")
    blocks = 0
    for ours in buddy["zones"]:
        zone = Object(prog, "struct zone *", ours["at"])
        for area, theirs in zip(ours["areas"], zone.free_area, strict=True):
            assert area["nr_free"] == theirs.nr_free
            for count, head in zip(area["by_type"], theirs.free_list, strict=True):
                pages = list(here["list_for_each_entry"]("struct page", head.address_of_(), "buddy_list"))
                assert count == len(pages)
                assert all(page.private == area["order"] for page in pages)
                blocks += count
    assert blocks > 10 and [name for name in buddy["types"] if name == "Movable"]


def test_vmstat(prog, here, klab_json, still):
    values = {counter["name"]: counter for counter in klab_json("vmstat")}
    for name, item in [("nr_free_pages", "NR_FREE_PAGES"), ("nr_mlock", "NR_MLOCK")]:
        assert values[name]["value"] == here["global_zone_page_state"](prog[item])
    for name, item in [("nr_file_pages", "NR_FILE_PAGES"), ("nr_dirty", "NR_FILE_DIRTY"), ("nr_anon_pages", "NR_ANON_MAPPED"), ("nr_shmem", "NR_SHMEM")]:
        assert values[name]["value"] == here["global_node_page_state"](prog[item])
    for name, item in [("pgfault", "PGFAULT"), ("pgalloc_dma32", "PGALLOC_DMA32"), ("pgfree", "PGFREE"), ("pswpin", "PSWPIN")]:
        assert values[name]["value"] == here["global_vm_event_state"](prog[item])
    # What CPUs hold of a node's counter, added up by hand.
    held = 0
    for node in here["for_each_online_pgdat"]():
        for cpu in here["for_each_online_cpu"]():
            held += here["per_cpu_ptr"](node.per_cpu_nodestats, cpu).vm_node_stat_diff[prog["NR_FILE_PAGES"]].value_()
    assert values["nr_file_pages"]["held"] == held


def test_meminfo(prog, here, klab_json, still):
    info = {line["name"]: line["value"] for line in klab_json("meminfo")}
    usage = here["swap_total_usage"]()
    slab = here["slab_total_usage"]()
    assert info["MemTotal"] == here["totalram_pages"]() * 4
    assert info["MemFree"] == here["nr_free_pages"]() * 4
    assert (info["SwapTotal"], info["SwapFree"]) == (usage.pages * 4, usage.free_pages * 4)
    assert info["SwapCached"] == here["total_swapcache_pages"]() * 4
    assert (info["SReclaimable"], info["SUnreclaim"]) == (slab.reclaimable_pages * 4, slab.unreclaimable_pages * 4)
    assert info["CommitLimit"] == here["vm_commit_limit"]() * 4
    assert info["Committed_AS"] == here["vm_memory_committed"]() * 4
    assert info["Hugetlb"] == here["hugetlb_total_pages"]() * 4 > 0


def test_slab_caches(prog, here, klab_json, still):
    ours = {cache["at"]: cache for cache in klab_json("slab")}
    used = 0
    for theirs in here["for_each_slab_cache"]():
        cache = ours.pop(theirs.value_())
        usage = here["slab_cache_usage"](theirs)
        assert cache["name"] == theirs.name.string_().decode()
        assert (cache["slabs"], cache["objects"]) == (usage.num_slabs, usage.num_objs), cache["name"]
        # drgn leaves out what other CPUs have freed of the slab that a CPU allocates from.
        assert sum(cache["free"].values()) - cache["free"]["remote"] == usage.free_objs, cache["name"]
        assert cache["objects_per_slab"] == here["slab_cache_objects_per_slab"](theirs)
        assert cache["order"] == here["slab_cache_order"](theirs)
        assert (cache["refcount"] > 1) == here["slab_cache_is_merged"](theirs)
        used += usage.active_objs > 0
    assert not ours and used > 80


@pytest.mark.parametrize(
    "name, ty", [("task_struct", "struct task_struct"), ("mm_struct", "struct mm_struct"), ("filp", "struct file"), ("kmalloc-64", "void *")]
)
def test_objects_of_a_slab_cache(here, klab_json, still, name, ty):
    theirs = here["slab_cache_for_each_allocated_object"](here["find_slab_cache"](name), ty)
    objects = {item.value_() for item in theirs}
    ours = klab_json("slab", name)
    assert set(ours["objects"]) == objects and len(objects) > 1
    assert ours["cache"]["c_type"] == (ty if ty.startswith("struct") else None)


def test_vmalloc_areas(here, klab_json, still):
    ours = {area["at"]: area for area in klab_json("vmalloc") if area["vm"]}
    compared = 0
    for theirs in here["for_each_vmap_area"]():
        if not theirs.vm or theirs.vm.flags & 0x20:
            continue
        area = ours.pop(theirs.value_())
        assert (area["start"], area["size"]) == (theirs.vm.addr.value_(), theirs.vm.size)
        assert area["pages"] == theirs.vm.nr_pages
        assert here["find_vmap_area"](area["start"]).value_() == area["at"]
        compared += 1
    assert not ours and compared > 60


def test_swap_and_huge_pages(here, klab_json, still):
    (area,) = klab_json("swap")
    (theirs,) = here["for_each_swap_info"]()
    assert area["at"] == theirs.value_() and area["path"] == here["swap_file_path"](theirs).decode() == "/dev/loop0"
    assert area["device"] is not here["swap_is_file"](theirs)
    assert (area["used"], area["pages"], area["priority"]) == (here["swap_usage_in_pages"](theirs), theirs.pages, theirs.prio)
    pools = {pool["at"]: pool for pool in klab_json("hugetlb")}
    for theirs in here["for_each_hstate"]():
        pool = pools.pop(theirs.value_())
        assert pool["size"] == here["huge_page_size"](theirs)
        assert (pool["total"], pool["free"]) == (theirs.nr_huge_pages, theirs.free_huge_pages)
    assert not pools


@pytest.mark.parametrize("path", ["/disk/file", "/bin/busybox"])
def test_page_cache(prog, here, klab_json, still, path):
    ours = klab_json("pagecache", path)
    inode = here["path_lookup"](here["find_task"](1).fs.root, path).dentry.d_inode
    assert ours["file"]["inode"] == inode.value_() and ours["size"] == inode.i_size
    theirs = {}
    for index, page in here["inode_for_each_page"](inode):
        theirs.setdefault(here["compound_head"](page).value_(), index)
    assert {folio["at"]: folio["index"] for folio in ours["folios"]} == {at: int(index) for at, index in theirs.items()}
    assert ours["nrpages"] == inode.i_mapping.nrpages == sum(folio["pages"] for folio in ours["folios"]) > 200
    names = {int(bit): name for bit, name in ours["flag_names"].items()}
    for folio in ours["folios"][:20]:
        page = Object(prog, "struct page *", folio["at"])
        dirty = any(folio["flags"] >> bit & 1 for bit, name in names.items() if name == "dirty")
        assert dirty == here["PageDirty"](page)


def test_what_is_at_an_address(prog, here, run, klab_json, still):
    def chain(*words):
        things = {}
        for thing in klab_json("what", *words)["things"]:
            ((kind, value),) = thing.items()
            things[kind] = value
        return things

    task = here["find_task"](1)
    slab = chain(hex(task.comm.address_ + 2))["slab"]
    info = here["slab_object_info"](task.comm.address_ + 2)
    assert (slab["at"], slab["in_use"], slab["cache_at"], slab["slab"]) == (info.address, info.allocated, info.slab_cache.value_(), info.slab.value_())
    assert here["identify_address"](task) == "task: 1 (init)" and slab["about"] == "1 (init)" and slab["member"] == "comm[2]"
    schedule = prog.symbol("schedule").address
    named = chain(hex(schedule + 5))["symbol"]
    assert here["identify_address"](schedule + 5).endswith(f"symbol: {named['name']}+{named['offset']:#x}")
    stack = chain(hex(task.stack.value_() + 100))["stack"]
    assert (stack["pid"], stack["comm"]) == (1, "init")
    area = chain(hex(task.stack.value_()))["vmalloc"]
    assert area["at"] == here["find_vmap_area"](task.stack).value_()
    vma = next(iter(here["for_each_vma"](task.mm)))
    mapping = chain("--pid", "1", hex(vma.vm_start.value_() + 16))["vma"]
    assert (mapping["start"], mapping["end"]) == (vma.vm_start, vma.vm_end)


@pytest.mark.parametrize("into", [1, 4096])
def test_pointers_are_found(prog, here, klab_json, still, into):
    address = prog["init_task"].address_
    ours = klab_json("search", "--as", "pointer", "--into", str(into), "--limit", "100000", "--physical", hex(address))
    search = prog.search_memory_u64((address, address + into - 1)).set_address_range(physical=True)
    theirs = [at for at, _ in search]
    assert [hit["phys"] for hit in ours["hits"]] == theirs and len(theirs) > 20


def test_text_and_expressions_are_found(prog, klab_json, still):
    for words, search in [
        (["Linux version"], prog.search_memory(b"Linux version")),
        (["--as", "bytes", "7f 45 4c 46 02 01"], prog.search_memory(b"\x7fELF\x02\x01")),
        (["--as", "u32", "0x7f454c46"], prog.search_memory_u32(0x7F454C46)),
        (["--as", "regex", "OSRELEASE=[0-9.]+"], prog.search_memory_regex(rb"OSRELEASE=[0-9.]+")),
    ]:
        found = search.set_address_range(physical=True)
        theirs = [hit[0] if isinstance(hit, tuple) else hit for hit in found]
        ours = klab_json("search", "--physical", "--limit", "100000", *words)
        assert [hit["phys"] for hit in ours["hits"]] == theirs, words
        assert theirs or "u32" in words
