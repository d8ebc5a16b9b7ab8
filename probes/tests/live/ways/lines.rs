//! Parts of the ways of packets, each a line a stage.

use super::Lines;

/// From the stack to the driver; Debian's AppArmor has a hook there.
pub(super) const OUT: Lines = &[
    "ip_output",
    "nf_hook_slow",
    "apparmor_ip_postroute : POST_ROUTING -225 ACCEPT",
    "ip_finish_output @out",
    "__ip_finish_output",
    "ip_finish_output2",
    "?neigh_resolve_output",
    "__dev_queue_xmit -14 @out",
    "net_dev_queue",
];
pub(super) const LOCAL_OUT: Lines = &["__ip_local_out", "LOCAL_OUT : no hook"];
/// A UDP datagram, an ICMP packet, a raw packet from a socket.
pub(super) const UDP_OUT: Lines = &["udp_send_skb", "ip_send_skb"];
/// TCP sends a clone; `$o` stays until it is acknowledged.
pub(super) const SYN_OUT: Lines = &[
    "__tcp_transmit_skb $o",
    "skb_clone $o",
    "skb_clone $a : made",
    "ip_queue_xmit -40",
    "__ip_queue_xmit",
    "ip_local_out -20",
];
pub(super) const DATA_OUT: Lines = &[
    "__tcp_transmit_skb $o",
    "skb_clone $o",
    "skb_clone $a : made",
    "ip_queue_xmit -32",
    "__ip_queue_xmit",
    "ip_local_out -20",
];
pub(super) const LO: Lines = &[
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "loopback_xmit",
];
pub(super) const VETH: Lines = &[
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "veth_xmit",
    "__dev_forward_skb",
];
pub(super) const VIRTIO: Lines = &[
    "sch_direct_xmit",
    "validate_xmit_skb",
    "dev_hard_start_xmit",
    "net_dev_start_xmit",
    "start_xmit @nic",
    "net_dev_xmit",
    // The driver frees it when it sends again.
    "~?skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
/// `ip_rcv`: one packet, from the backlog.
pub(super) const BACKLOG: Lines = &[
    "eth_type_trans",
    "__netif_rx +14 @in",
    "netif_rx_internal",
    "netif_rx",
    "enqueue_to_backlog",
    "net_dev_xmit",
    "__netif_receive_skb",
    "__netif_receive_skb_one_core",
    "netif_receive_skb @in",
    "ip_rcv @in",
];
/// `ip_list_rcv`, which takes a list and no `sk_buff`: NAPI's poll, GRO.
pub(super) const NAPI: Lines = &[
    "eth_type_trans",
    "gro_receive_skb +14 @in",
    "napi_gro_receive_entry",
    "dev_gro_receive",
    "inet_gro_receive",
];
pub(super) const TCP_GRO: Lines = &["tcp4_gro_receive"];
pub(super) const LIST: Lines = &["netif_receive_skb @in"];
pub(super) const CORE: Lines = &["ip_rcv_core @in", "PRE_ROUTING : no hook"];
pub(super) const ROUTE: Lines = &[
    "ip_rcv_finish_core",
    "ip_route_input_noref",
    "ip_route_input_slow",
];
pub(super) const OWN_ROUTE: Lines = &["ip_rcv_finish_core : it came with its route"];
pub(super) const EARLY_DEMUX: Lines = &["ip_rcv_finish_core : early demux"];
pub(super) const LOCAL_IN: Lines = &["ip_local_deliver", "LOCAL_IN : no hook"];
pub(super) const DELIVER: Lines = &[
    "ip_local_deliver_finish",
    "ip_protocol_deliver_rcu +20",
    "raw_local_deliver",
];
pub(super) const TO_UDP: Lines = &[
    "udp_rcv",
    "udp_unicast_rcv_skb",
    "udp_queue_rcv_skb",
    "udp_queue_rcv_one_skb",
    "__udp_enqueue_schedule_skb +8",
    "~skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
pub(super) const NO_UDP: Lines = &[
    "udp_rcv",
    "__icmp_send",
    "kfree_skb : NO_SOCKET in udp_rcv",
    "skb_release_data",
];
pub(super) const BAD_SUM: Lines = &["udp_rcv", "kfree_skb : UDP_CSUM", "skb_release_data"];
pub(super) const TO_LISTENER: Lines = &[
    "tcp_v4_rcv",
    "tcp_v4_do_rcv",
    "tcp_rcv_state_process",
    "tcp_v4_conn_request",
    "tcp_conn_request",
    "~consume_skb : in tcp_rcv_state_process",
    "~skb_release_data",
];
pub(super) const NO_TCP: Lines = &[
    "tcp_v4_rcv",
    "tcp_v4_send_reset",
    "kfree_skb : NO_SOCKET in tcp_v4_rcv",
    "skb_release_data",
];
/// What the sender keeps goes when it is acknowledged, or refused.
pub(super) const KEPT: Lines = &["~skb_release_data $o"];
/// Data, and what becomes of it once it was read. `N` bytes of options.
pub(super) const TO_STREAM: Lines = &[
    "tcp_v4_rcv",
    // The reader, on the other CPU, may have the socket at that moment.
    "?tcp_add_backlog",
    "tcp_v4_do_rcv",
    "tcp_rcv_established",
    "tcp_data_queue",
];
pub(super) const READ: Lines = &[
    "~skb_attempt_defer_free",
    "~?consume_skb",
    "~?skb_release_data",
];
pub(super) const ECHO: Lines = &[
    "icmp_rcv",
    "icmp_echo +8",
    "icmp_reply",
    "~consume_skb : in icmp_rcv",
    "~skb_release_data",
];
pub(super) const DROPPED: Lines = &[
    "ip_local_deliver",
    "nf_hook_slow",
    "nft_do_chain_ipv4 : LOCAL_IN 0 DROP klab/input#2 counter, klab/input#2 drop",
    "kfree_skb : NETFILTER_DROP in nft_do_chain",
    "skb_release_data",
];
pub(super) const RP_FILTER: Lines = &[
    "kfree_skb : IP_RPFILTER in ip_rcv_finish_core",
    "skb_release_data",
];

pub(super) const DROP_99: &str = "nft 'table ip klab { chain input { type filter hook input priority 0; }; }'; \
     nft add rule ip klab input udp dport 99 counter drop";
/// With it a packet meets the chain.
pub(super) const MET: Lines = &[
    "ip_local_deliver",
    "nf_hook_slow",
    "nft_do_chain_ipv4 : LOCAL_IN 0 ACCEPT",
];

/// NAT by the rules that `nft` put last: 3 is DNAT, 4 the masquerade.
pub(super) const DNAT: Lines = &[
    "ip_rcv_core @in",
    "nf_hook_slow",
    "ipv4_conntrack_defrag : PRE_ROUTING -400 ACCEPT",
    "ipv4_conntrack_in : PRE_ROUTING -200 ACCEPT",
    "nf_conntrack_in",
    "nf_nat_ipv4_pre_routing : PRE_ROUTING -100 ACCEPT klab/prerouting#3 nat ct NEW",
];
pub(super) const FORWARD: Lines = &["ip_forward @in", "FORWARD : no hook"];
pub(super) const MASQUERADE: Lines = &[
    "ip_forward_finish",
    "ip_output",
    "nf_hook_slow",
    "apparmor_ip_postroute : POST_ROUTING -225 ACCEPT",
    "nf_nat_ipv4_out : POST_ROUTING 100 ACCEPT klab/postrouting#4 masq ct NEW",
    "nf_confirm : POST_ROUTING 2147483647 ACCEPT",
    "ip_finish_output @far",
    "__ip_finish_output",
    "ip_finish_output2",
    "?neigh_resolve_output",
    "__dev_queue_xmit -14 @far",
    "net_dev_queue",
];
/// The clone's memory is the original's, so the router, which writes the TTL, takes its own.
pub(super) const OWN_MEMORY: Lines = &[
    "pskb_expand_head",
    "skb_release_data",
    "pskb_expand_head head : resized",
];
pub(super) const FAR: Lines = &[
    "eth_type_trans",
    "__netif_rx +14 @last",
    "netif_rx_internal",
    "netif_rx",
    "enqueue_to_backlog",
    "net_dev_xmit",
    "__netif_receive_skb",
    "__netif_receive_skb_one_core",
    "netif_receive_skb @last",
    "ip_rcv @last",
    "ip_rcv_core @last",
    "PRE_ROUTING : no hook",
];
