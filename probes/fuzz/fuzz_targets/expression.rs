//! Any text as a C expression and as a C type.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use probes::Guest;
use probes::kernel::FakeKernel;

static GUEST: LazyLock<Guest> =
    LazyLock::new(|| Guest::from_kernel(FakeKernel::new().finish().unwrap()));

fuzz_target!(|text: &str| {
    let _ = GUEST.eval(text).and_then(|object| object.to_value());
    let _ = GUEST.type_of(text);
});
