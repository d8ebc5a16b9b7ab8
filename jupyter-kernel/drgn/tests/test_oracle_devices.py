"""klab's readers of devices, interrupts, timers and modules beside drgn's helpers, on the same memory, held still."""

import drgn
import drgn.cli
import pytest
from drgn import Object, cast

#: Disks whose requests take seconds, with requests under way; a timer's owner; modules that need one another.
BUSY = """
modprobe null_blk nr_devices=2 gb=1 queue_mode=2 irqmode=2 completion_nsec=5000000000 hw_queue_depth=16 submit_queues=2 2>/dev/null
modprobe brd rd_nr=1 rd_size=8192
modprobe mq_deadline
modprobe nft_ct
printf 'n\\np\\n1\\n\\n+2M\\nn\\np\\n2\\n\\n\\nw\\n' | fdisk /dev/ram0 >/dev/null 2>&1
echo mq-deadline >/sys/block/nullb1/queue/scheduler
sleep 1000 >/dev/null 2>&1 </dev/null &
for i in 1 2 3; do for d in 0 1; do
    dd if=/dev/nullb$d of=/dev/null bs=4k count=1 skip=$((i * 1000)) iflag=direct >/dev/null 2>&1 </dev/null &
    dd if=/dev/zero of=/dev/nullb$d bs=8k count=1 seek=$((i * 1000)) oflag=direct >/dev/null 2>&1 </dev/null &
done; done
sleep 2
"""


@pytest.fixture(scope="module")
def here(prog, run, sh):
    """The names of drgn's own prompt, on a guest that is busy and then held still."""
    sh(BUSY)
    run("pause")
    drgn.set_default_prog(prog)
    yield drgn.cli.default_globals(prog)
    run("resume")


def text(pointer):
    return pointer.string_().decode()



def test_devices(here, prog, klab_says):
    said = klab_says("buses")
    assert len(said["buses"]) > 15 and len(said["classes"]) > 20
    for bus in said["buses"]:
        of_drgn = [here["dev_name"](dev).decode() for dev in here["bus_for_each_dev"](Object(prog, "struct bus_type *", bus["at"]))]
        assert bus["devices"] == of_drgn, bus["name"]
        for driver in bus["drivers"]:
            of_drgn = Object(prog, "struct device_driver *", driver["at"])
            assert driver["name"] == text(of_drgn.name)
            assert driver["module"] == (text(of_drgn.owner.name) if of_drgn.owner else None)
    for of_class in said["classes"]:
        of_drgn = [here["dev_name"](dev).decode() for dev in here["class_for_each_device"](Object(prog, "struct class *", of_class["at"]))]
        assert of_class["devices"] == of_drgn, of_class["name"]
    for device in klab_says("devices"):
        of_drgn = Object(prog, "struct device *", device["at"])
        assert "/devices/" + device["path"] == here["kernfs_path"](of_drgn.kobj.sd).decode()
        assert device["driver"] == (text(of_drgn.driver.name) if of_drgn.driver else None)
        number = of_drgn.devt.value_()
        assert device["dev"] == ({"major": here["MAJOR"](number), "minor": here["MINOR"](number)} if number else None)


def test_pci(here, klab_says):
    said = {device["slot"]: device for device in klab_says("pci")}
    of_drgn = {here["pci_name"](device): device for device in here["for_each_pci_dev"]()}
    assert said.keys() == of_drgn.keys() and len(said) > 4
    for slot, device in of_drgn.items():
        for field in ["vendor", "device", "subsystem_vendor", "subsystem_device", "class", "revision", "irq"]:
            assert said[slot][field] == device.member_(field).value_(), (slot, field)
        regions = [
            (index, region.start.value_(), region.end.value_(), region.flags.value_())
            for index, region in enumerate(device.resource)
            if region.flags
        ]
        assert [(r["index"], r["start"], r["end"], r["flags"]) for r in said[slot]["regions"]] == regions
        assert said[slot]["driver"] == (text(device.dev.driver.name) if device.dev.driver else None)


def test_device_numbers(here, klab_says):
    said = klab_says("majors")
    of_drgn = [
        (here["MAJOR"](first), here["MINOR"](first), count, name.decode())
        for first, count, name, _ in here["for_each_registered_chrdev"]()
    ]
    assert sorted((r["major"], r["base_minor"], r["minors"], r["name"]) for r in said["char"]) == sorted(of_drgn)
    of_drgn = [(major, name.decode()) for major, name, _ in here["for_each_registered_blkdev"]()]
    assert sorted((b["major"], b["name"]) for b in said["block"]) == sorted(of_drgn) and len(of_drgn) > 2


