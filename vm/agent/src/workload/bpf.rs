//! BPF maps, programs and a link, held open (`include/uapi/linux/bpf.h`).
//!
//! With `unsafe`: bpf(2) and SO_ATTACH_BPF have no safe form. It is sound because each attribute is a zeroed array that
//! is larger than the kernel reads, and what it points to outlives the call.
#![allow(unsafe_code)]

use std::{
    mem::forget,
    net::UdpSocket,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::error::{Context as _, Result};

// enum bpf_cmd
const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
// enum bpf_map_type
const HASH: u32 = 1;
const ARRAY: u32 = 2;
/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
// enum bpf_prog_type
const SOCKET_FILTER: u32 = 1;
const XDP: u32 = 6;
/// `BPF_XDP` of `enum bpf_attach_type`.
const ATTACH_XDP: u32 = 37;
const XDP_PASS: i32 = 2;
/// `lo` of the first network namespace.
const LO: u32 = 1;

/// An attribute of bpf(2): larger than any that it reads here.
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
        self
    }

    fn word(self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_ne_bytes())
    }

    fn pointer<T>(self, at: usize, to: &[T]) -> Self {
        self.put(at, &to.as_ptr().expose_provenance().to_ne_bytes())
    }

    /// Calls bpf(2); what the pointers point to must be alive.
    fn call(mut self, command: i32) -> Result<i32> {
        // SAFETY: the kernel reads at most the 128 bytes that it is told of, and what they point to, which the caller
        // keeps alive for as long as this borrows.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                self.0.as_mut_ptr(),
                self.0.len() as u32,
            )
        };
        match i32::try_from(done) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(std::io::Error::last_os_error()).context(format_args!("bpf({command})")),
        }
    }

    /// Calls bpf(2) for something that it opens.
    fn open(self, command: i32) -> Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the kernel has just opened it for this call.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A number that the kernel takes as unsigned.
fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn map(
    kind: u32,
    (key, value, entries): (u32, u32, u32),
    flags: u32,
    name: &str,
) -> Result<OwnedFd> {
    Attr::new()
        .word(0, kind)
        .word(4, key)
        .word(8, value)
        .word(12, entries)
        .word(16, flags)
        .put(28, name.as_bytes())
        .open(MAP_CREATE)
}

fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> Result<()> {
    Attr::new()
        .word(0, raw(map))
        .pointer(8, key)
        .pointer(16, value)
        .call(MAP_UPDATE_ELEM)
        .map(|_| ())
}

/// `struct bpf_insn`: code, registers, offset, immediate.
const fn insn(code: u8, registers: u8, immediate: i32) -> u64 {
    code as u64 | (registers as u64) << 8 | (immediate as u32 as u64) << 32
}

fn program(kind: u32, insns: &[u64], name: &str) -> Result<OwnedFd> {
    Attr::new()
        .word(0, kind)
        .word(4, u32::try_from(insns.len())?)
        .pointer(8, insns)
        .pointer(16, c"GPL".to_bytes_with_nul())
        .put(48, name.as_bytes())
        .open(PROG_LOAD)
}

/// Makes them and leaves them open until the process ends.
pub(super) fn make() -> Result<()> {
    let array = map(ARRAY, (4, 8, 3), 0, "klab_array")?;
    for index in 0..3_u32 {
        update(
            &array,
            &index.to_ne_bytes(),
            &(u64::from(index) + 7).to_ne_bytes(),
        )?;
    }
    let hash = map(HASH, (8, 4, 16), NO_PREALLOC, "klab_hash")?;
    // r1 = the map; r0 = all of the packet; return r0
    let filter = [
        insn(0x18, 0x11, array.as_raw_fd()),
        insn(0, 0, 0),
        insn(0xb7, 0, i32::MAX),
        insn(0x95, 0, 0),
    ];
    let filter = program(SOCKET_FILTER, &filter, "klab_filter")?;
    let socket = UdpSocket::bind(("127.0.0.1", 0)).context("cannot bind")?;
    let fd = filter.as_raw_fd();
    // SAFETY: the option is an int, and its size is said.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            (&raw const fd).cast(),
            size_of_val(&fd) as u32,
        )
    };
    if attached != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot attach the filter");
    }
    let xdp = [insn(0xb7, 0, XDP_PASS), insn(0x95, 0, 0)];
    let xdp = program(XDP, &xdp, "klab_xdp")?;
    let link = Attr::new()
        .word(0, raw(&xdp))
        .word(4, LO)
        .word(8, ATTACH_XDP)
        .open(LINK_CREATE)?;
    forget((array, hash, filter, socket, xdp, link));
    Ok(())
}
