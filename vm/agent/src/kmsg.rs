//! Lines in the kernel log, where the host's serial console shows them.

use std::{fmt::Display, io::Write as _};

/// Writes a line at level `LOG_INFO`.
pub(crate) fn say(line: impl Display) {
    if let Ok(mut kmsg) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = kmsg.write_all(format!("<6>klab-agent: {line}\n").as_bytes());
    }
}

/// The text of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}