def test_resources(here, prog, klab_says):
    for command, root in [("iomem", "iomem_resource"), ("ioports", "ioport_resource")]:
        said = klab_says(command)["resources"]
        of_drgn = list(here["for_each_resource"](prog[root].address_of_()))[1:]
        assert [r["at"] for r in said] == [r.value_() for r in of_drgn]
        assert [(r["start"], r["end"], r["flags"], r["name"]) for r in said] == [
            (r.start.value_(), r.end.value_(), r.flags.value_(), text(r.name)) for r in of_drgn
        ]


def test_disks_and_requests(here, prog, klab_says):
    said = klab_says("block")
    disks = {here["disk_name"](disk).decode(): disk for disk in here["for_each_disk"]()}
    assert [disk["name"] for disk in said] == list(disks)
    partitions = [here["part_name"](part).decode() for part in here["for_each_partition"]()]
    own = [name for disk in said for name in [disk["name"], *(part["name"] for part in disk["partitions"])]]
    assert sorted(own) == sorted(partitions)
    requests = 0
    for disk in said:
        of_drgn = disks[disk["name"]]
        assert disk["at"] == of_drgn.value_()
        assert here["MKDEV"](disk["dev"]["major"], disk["dev"]["minor"]) == here["disk_devt"](of_drgn)
        busy = {rq.value_(): rq for rq in here["request_queue_busy_iter"](of_drgn.queue)}
        assert {rq["at"] for rq in disk["queue"]["requests"]} == busy.keys()
        for rq in disk["queue"]["requests"]:
            own = busy[rq["at"]]
            assert rq["op"] == here["req_op"](own).format_(type_name=False)
            assert rq["writes"] == bool(here["rq_data_dir"](own))
            assert rq["sector"] == here["blk_rq_pos"](own).value_()
            assert rq["bytes"] == here["blk_rq_bytes"](own).value_()
            assert (rq["tag"], rq["internal_tag"]) == (own.tag.value_(), own.internal_tag.value_())
            requests += 1
    assert requests >= 8


def test_interrupts(here, prog, klab_says):
    said = klab_says("irq")
    of_drgn = {irq: desc for irq, desc in here["for_each_irq_desc"]()}
    assert [irq["irq"] for irq in said["irqs"]] == list(of_drgn)
    for irq in said["irqs"]:
        desc = of_drgn[irq["irq"]]
        assert irq["at"] == desc.value_()
        assert irq["counts"] == [here["irq_desc_kstat_cpu"](desc, cpu) for cpu in said["cpus"]]
        assert [action["name"] for action in irq["actions"]] == [name.decode() for name in here["irq_desc_action_names"](desc)]
        chip = here["irq_desc_chip_name"](desc)
        assert irq["chip"] == (chip.decode() if chip else None)
        if not desc.irq_common_data.state_use_accessors & (1 << 8):
            affinity = here["irq_desc_affinity_mask"](desc)
            assert irq["affinity"] == list(here["for_each_cpu"](affinity))
    table = prog["idt_table"]
    idt = klab_says("idt")
    assert len(idt) == len(table) == 256
    for gate, of_drgn in zip(idt, table):
        handler = here["gate_desc_func"](of_drgn).value_()
        assert gate["handler"]["at"] == handler
        symbol = prog.symbol(handler)
        # Several names may stand at one address.
        assert gate["handler"]["offset"] == handler - symbol.address


def test_timers(here, prog, klab_says):
    said = klab_says("timers")
    names = [name.removeprefix("BASE_") for name in here["timer_base_names"]()]
    wheel, hrtimers = set(), set()
    for cpu in here["for_each_online_cpu"](prog):
        for name, base in zip(names, here["per_cpu"](prog["timer_bases"], cpu)):
            for timer in here["timer_base_for_each"](base.address_of_()):
                wheel.add((timer.value_(), cpu, name, timer.expires.value_(), timer.function.value_(), timer.flags.value_()))
        for base in here["per_cpu"](prog["hrtimer_bases"], cpu).clock_base:
            for timer in here["hrtimer_clock_base_for_each"](base.address_of_()):
                hrtimers.add((timer.value_(), cpu, timer.node.expires.value_(), timer.function.value_()))
    assert {(t["at"], t["cpu"], t["base"], t["expires"], t["function"]["at"], t["flags"]) for t in said["wheel"]} == wheel
    assert {(t["at"], t["cpu"], t["expires"], t["function"]["at"]) for t in said["hrtimers"]} == hrtimers
    assert len(wheel) > 8 and len(hrtimers) > 4


