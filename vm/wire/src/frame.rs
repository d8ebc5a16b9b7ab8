//! Frames: a header of 16 bytes, then a postcard payload.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | [`MAGIC`] |
//! | 4..6 | [`VERSION`], little-endian |
//! | 6..8 | zero |
//! | 8..12 | length of the payload in bytes, little-endian, at most [`MAX_PAYLOAD`] |
//! | 12..16 | CRC-32 of bytes 4..12 and the payload, little-endian |
//!
//! The checksum is there for one case: a peer that dies in the middle of a frame. Its successor's first
//! frame is then swallowed as the rest of that payload; the checksum fails and the decoder looks for the
//! next magic inside what it swallowed, so nothing of the successor is lost. [`flush`] ends such a frame.

use serde::{Serialize, de::DeserializeOwned};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"KLab";
/// The version of the frames and of every message; both ends must have the same.
pub const VERSION: u16 = 2;
/// Bytes of a header.
pub const HEADER: usize = 16;
/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 128 * 1024;
/// The longest frame, in bytes.
pub const MAX_FRAME: usize = HEADER + MAX_PAYLOAD;

/// Fault of a frame. The decoder goes on after each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The other end speaks another version.
    #[error("the other end speaks version {0} of klab's frames, this end version {VERSION}")]
    Version(u16),
    /// A message that does not fit one frame.
    #[error("a message of {0} bytes is longer than a frame may be ({MAX_PAYLOAD} bytes)")]
    TooLong(usize),
    /// A frame whose payload is no message.
    #[error("a frame holds no message: {0}")]
    Payload(String),
}

/// The frame that holds `message`.
///
/// # Errors
/// [`FrameError::TooLong`] when it does not fit, [`FrameError::Payload`] when it does not serialise.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; HEADER])
        .map_err(|e| FrameError::Payload(e.to_string()))?;
    let len = frame.len().saturating_sub(HEADER);
    let Some(len32) = u32::try_from(len).ok().filter(|_| len <= MAX_PAYLOAD) else {
        return Err(FrameError::TooLong(len));
    };
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[8..12].copy_from_slice(&len32.to_le_bytes());
    let crc = checksum(&header, &frame[HEADER..]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    frame[..HEADER].copy_from_slice(&header);
    Ok(frame)
}

/// Bytes that end the frame that the other end's decoder may be in the middle of.
pub fn flush() -> Vec<u8> {
    vec![0; MAX_FRAME]
}

fn checksum(header: &[u8; HEADER], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[4..12]);
    crc.update(payload);
    crc.finalize()
}

/// Turns bytes, in pieces of any size, into messages; bytes that are no frame are skipped.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what it has seen.
    pub fn reset(&mut self) {
        self.buf.clear();
        self.at = 0;
    }

    /// Bytes that are held and not yet decoded, at most [`MAX_FRAME`].
    pub fn held(&self) -> usize {
        self.buf.len() - self.at
    }

    /// Takes as many of `bytes` as there is room for and says how many. After [`Decoder::message`] has
    /// given `None` there is always room for at least one.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.buf.drain(..self.at);
        self.at = 0;
        let n = bytes.len().min(MAX_FRAME - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        n
    }

    /// The next message, or what is wrong with the next frame; `None` when more bytes are needed.
    pub fn message<T: DeserializeOwned>(&mut self) -> Option<Result<T, FrameError>> {
        loop {
            self.skip_to_magic();
            let rest = &self.buf[self.at..];
            let header: &[u8; HEADER] = rest.first_chunk()?;
            let version = u16::from_le_bytes([header[4], header[5]]);
            let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
            let crc = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
            if len > MAX_PAYLOAD {
                self.at += 1;
                continue;
            }
            let payload = rest.get(HEADER..HEADER + len)?;
            if checksum(header, payload) != crc {
                self.at += 1;
                continue;
            }
            let message = if version == VERSION {
                postcard::from_bytes(payload).map_err(|e| FrameError::Payload(e.to_string()))
            } else {
                Err(FrameError::Version(version))
            };
            self.at += HEADER + len;
            return Some(message);
        }
    }

    /// Feeds `bytes` and calls `on` with every message that they complete.
    pub fn feed<T: DeserializeOwned>(
        &mut self,
        mut bytes: &[u8],
        mut on: impl FnMut(Result<T, FrameError>),
    ) {
        loop {
            let n = self.push(bytes);
            bytes = &bytes[n..];
            while let Some(message) = self.message() {
                on(message);
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Drops what cannot begin a frame; keeps a tail that may be the first bytes of a magic.
    fn skip_to_magic(&mut self) {
        let rest = &self.buf[self.at..];
        if let Some(n) = memchr::memmem::find(rest, &MAGIC) {
            self.at += n;
        } else {
            let keep = (1..MAGIC.len())
                .rev()
                .find(|&n| rest.ends_with(&MAGIC[..n]))
                .unwrap_or(0);
            self.at = self.buf.len() - keep;
        }
    }
}
