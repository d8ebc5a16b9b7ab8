//! Address spaces as tables: the mappings, and the members of `mm_struct`.

use crate::Missing;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::mm::{AddressMap, MmStruct, RssCounter, Vma, Vmas};
use crate::view::{Align, Table, View, bytes, or_unknown, sum_of_bytes};

crate::lists! { Vma => vmas }

fn vmas(vmas: &Vmas) -> Table {
    use Align::{Left, Right};
    let swap = vmas.iter().any(|vma| vma.swapped != Some(0));
    let mut columns = vec![
        ("START", Left),
        ("END", Left),
        ("PERM", Left),
        ("SIZE", Right),
        ("RSS", Right),
        ("SWAP", Right),
        ("OFFSET", Right),
        ("NAME", Left),
    ];
    columns.retain(|(name, _)| swap || *name != "SWAP");
    let mut table = Table::new(columns);
    let in_bytes = |pages: u64| pages.saturating_mul(PAGE_SIZE);
    for vma in vmas {
        let mut cells = vec![
            format!("{:012x}", vma.start.0),
            format!("{:012x}", vma.end.0),
            vma.perms(),
            bytes(vma.len()),
            or_unknown(vma.resident.map(in_bytes).map(bytes)),
        ];
        if swap {
            cells.push(or_unknown(vma.swapped.map(in_bytes).map(bytes)));
        }
        cells.push(format!("{:x}", vma.offset));
        cells.push(vma.name.clone());
        table.row(cells);
    }
    table.note(format!(
        "{} mappings, {}, of which {} are resident",
        vmas.len(),
        sum_of_bytes(vmas.iter().map(|vma| Some(vma.len()))),
        sum_of_bytes(vmas.iter().map(|vma| vma.resident.map(in_bytes)))
    ));
    table.lacks(&vmas.missing);
    table
}

impl View for MmStruct {
    fn text(&self) -> String {
        fields(self).text()
    }

    fn html(&self) -> Option<String> {
        fields(self).html()
    }

    fn missing(&self) -> Vec<Missing> {
        self.missing.clone()
    }
}

fn fields(mm: &MmStruct) -> Table {
    let head = format!("{:#x}", mm.at.0);
    let mut table = Table::new([
        ("MM_STRUCT", Align::Left),
        (&*head, Align::Left),
        ("", Align::Left),
    ]);
    let address = |at: GuestVirt| format!("{:#x}", at.0);
    let between = |from: GuestVirt, to: GuestVirt| {
        to.0.checked_sub(from.0)
            .map_or_else(|| "ends before it begins".to_owned(), bytes)
    };
    let pages = |n: u64| bytes(n.saturating_mul(PAGE_SIZE));
    let counter = |c: RssCounter| {
        let sum = or_unknown(c.sum);
        format!("{sum} pages ({} without the CPUs' shares)", c.count)
    };
    let rows = [
        ("start_code", address(mm.start_code), String::new()),
        (
            "end_code",
            address(mm.end_code),
            format!("code: {}", between(mm.start_code, mm.end_code)),
        ),
        ("start_data", address(mm.start_data), String::new()),
        (
            "end_data",
            address(mm.end_data),
            format!("data: {}", between(mm.start_data, mm.end_data)),
        ),
        ("start_brk", address(mm.start_brk), String::new()),
        (
            "brk",
            address(mm.brk),
            format!("heap: {}", between(mm.start_brk, mm.brk)),
        ),
        ("start_stack", address(mm.start_stack), String::new()),
        ("arg_start", address(mm.arg_start), String::new()),
        (
            "arg_end",
            address(mm.arg_end),
            format!("arguments: {}", between(mm.arg_start, mm.arg_end)),
        ),
        ("env_start", address(mm.env_start), String::new()),
        (
            "env_end",
            address(mm.env_end),
            format!("environment: {}", between(mm.env_start, mm.env_end)),
        ),
        ("mmap_base", address(mm.mmap_base), String::new()),
        (
            "task_size",
            address(mm.task_size),
            format!("TASK_SIZE: {}", bytes(mm.task_size.0)),
        ),
        ("pgd", address(mm.pgd), String::new()),
        ("map_count", mm.map_count.to_string(), String::new()),
        ("mm_users", mm.mm_users.to_string(), String::new()),
        ("mm_count", mm.mm_count.to_string(), String::new()),
        ("total_vm", mm.total_vm.to_string(), pages(mm.total_vm)),
        ("data_vm", mm.data_vm.to_string(), pages(mm.data_vm)),
        ("exec_vm", mm.exec_vm.to_string(), pages(mm.exec_vm)),
        ("stack_vm", mm.stack_vm.to_string(), pages(mm.stack_vm)),
        ("locked_vm", mm.locked_vm.to_string(), pages(mm.locked_vm)),
        ("pinned_vm", mm.pinned_vm.to_string(), pages(mm.pinned_vm)),
        (
            "pgtables_bytes",
            mm.pgtables_bytes.to_string(),
            bytes(mm.pgtables_bytes),
        ),
        (
            "rss_stat[MM_FILEPAGES]",
            counter(mm.rss.file),
            String::new(),
        ),
        (
            "rss_stat[MM_ANONPAGES]",
            counter(mm.rss.anon),
            String::new(),
        ),
        ("rss_stat[MM_SWAPENTS]", counter(mm.rss.swap), String::new()),
        (
            "rss_stat[MM_SHMEMPAGES]",
            counter(mm.rss.shmem),
            format!("resident: {}", or_unknown(mm.rss.resident().map(pages))),
        ),
    ];
    for (name, value, note) in rows {
        table.row([name.to_owned(), value, note]);
    }
    table.lacks(&mm.missing);
    table
}

impl View for AddressMap {
    fn text(&self) -> String {
        format!(
            "address space of {} ({})\n{}{}",
            self.pid,
            crate::view::clean(&self.comm),
            self.mm.text(),
            self.vmas.text()
        )
    }

    fn svg(&self) -> Option<String> {
        Some(super::map::picture(self))
    }

    fn missing(&self) -> Vec<Missing> {
        [&self.mm.missing[..], &self.vmas.missing].concat()
    }
}

crate::displays!(AddressMap, MmStruct);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::VmaKind;
    use crate::mm::testing::vma;

    #[test]
    fn pages_that_could_not_be_counted_are_no_number() {
        let known = vma(0x1000, 0x5000, 3, "[heap]", VmaKind::Heap);
        let mut unknown = vma(0x8000, 0x9000, 3, "[stack]", VmaKind::Stack);
        let text = Vmas::from(vec![known.clone(), unknown.clone()]).text();
        assert!(!text.contains("SWAP") && !text.contains('?'), "{text}");
        (unknown.resident, unknown.swapped) = (None, None);
        let vmas = Vmas::from(vec![known, unknown]);
        let text = vmas.text();
        let line = text.lines().find(|line| line.contains("[stack]")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[cells.len() - 4..], ["?", "?", "0", "[stack]"]);
        assert!(text.contains("at least 4 KiB are resident"), "{text}");
        let json = serde_json::to_value(&vmas).unwrap();
        assert!(json[1]["resident"].is_null() && json[0]["resident"] == 1);
    }
}
