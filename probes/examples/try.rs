use probes::prelude::*;
fn show<T: View + serde::Serialize>(v: Result<T>) {
    match v {
        Ok(v) => {
            println!("{}", v.text());
            if std::env::var_os("J").is_some() {
                println!("{}", serde_json::to_string(&v).unwrap());
            }
            let _ = v.html();
            let _ = v.svg();
        }
        Err(e) => println!("ERROR {e}"),
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let guest = Guest::attach(&a[1]).unwrap();
    let arg = |i: usize| a.get(i).cloned().unwrap_or_default();
    let pid = || arg(3).parse::<i32>().unwrap_or(1);
    let at = || {
        let t = arg(3);
        match t.strip_prefix("0x") {
            Some(h) => GuestVirt(u64::from_str_radix(h, 16).unwrap()),
            None => guest
                .symbol(&t)
                .or_else(|_| guest.eval(&t).and_then(|o| o.pointer()))
                .unwrap(),
        }
    };
    let _ = &at;
    let t = std::time::Instant::now();
    match a[2].as_str() {
        "task" => show(guest.process(pid())),
        "task100" => {
            for _ in 0..100 {
                let _ = guest.process(pid());
            }
        }
        "P" => {
            let _ = guest.paused(|g| {
                show(g.run_queues());
                Ok(())
            });
        }
        "workload" => {
            let k = match arg(3).as_str() {
                "deadline" => WorkloadKind::Deadline,
                "contended" => WorkloadKind::Contended,
                _ => WorkloadKind::Confined,
            };
            println!("{:?}", guest.agent().unwrap().workload(k).unwrap().pid);
        }
        "wait" => show(guest.wait_queue(at())),
        "mutex" => show(guest.mutex(at())),
        "rwsem" => show(guest.rwsem(at())),
        "rtm" => show(guest.rt_mutex(at())),
        "completion" => show(guest.completion(at())),
        "dis" => show(guest.disassembly(at())),
        "path" => show(guest.path_lookup(&arg(3), 1)),
        "inode" => show(guest.inode(at())),
        "fs" => show(guest.filesystems()),
        "locks" => show(guest.file_locks()),
        "auxv" => show(guest.auxv(pid())),
        "elf" => show(guest.elf_images(pid())),
        "vdso" => show(guest.vdso(pid())),
        "dev" => show(guest.net_device(&arg(3))),
        "routes" => show(guest.routes()),
        "neigh" => show(guest.neighbours()),
        "nft" => show(guest.nft_ruleset()),
        "ct" => show(guest.conntrack()),
        "runq" => show(guest.run_queues()),
        "cgroups" => show(guest.cgroups()),
        "namespaces" => show(guest.all_namespaces()),
        _ => panic!(),
    }
    eprintln!("{:?}", t.elapsed());
}
