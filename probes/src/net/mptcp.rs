//! MPTCP sockets: `struct mptcp_sock` (`net/mptcp/protocol.h`), which programs have open in place of its TCP subflows.
//!
//! Connected ones are in `token_hash`. One that listens is in no table: its subflow is, among the TCP sockets that
//! listen, and leads to it (`mptcp_diag_dump_listeners()` of `net/mptcp/mptcp_diag.c`).

use super::table::{Buckets, Links, SocketTable, size_of};
use crate::kernel::Kernel;
use crate::memory::GuestVirt;
use crate::object::Mirror;
use crate::structures::offset_of;
use crate::{Error, Result};

/// As many buckets as `mptcp_token_init()` makes at most.
const BUCKET_BOUND: u32 = 1 << 16;

#[derive(Debug, Mirror)]
#[mirror(c = "struct inet_connection_sock")]
struct Ulp {
    icsk_ulp_ops: GuestVirt,
    icsk_ulp_data: GuestVirt,
}

/// The buckets of `token_hash`; none of a kernel without MPTCP.
pub(super) fn buckets(kernel: &Kernel) -> Result<Option<Buckets>> {
    let symbols = kernel.symbols()?;
    let (Some(hash), Some(mask)) = (symbols.lookup("token_hash"), symbols.lookup("token_mask"))
    else {
        return Ok(None);
    };
    let (first, mask) = (GuestVirt(kernel.read_u64(hash)?), kernel.read_u32(mask)?);
    if first.is_null() {
        return Ok(None);
    }
    if mask >= BUCKET_BOUND {
        let why = format!("token_mask is {mask:#x}");
        return Err(Error::broken("table of sockets", first, why));
    }
    let chain = offset_of(kernel, "struct token_bucket", "msk_chain")?;
    Ok(Some(Buckets {
        table: SocketTable::Mptcp,
        first: first.offset(chain),
        count: u64::from(mask) + 1,
        stride: size_of(kernel, "struct token_bucket")?,
        links: Links::Numbered,
    }))
}

/// The MPTCP socket that a TCP socket is a subflow of: by its upper layer protocol.
pub(super) fn of_subflow(kernel: &Kernel, at: GuestVirt) -> Result<Option<GuestVirt>> {
    let Some(mptcp) = kernel.symbols()?.lookup("subflow_ulp_ops") else {
        return Ok(None);
    };
    let ulp: Ulp = kernel.load(at)?;
    if ulp.icsk_ulp_ops != mptcp || ulp.icsk_ulp_data.is_null() {
        return Ok(None);
    }
    let conn = offset_of(kernel, "struct mptcp_subflow_context", "conn")?;
    let conn = GuestVirt(kernel.read_u64(ulp.icsk_ulp_data.offset(conn))?);
    Ok((!conn.is_null()).then_some(conn))
}
