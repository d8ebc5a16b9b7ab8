//! Any bytes as BTF: parsed, and every type of it asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probes::kernel::btf::Btf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes.to_vec()) else {
        return;
    };
    for ty in btf.types().take(4096) {
        let _ = (ty.name(), ty.members().count(), ty.params().count());
        let _ = ty.target().map(|target| btf.resolve(target));
    }
});