def test_clocks(here, prog, klab_says):
    said = klab_says("clock")
    assert said["monotonic"] == here["ktime_get_coarse_ns"]().value_()
    assert said["realtime"] == here["ktime_get_coarse_real_ns"]().value_()
    assert said["boottime"] == here["ktime_get_coarse_boottime_ns"]().value_()
    sources = here["list_for_each_entry"]("struct clocksource", prog["clocksource_list"].address_of_(), "list")
    assert [(s["name"], s["rating"], s["mult"], s["shift"]) for s in said["sources"]] == [
        (text(s.name), s.rating.value_(), s.mult.value_(), s.shift.value_()) for s in sources
    ]


def test_modules(here, prog, klab_says):
    modules = list(here["for_each_module"]())
    assert [module["name"] for module in klab_says("modules")] == [text(module.name) for module in modules]
    for module in modules:
        said = klab_says("module", text(module.name))
        assert said["at"] == module.value_()
        assert said["taints"] == here["module_taints"](module)
        areas = [(start, size) for start, size in here["module_address_regions"](module) if size]
        assert [(area["base"], area["size"]) for area in said["areas"]] == areas
        for section in said["sections"]:
            if section["name"] in (".text", ".data", ".rodata"):
                assert here["address_to_module"](prog, section["at"]) == module
        users = here["list_for_each_entry"]("struct module_use", module.source_list.address_of_(), "source_list")
        assert said["used_by"] == [text(use.source.name) for use in users]
        assert [parameter["name"] for parameter in said["parameters"]] == [text(kp.name) for kp in module.kp[: module.num_kp]]
    assert len(modules) > 8


def test_workqueues(here, prog, klab_says):
    said = klab_says("workqueue")
    queues = list(here["list_for_each_entry"]("struct workqueue_struct", prog["workqueues"].address_of_(), "list"))
    assert [(q["at"], q["name"], q["flags"]) for q in said["workqueues"]] == [
        (q.value_(), text(q.name), q.flags.value_()) for q in queues
    ]
    for queue, of_drgn in zip(said["workqueues"], queues):
        pwqs = list(here["list_for_each_entry"]("struct pool_workqueue", of_drgn.pwqs.address_of_(), "pwqs_node"))
        assert [(p["at"], p["pool"], p["nr_active"]) for p in queue["pools"]] == [
            (p.value_(), p.pool.id.value_(), p.nr_active.value_()) for p in pwqs
        ]
    for pool in said["pools"]:
        of_drgn = Object(prog, "struct worker_pool *", pool["at"])
        assert pool["id"] == of_drgn.id.value_()
        workers = list(here["list_for_each_entry"]("struct worker", of_drgn.workers.address_of_(), "node"))
        assert [(w["at"], w["id"], w["pid"]) for w in pool["workers"]] == [
            (w.value_(), w.id.value_(), w.task.pid.value_() if w.task else None) for w in workers
        ]


def test_tracing_and_rcu(here, prog, klab_says):
    said = klab_says("rcu")
    state = Object(prog, "struct rcu_state", address=prog.symbol("rcu_state").address)
    assert said["gp"] == cast("long", state.gp_seq).value_() >> 2
    assert said["gp_kthread"] == state.gp_kthread.pid.value_() and said["name"] == text(state.name)
    for cpu in said["cpus"]:
        data = here["per_cpu"](prog["rcu_data"], cpu["cpu"])
        assert cpu["len"] == data.cblist.len.counter.value_()
        assert cpu["segments"] == [length.value_() for length in data.cblist.seglen]
        assert cpu["invoked"] == data.n_cbs_invoked.value_()
    softirqs = klab_says("softirq")
    for nr, softirq in enumerate(softirqs["softirqs"]):
        of_drgn = [here["per_cpu"](prog["kstat"], cpu).softirqs[nr].value_() for cpu in softirqs["cpus"]]
        assert softirq["counts"] == of_drgn
