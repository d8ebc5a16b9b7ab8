//! The functions of the lesson's path, and in which part of the kernel each is.

use serde::Serialize;

use crate::net::netfilter::Family;

/// A part of the kernel that a packet goes through; the columns of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Layer {
    /// Drivers, NAPI and GRO.
    Driver,
    /// The code that all devices share: `net/core/dev.c`, queues, taps.
    Device,
    /// Hooks, and what is registered on them.
    Netfilter,
    /// `net/ipv4/ip_*.c`, `net/ipv6/ip6_*.c`, routes, neighbours.
    Ip,
    /// TCP, UDP, ICMP.
    Transport,
    /// Sockets that get copies: raw and packet sockets.
    Socket,
    /// The `sk_buff` itself: copied, grown, freed.
    Buffer,
    /// Functions that no table here places.
    Other,
}

impl Layer {
    /// All of them, from the wire up.
    pub const ALL: [Self; 8] = [
        Self::Driver,
        Self::Device,
        Self::Netfilter,
        Self::Ip,
        Self::Transport,
        Self::Socket,
        Self::Buffer,
        Self::Other,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver, NAPI, GRO",
            Self::Device => "device",
            Self::Netfilter => "netfilter",
            Self::Ip => "IP",
            Self::Transport => "transport",
            Self::Socket => "socket",
            Self::Buffer => "sk_buff",
            Self::Other => "other",
        }
    }
}

/// The functions of [`Profile::Path`](super::Profile::Path), by layer. One that a kernel has not, or has inlined, is
/// left out there. Beside them, all functions registered with netfilter are hooked.
pub const PATH: &[(Layer, &[&str])] = &[
    (
        Layer::Driver,
        &[
            "gro_receive_skb",
            "napi_gro_receive",
            "dev_gro_receive",
            "inet_gro_receive",
            "ipv6_gro_receive",
            "tcp4_gro_receive",
            "tcp6_gro_receive",
            "eth_type_trans",
            "loopback_xmit",
            "veth_xmit",
            "start_xmit",
        ],
    ),
    (
        Layer::Device,
        &[
            "__netif_rx",
            "netif_rx_internal",
            "enqueue_to_backlog",
            "netif_receive_skb",
            "__netif_receive_skb",
            "__netif_receive_skb_one_core",
            "__dev_queue_xmit",
            "validate_xmit_skb",
            "sch_direct_xmit",
            "dev_hard_start_xmit",
            "dev_queue_xmit_nit",
            "__dev_forward_skb",
            "dev_forward_skb",
        ],
    ),
    (Layer::Netfilter, &["nf_hook_slow", "nf_conntrack_in"]),
    (
        Layer::Ip,
        &[
            "ip_rcv",
            "ip_rcv_core",
            "ip_rcv_finish",
            "ip_rcv_finish_core",
            "ip_route_input_noref",
            "ip_route_input_slow",
            "ip_route_use_hint",
            "ip_local_deliver",
            "ip_local_deliver_finish",
            "ip_protocol_deliver_rcu",
            "ip_forward",
            "ip_forward_finish",
            "ip_error",
            "__ip_queue_xmit",
            "ip_queue_xmit",
            "ip_send_skb",
            "ip_local_out",
            "__ip_local_out",
            "ip_output",
            "ip_mc_output",
            "ip_finish_output",
            "__ip_finish_output",
            "ip_do_fragment",
            "ip_frag_next",
            "ip_finish_output2",
            "ip_defrag",
            "ip6_rcv_core",
            "ip6_rcv_finish",
            "ip6_route_input",
            "ip6_input",
            "ip6_input_finish",
            "ip6_protocol_deliver_rcu",
            "ip6_mc_input",
            "ip6_forward",
            "ip6_xmit",
            "ip6_send_skb",
            "ip6_local_out",
            "__ip6_local_out",
            "ip6_output",
            "ip6_finish_output",
            "__ip6_finish_output",
            "ip6_frag_next",
            "ip6_finish_output2",
            "neigh_resolve_output",
            "neigh_connected_output",
        ],
    ),
    (
        Layer::Transport,
        &[
            "tcp_v4_rcv",
            "tcp_filter",
            "tcp_v4_do_rcv",
            "tcp_rcv_established",
            "tcp_rcv_state_process",
            "tcp_v4_conn_request",
            "tcp_conn_request",
            "tcp_check_req",
            "tcp_child_process",
            "tcp_data_queue",
            "tcp_queue_rcv",
            "tcp_add_backlog",
            "tcp_v4_send_reset",
            "tcp_v6_rcv",
            "tcp_v6_do_rcv",
            "tcp_v6_conn_request",
            "tcp_v6_send_reset",
            "tcp_v6_send_check",
            "__tcp_transmit_skb",
            "tcp_v4_send_check",
            "udp_rcv",
            "__udp4_lib_rcv",
            "udp_unicast_rcv_skb",
            "udp_queue_rcv_skb",
            "udp_queue_rcv_one_skb",
            "__udp_enqueue_schedule_skb",
            "udp_send_skb",
            "udpv6_rcv",
            "__udp6_lib_rcv",
            "udp6_unicast_rcv_skb",
            "udpv6_queue_rcv_skb",
            "udpv6_queue_rcv_one_skb",
            "udp_v6_send_skb",
            "icmpv6_rcv",
            "icmpv6_echo_reply",
            "icmp6_send",
            "ndisc_rcv",
            "icmp_rcv",
            "icmp_echo",
            "icmp_reply",
            "__icmp_send",
            "ping_rcv",
        ],
    ),
    (
        Layer::Socket,
        &[
            "raw_local_deliver",
            "raw_v4_input",
            "raw6_local_deliver",
            "ipv6_raw_deliver",
            "rawv6_rcv",
            "raw_rcv",
            "raw_rcv_skb",
            "packet_rcv",
            "tpacket_rcv",
            "sock_queue_rcv_skb_reason",
            "__sock_queue_rcv_skb",
        ],
    ),
    (
        Layer::Buffer,
        &[
            "skb_clone",
            "skb_copy",
            "__pskb_copy_fclone",
            "skb_copy_expand",
            "skb_segment",
            "skb_gro_receive",
            "pskb_expand_head",
            "skb_attempt_defer_free",
            "kfree_skb_partial",
            "skb_release_data",
        ],
    ),
];

