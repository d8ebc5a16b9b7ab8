"""klab's readers of processes, paths, locks and the network beside drgn's helpers, on the same memory, held still."""

import drgn
import drgn.cli
import pytest
from drgn import Object, container_of

#: Processes in namespaces and groups of their own, who wait, hold and are limited; devices with addresses and neighbours.
CROWD = """
ip link set lo up
modprobe veth
ip link add v0 type veth peer name v1
ip addr add 192.0.2.1/24 dev v0
ip link set v0 up; ip link set v1 up
for i in 5 6 7 8 9; do ip neigh add 192.0.2.$i lladdr 02:00:00:00:00:0$i dev v0; done
mkdir -p /sys/fs/cgroup/outer/inner
(echo 0 >/sys/fs/cgroup/outer/inner/cgroup.procs; exec sleep 1001) >/dev/null 2>&1 </dev/null &
(ulimit -n 77; cd /tmp; A=b exec sleep 1002) >/dev/null 2>&1 </dev/null &
unshare -m -n -u -i sleep 1003 >/dev/null 2>&1 </dev/null &
mkfifo /tmp/fifo
for i in 1 2 3; do cat /tmp/fifo >/dev/null 2>&1 & done
sleep 1004 2>/dev/null >/tmp/fifo </dev/null &
for i in 1 2 3; do (while :; do :; done) >/dev/null 2>&1 </dev/null & done
mkdir -p /tmp/mnt; mount -t tmpfs none /tmp/mnt; mkdir /tmp/mnt/dir; echo x >/tmp/mnt/dir/file; ln -s mnt/dir /tmp/link
cat /tmp/link/file
sleep 1
"""


@pytest.fixture(scope="module")
def here(prog, run, sh):
    """The names of drgn's own prompt, on a guest that is crowded and then held still."""
    sh(CROWD)
    drgn.set_default_prog(prog)
    names = drgn.cli.default_globals(prog)
    # A CPU that is stopped in the middle of a change of a run queue has its lock.
    locked = True
    while locked:
        run("pause")
        locked = any(names["cpu_rq"](cpu).member_("__lock").raw_lock.val.counter for cpu in names["for_each_online_cpu"](prog))
        if locked:
            run("resume")
    yield names
    run("resume")


def test_tasks(here, klab_says):
    tasks = list(here["for_each_task"]())
    assert len(tasks) > 60
    of_users = 0
    for task in tasks:
        said = klab_says("task", str(task.pid.value_()))
        assert said["task"]["at"] == task.value_()
        assert said["task"]["comm"] == task.comm.string_().decode()
        assert said["task"]["state"][0] == here["task_state_to_char"](task)
        if task.mm:
            of_users += 1
            assert said["cmdline"] == [word.decode() for word in here["cmdline"](task)]
            assert said["environ"] == [word.decode() for word in here["environ"](task)]
            assert said["cwd"] == here["d_path"](task.fs.pwd).decode()
            assert said["exe"] == here["d_path"](task.mm.exe_file.f_path).decode()
        assert said["credentials"]["at"] == task.real_cred.value_()
        for field, name in [("real", "uid"), ("effective", "euid"), ("saved", "suid"), ("fs", "fsuid")]:
            assert said["credentials"]["uid"][field] == task.real_cred.member_(name).val.value_()
        for limit, of_drgn in zip(said["rlimits"], task.signal.rlim):
            soft = of_drgn.rlim_cur.value_()
            assert (limit["soft"] if limit["soft"] is not None else 2**64 - 1) == soft
        of_klab = {namespace["kind"]: namespace["at"] for namespace in said["namespaces"]}
        for kind in ["uts", "ipc", "mnt", "net", "cgroup"]:
            assert of_klab[kind] == task.nsproxy.member_(f"{kind}_ns").value_(), kind
        unified = next(group for group in said["cgroups"] if group["hierarchy"] == 0)
        assert unified["path"] == here["cgroup_path"](task.cgroups.dfl_cgrp).decode()
    assert of_users > 8


def test_cgroups(here, klab_says, prog):
    said = next(hierarchy for hierarchy in klab_says("cgroups") if hierarchy["id"] == 0)
    top = Object(prog, "struct cgroup *", said["cgroups"][0]["at"])
    of_drgn = [
        (css.cgroup.value_(), here["cgroup_path"](css.cgroup).decode())
        for css in here["css_for_each_descendant_pre"](top.self.address_of_())
    ]
    assert sorted(of_drgn) == sorted((group["at"], group["path"]) for group in said["cgroups"])
    assert "/outer/inner" in [group["path"] for group in said["cgroups"]]


