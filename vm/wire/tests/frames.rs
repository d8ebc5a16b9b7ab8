//! Frames: whatever is written is read, and no bytes break the decoder.

use klab_wire::{
    Answer, Ask, Reply, Request, Stream,
    frame::{Decoder, FrameError, HEADER, MAX_FRAME, MAX_PAYLOAD, encode, flush},
    proc::{parse_kallsyms, parse_kmsg, parse_meminfo, parse_modules},
};
use proptest::prelude::*;

fn all(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Vec<Result<Reply, FrameError>> {
    let mut got = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece, |m| got.push(m));
        assert!(decoder.held() <= MAX_FRAME);
    }
    got
}

fn output(id: u32, data: Vec<u8>) -> Reply {
    Reply {
        id,
        answer: Answer::Output {
            stream: Stream::Stdout,
            data,
        },
    }
}

proptest! {
    #[test]
    fn what_is_sent_arrives(sent in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8), piece in 1usize..700) {
        let sent: Vec<Reply> = sent.into_iter().map(|(id, data)| output(id, data)).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|r| encode(r).unwrap()).collect();
        let got: Vec<Reply> = all(&mut Decoder::new(), &bytes, piece).into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn garbage_between_frames_is_skipped(garbage in prop::collection::vec(any::<u8>(), 0..2000), cut in 0usize..200, piece in 1usize..300) {
        let (a, b) = (output(1, vec![7; 200]), output(2, b"KLabKLab".to_vec()));
        let mut bytes = garbage;
        let first = encode(&a).unwrap();
        bytes.extend_from_slice(&first[..cut.min(first.len() - 1)]); // a peer that died in mid-frame
        bytes.extend(encode(&b).unwrap());
        bytes.extend(flush());
        let got = all(&mut Decoder::new(), &bytes, piece);
        prop_assert!(got.contains(&Ok(b)), "{:?}", got);
        prop_assert!(!got.contains(&Ok(a)));
    }

    #[test]
    fn arbitrary_payloads_give_an_answer(payload in prop::collection::vec(any::<u8>(), 0..400)) {
        // A frame whose header is right and whose payload is arbitrary.
        let mut frame = encode(&serde_bytes::Bytes::new(&payload)).unwrap();
        let mut got = Vec::new();
        Decoder::new().feed::<Reply>(&frame, |m| got.push(m));
        prop_assert_eq!(got.len(), 1);
        let mut got = Vec::new();
        Decoder::new().feed::<Request>(&frame, |m| got.push(m));
        prop_assert_eq!(got.len(), 1);
        // And one bit wrong anywhere: never a message.
        let bit = payload.len() * 31 % (frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        let mut got: Vec<Result<Reply, _>> = Vec::new();
        Decoder::new().feed(&frame, |m| got.push(m));
        prop_assert!(got.iter().all(Result::is_err), "{:?}", got);
    }

    #[test]
    fn headers_that_lie(len in any::<u32>(), version in any::<u16>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = b"KLab".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(len.to_le_bytes());
        bytes.extend(rest);
        let mut decoder = Decoder::new();
        let _ = all(&mut decoder, &bytes, 17);
        let hello = Reply { id: 9, answer: Answer::Done };
        let got = all(&mut decoder, &[flush(), encode(&hello).unwrap()].concat(), 4096);
        prop_assert!(got.contains(&Ok(hello)));
    }

    #[test]
    fn proc_text(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = parse_kallsyms(&bytes);
        let _ = (parse_kmsg(&bytes), parse_meminfo(&bytes), parse_modules(&bytes));
    }
}

#[test]
fn too_long_is_refused_and_the_longest_is_not() {
    assert!(matches!(
        encode(&output(1, vec![0; MAX_PAYLOAD])),
        Err(FrameError::TooLong(_))
    ));
    let longest = output(1, vec![0x4b; MAX_PAYLOAD - 6]);
    let frame = encode(&longest).unwrap();
    assert!(frame.len() <= MAX_FRAME && frame.len() > MAX_FRAME - 8);
    assert_eq!(all(&mut Decoder::new(), &frame, 1000), [Ok(longest)]);
}

#[test]
fn another_version_is_named() {
    let mut frame = encode(&Request {
        id: 1,
        ask: Ask::Ping,
    })
    .unwrap();
    frame[4] = 99;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[4..12]);
    crc.update(&frame[HEADER..]);
    frame[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
    assert_eq!(
        all(&mut Decoder::new(), &frame, 3),
        [Err(FrameError::Version(99))]
    );
}
