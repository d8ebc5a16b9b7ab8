//! Disks, and the requests that are under way.

use crate::drivers::device::{Disk, Disks};
use crate::view::{Align, Table, View, bytes};

impl View for Disks {
    fn text(&self) -> String {
        let (disks, requests) = disks(self);
        let mut text = disks.text();
        if !requests.is_empty() {
            text += "\n";
            text += &requests.text();
        }
        text
    }

    fn html(&self) -> Option<String> {
        let (disks, requests) = disks(self);
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
        let (queue, stats) = (&disk.queue, &disk.stats);
        let (queues, scheduler, depth) = if queue.mq {
            (
                queue.nr_hw_queues.to_string(),
                queue.elevator.clone().unwrap_or_else(|| "none".to_owned()),
                queue.nr_requests.to_string(),
            )
        } else {
            (String::new(), "takes bios".to_owned(), String::new())
        };
        table.row([
            disk.name.clone(),
            disk.dev.to_string(),
            bytes(disk.sectors.saturating_mul(512)),
            if disk.read_only { "ro" } else { "rw" }.to_owned(),
            queues,
            scheduler,
            depth,
            disk.in_flight.iter().sum::<u64>().to_string(),
            stats.read.ios.to_string(),
            bytes(stats.read.sectors.saturating_mul(512)),
            stats.write.ios.to_string(),
            bytes(stats.write.sectors.saturating_mul(512)),
        ]);
        for part in &disk.partitions {
            table.row([
                format!("  {}", part.name),
                part.dev.to_string(),
                bytes(part.sectors.saturating_mul(512)),
                String::new(),
                String::new(),
                format!("from sector {}", part.start),
                String::new(),
                String::new(),
                part.stats.read.ios.to_string(),
                bytes(part.stats.read.sectors.saturating_mul(512)),
                part.stats.write.ios.to_string(),
                bytes(part.stats.write.sectors.saturating_mul(512)),
            ]);
        }
    }
    if all.is_empty() {
        table
            .note("no disks: `modprobe loop`, `brd`, `zram` or `null_blk` in the guest makes some");
    }
    (table, requests(all))
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
        for request in &disk.queue.requests {
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

crate::displays!(Disks);
