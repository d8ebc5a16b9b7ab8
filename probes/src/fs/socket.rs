//! Names of what a socket is: of `AF_*` and of `SOCK_*`.

/// The name of an `AF_*` of `include/linux/socket.h`, without `AF_`.
#[must_use]
pub fn family(family: u16) -> String {
    let name = match family {
        1 => "UNIX",
        2 => "INET",
        10 => "INET6",
        16 => "NETLINK",
        17 => "PACKET",
        38 => "ALG",
        40 => "VSOCK",
        44 => "XDP",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// The name of a `SOCK_*` of `include/linux/net.h`, without `SOCK_`.
#[must_use]
pub const fn socket_type(type_: u16) -> &'static str {
    match type_ {
        1 => "STREAM",
        2 => "DGRAM",
        3 => "RAW",
        4 => "RDM",
        5 => "SEQPACKET",
        10 => "PACKET",
        _ => "?",
    }
}