/// The layer of a function.
pub(super) fn layer(name: &str) -> Layer {
    let known = PATH
        .iter()
        .find(|(_, names)| names.contains(&name))
        .map(|(layer, _)| *layer);
    known.unwrap_or_else(|| match name {
        "netif_receive_skb" | "netif_rx" | "net_dev_queue" | "net_dev_xmit" => Layer::Device,
        "napi_gro_receive_entry" | "net_dev_start_xmit" => Layer::Driver,
        "kfree_skb" | "consume_skb" => Layer::Buffer,
        _ if name.starts_with("nf_") || name.starts_with("nft_") => Layer::Netfilter,
        _ if ["tcp", "udp", "icmp", "ndisc_"]
            .iter()
            .any(|start| name.starts_with(start)) =>
        {
            Layer::Transport
        }
        _ if ["ip_", "ip6_", "ipv6_", "fib_", "fib6_"]
            .iter()
            .any(|start| name.starts_with(start)) =>
        {
            Layer::Ip
        }
        _ if name.starts_with("skb_") || name.starts_with("pskb_") => Layer::Buffer,
        _ if name.starts_with("dev_") || name.starts_with("netif_") => Layer::Device,
        _ => Layer::Other,
    })
}

/// The hook that each function calls by `NF_HOOK`: its family and number (`enum nf_inet_hooks`). The hook follows the
/// function.
pub(super) fn nf_hook(name: &str) -> Option<(Family, usize)> {
    Some(match name {
        // ip_rcv_core is what ip_rcv and ip_list_rcv share; both then call the hook.
        "ip_rcv_core" => (Family::Ip, 0),
        "ip_local_deliver" => (Family::Ip, 1),
        "ip_forward" => (Family::Ip, 2),
        "__ip_local_out" => (Family::Ip, 3),
        "ip_output" | "ip_mc_output" => (Family::Ip, 4),
        "ip6_rcv_core" => (Family::Ip6, 0),
        "ip6_input" => (Family::Ip6, 1),
        "ip6_forward" => (Family::Ip6, 2),
        // ip6_xmit does for TCP what __ip6_local_out does for all else.
        "ip6_xmit" | "__ip6_local_out" => (Family::Ip6, 3),
        "ip6_output" => (Family::Ip6, 4),
        _ => return None,
    })
}
