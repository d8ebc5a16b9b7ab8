//! Files in and out.

use crate::Guest;

#[test]
fn what_is_pushed_is_pulled() {
    let mut guest = Guest::up("files");
    // Exactly whole chunks, a byte around them, and nothing.
    for len in [0, 1, 65_535, 65_536, 65_537, 3 << 20] {
        let bytes: Vec<u8> = (0..len as u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8)
            .collect();
        guest
            .push("/tmp/a/b/file", 0o751, bytes.as_slice())
            .unwrap();
        assert_eq!(guest.read("/tmp/a/b/file").unwrap(), bytes, "{len}");
        assert_eq!(
            guest.sh("stat -c '%a %s' /tmp/a/b/file; ls -A /tmp/a/b"),
            format!("751 {len}\nfile\n")
        );
    }
    guest
        .push_file(&std::env::current_exe().unwrap(), "/root/test")
        .unwrap();
    let mut out = Vec::new();
    let len = guest.pull("/root/test", &mut out).unwrap();
    assert_eq!(
        (len, &out),
        (
            out.len() as u64,
            &std::fs::read(std::env::current_exe().unwrap()).unwrap()
        )
    );
}

#[test]
fn the_kernels_own_files_are_read_and_written_in_place() {
    let mut guest = Guest::up("procfiles");
    guest
        .push("/proc/sys/kernel/hostname", 0, &b"changed"[..])
        .unwrap();
    assert_eq!(
        guest.read("/proc/sys/kernel/hostname").unwrap(),
        b"changed\n"
    );
    // No length, no end: what is there now.
    assert!(!guest.read("/dev/kmsg").unwrap().is_empty());
}

#[test]
fn what_cannot_be_is_said_and_the_client_goes_on() {
    let mut guest = Guest::up("badfiles");
    for (path, part) in [
        ("/etc/passwd/x", "/etc/passwd"),
        ("relative", "absolute"),
        ("/", "absolute"),
        ("/tmp", "/tmp"),
    ] {
        let message = guest
            .push(path, 0o644, &vec![1; 1 << 20][..])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(part) && !message.contains('\n'),
            "{message}"
        );
    }
    let message = guest.read("/no/such").unwrap_err().to_string();
    assert!(
        message.contains("/no/such") && message.contains("No such file"),
        "{message}"
    );
    // A full disk, with more to come.
    guest.sh("mkdir /tmp/small; mount -t tmpfs -o size=1m none /tmp/small");
    let message = guest
        .push("/tmp/small/big", 0o644, &vec![1; 8 << 20][..])
        .unwrap_err()
        .to_string();
    assert!(message.contains("No space left"), "{message}");
    assert_eq!(guest.sh("ls -A /tmp/small"), "");
}
