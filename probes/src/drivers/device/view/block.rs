//! Disks, and the requests that are under way.

use crate::drivers::device::{Disk, DiskStats, Disks};
use crate::view::{Align, ListView, Table, View, bytes, or_unknown};

impl ListView for Disk {
    fn text(all: &Disks) -> String {
        let (disks, requests) = disks(all);
        let mut text = disks.text();
        if !requests.is_empty() {
            text += "\n";
            text += &requests.text();
        }
        text
    }

    fn html(all: &Disks) -> Option<String> {
        let (disks, requests) = disks(all);
        let requests = if requests.is_empty() {
            String::new()
        } else {
            requests.html()?
        };
        Some(disks.html()? + &requests)
    }
}

fn disks(all: &Disks) -> (Table, Table) {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("DISK", Left),
        ("DEV", Left),
        ("SIZE", Right),
        ("", Left),
        ("QUEUES", Right),
        ("SCHED", Left),
        ("DEPTH", Right),
        ("IN FLIGHT", Right),
        ("READS", Right),
        ("READ", Right),
        ("WRITES", Right),
        ("WRITTEN", Right),
    ]);
    for disk in all.iter() {
        let (queues, scheduler, depth) = match &disk.queue {
            Some(queue) if queue.mq => (
                queue.nr_hw_queues.to_string(),
                queue.elevator.clone().unwrap_or_else(|| "none".to_owned()),
                queue.nr_requests.to_string(),
            ),
            Some(_) => (String::new(), "takes bios".to_owned(), String::new()),
            None => ("?".to_owned(), "?".to_owned(), "?".to_owned()),
        };
        let [reads, read, writes, written] = transferred(disk.stats.as_ref());
        table.row([
            disk.name.clone(),
            disk.dev.to_string(),
            bytes(disk.sectors.saturating_mul(512)),
            if disk.read_only { "ro" } else { "rw" }.to_owned(),
            queues,
            scheduler,
            depth,
            or_unknown(disk.in_flight.map(|count| count.iter().sum::<u64>())),
            reads,
            read,
            writes,
            written,
        ]);
        for part in &disk.partitions {
            let [reads, read, writes, written] = transferred(part.stats.as_ref());
            table.row([
                format!("  {}", part.name),
                part.dev.to_string(),
                bytes(part.sectors.saturating_mul(512)),
                String::new(),
                String::new(),
                format!("from sector {}", part.start),
                String::new(),
                String::new(),
                reads,
                read,
                writes,
                written,
            ]);
        }
    }
    if all.is_empty() && all.is_whole() {
        table
            .note("no disks: `modprobe loop`, `brd`, `zram` or `null_blk` in the guest makes some");
    }
    table.lacks(&all.missing);
    (table, requests(all))
}

/// Number of reads and their size, and the same of writes.
fn transferred(stats: Option<&DiskStats>) -> [String; 4] {
    let kinds = [
        stats.map(|stats| stats.read),
        stats.map(|stats| stats.write),
    ];
    let [read, write] = kinds.map(|kind| {
        let size = kind.map(|kind| bytes(kind.sectors.saturating_mul(512)));
        [or_unknown(kind.map(|kind| kind.ios)), or_unknown(size)]
    });
    let ([reads, read], [writes, written]) = (read, write);
    [reads, read, writes, written]
}

fn requests(all: &[Disk]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("REQUEST", Left),
        ("DISK", Left),
        ("QUEUE", Right),
        ("TAG", Right),
        ("OPERATION", Left),
        ("SECTOR", Right),
        ("BYTES", Right),
        ("STATE", Left),
    ]);
    for disk in all {
        let requests = disk
            .queue
            .as_ref()
            .and_then(|queue| queue.requests.as_ref());
        for request in requests.into_iter().flatten() {
            table.row([
                format!("{:#x}", request.at.0),
                disk.name.clone(),
                request.hw_queue.to_string(),
                if request.tag < 0 {
                    request.internal_tag
                } else {
                    request.tag
                }
                .to_string(),
                request.op.clone(),
                request.sector.to_string(),
                request.bytes.to_string(),
                request.state.clone(),
            ]);
        }
    }
    table
}
