//! Any bytes as what the agent sends.
#![no_main]

use klab_wire::frame::{Decoder, MAX_FRAME};
use klab_wire::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut replies, mut requests) = (Decoder::new(), Decoder::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = replies.push(rest);
        let also = requests.push(rest);
        while replies.message::<Reply>().is_some() {}
        while requests.message::<Request>().is_some() {}
        assert!(replies.held() <= MAX_FRAME && taken == also);
        rest = &rest[taken..];
    }
});
