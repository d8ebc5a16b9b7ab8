//! The table of initcalls, against what the kernel says while it goes through it (`initcall_debug`).

use probes::Guest;
use probes::initcall::Initcall;

/// The function of `calling  inet_init+0x0/0x2b0 @ 1`.
fn called(line: &str) -> Option<&str> {
    line.strip_prefix("calling  ")?.split('+').next()
}

#[test]
fn are_called_in_their_order() {
    let name = format!("boot-{}", std::process::id());
    let guest = Guest::held_at_boot(&name).unwrap();
    let table = guest.initcalls().unwrap();
    let level = |name: &str| -> Vec<&str> {
        let calls = table.iter().filter(|call: &&Initcall| call.name == name);
        calls.map(|call| call.level).collect()
    };
    assert_eq!(level("inet_init"), ["fs_initcall"]);
    assert_eq!(level("populate_rootfs"), ["rootfs_initcall"]);
    assert!(table.len() > 300, "{}", table.len());

    let machine = guest.machine().unwrap();
    machine.resume().unwrap();
    let mut agent = loop {
        // It boots under a translator.
        match machine.agent() {
            Ok(agent) => break agent,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    };
    let log = agent.kmsg().unwrap();
    let said = log.iter().filter_map(|record| called(&record.text));
    // Consoles come before all, from a table of their own; the modules' functions come behind.
    let said: Vec<&str> = said.skip_while(|name| *name != table[0].name).collect();
    let differs = table
        .iter()
        .zip(&said)
        .find(|(ours, said)| ours.name != **said);
    assert_eq!(differs, None);
    assert!(
        said.len() >= table.len(),
        "{} of {}",
        said.len(),
        table.len()
    );
    let error = guest.initcalls().unwrap_err().to_string();
    assert!(error.contains("held_at_boot"), "{error}");
    machine.down().unwrap();
}