def test_run_queues(here, klab_says):
    queues = klab_says("runq")["queues"]
    running = 0
    for queue in queues:
        rq = here["cpu_rq"](queue["cpu"])
        assert queue["at"] == rq.value_() and queue["curr"] == here["cpu_curr"](queue["cpu"]).pid.value_()
        pids = [task.pid.value_() for task in here["rq_for_each_fair_task"](rq)]
        entities = {entity["of"]["task"]["pid"]: entity for entity in queue["fair"] if "task" in entity["of"]}
        assert sorted(entities) == sorted(pids)
        for task in here["rq_for_each_fair_task"](rq):
            entity = entities[task.pid.value_()]
            assert entity["at"] == task.se.address_of_().value_()
            assert (entity["vruntime"], entity["weight"]) == (task.se.vruntime.value_(), task.se.load.weight.value_() >> 10)
        assert queue["nr_switches"] == rq.nr_switches.value_()
        running += len(pids)
    assert len(queues) == 2 and running >= 3


def test_paths(here, klab_says, prog):
    # Not drgn's default, which is where the kernel itself began.
    root = here["find_task"](1).fs.root
    paths = ["/", "/bin/busybox", "/tmp/fifo", "/tmp/link/file", "/tmp/mnt/dir/file", "/proc", "/dev/null", "/sys/kernel"]
    for path in paths:
        said = klab_says("path", path)
        if path != "/tmp/link/file":
            # drgn follows no symbolic links.
            of_drgn = here["path_lookup"](root, path)
            assert said["dentry"] == of_drgn.dentry.value_(), path
            assert said["mount"] == container_of(of_drgn.mnt, "struct mount", "mnt").value_()
            assert said["path"] == here["d_path"](of_drgn).decode()
        inode = Object(prog, "struct dentry *", said["dentry"]).d_inode
        assert said["inode"]["at"] == inode.value_()
        assert [said["inode"][name] for name in ["ino", "mode", "size"]] == [
            inode.member_(name).value_() for name in ["i_ino", "i_mode", "i_size"]
        ]
    assert klab_says("path", "/tmp/link/file")["path"] == "/tmp/mnt/dir/file"


def test_filesystems(here, klab_says, prog):
    said = {superblock["at"]: kind["name"] for kind in klab_says("filesystems") for superblock in kind["supers"]}
    mounted = set()
    for mount in here["for_each_mount"]():
        superblock = mount.mnt.mnt_sb
        mounted.add(superblock.value_())
        assert said[superblock.value_()] == superblock.s_type.name.string_().decode()
    assert len(mounted) > 5


def test_who_waits(here, klab_says):
    pipe = here["path_lookup"](here["find_task"](1).fs.root, "/tmp/fifo").dentry.d_inode.i_pipe
    said = klab_says("wait", hex(pipe.rd_wait.address_))
    entries = list(here["waitqueue_for_each_entry"](pipe.rd_wait.address_of_()))
    assert [waiter["at"] for waiter in said["waiters"]] == [entry.value_() for entry in entries]
    tasks = [task.pid.value_() for task in here["waitqueue_for_each_task"](pipe.rd_wait.address_of_())]
    assert [waiter["task"]["pid"] for waiter in said["waiters"]] == tasks and len(tasks) == 3
    mutex = klab_says("mutex", hex(pipe.mutex.address_))
    assert mutex["owner"] is None and pipe.mutex.owner.counter.value_() & ~7 == 0


def test_network(here, klab_says, prog):
    devices = {device["at"]: device for device in klab_says("net")}
    of_drgn = [device for net in here["for_each_net"]() for device in here["for_each_netdev"](net)]
    assert devices.keys() == {device.value_() for device in of_drgn} and len(of_drgn) > 3
    for device in of_drgn:
        name = here["netdev_name"](device).decode()
        assert devices[device.value_()]["name"] == name
        addresses = {str(address) for address in here["netdev_ipv4_addrs"](device) + here["netdev_ipv6_addrs"](device)}
        assert {address["address"] for address in devices[device.value_()]["addresses"]} == addresses
        details = next(each for each in klab_says("netdev", name) if each["device"]["at"] == device.value_())
        queues = [queue.value_() for queue in here["netdev_for_each_tx_queue"](device)]
        # klab lists those that are in use.
        assert device.real_num_tx_queues.value_() == len(details["tx"])
        assert [queue["at"] for queue in details["tx"]] == queues[: len(details["tx"])]
    table = Object(prog, "struct neigh_table", address=prog.symbol("arp_tbl").address)
    neighbours = {neighbour.value_() for neighbour in here["neigh_table_for_each_neighbor"](table.nht)}
    said = {neighbour["at"] for neighbour in klab_says("neigh") if ":" not in neighbour["address"]}
    assert said == neighbours and len(said) >= 5
