//! The guest's side of a network: its card, pairs of namespaces, a router, rules. One call of the
//! agent each.

use std::fmt;
use std::net::Ipv4Addr;

use super::{GUEST, HOST};
use crate::guest::Guest;
use crate::{Error, Result};

/// A rule of nftables, in a table `ip klab` of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Drops what comes in for a TCP port.
    DropTcp {
        /// Its destination.
        port: u16,
    },
    /// Counts what comes in for a TCP port.
    CountTcp {
        /// Its destination.
        port: u16,
    },
    /// Sends TCP for a port elsewhere: destination NAT.
    Dnat {
        /// The destination it comes with.
        port: u16,
        /// The address it is sent to; the port stays.
        to: Ipv4Addr,
    },
    /// Sends what leaves by a device under that device's address: source NAT.
    Masquerade {
        /// The device.
        out: &'static str,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropTcp { port } => write!(f, "input tcp dport {port} drop"),
            Self::CountTcp { port } => write!(f, "input tcp dport {port} counter"),
            Self::Dnat { port, to } => write!(f, "prerouting tcp dport {port} dnat to {to}"),
            Self::Masquerade { out } => write!(f, "postrouting oifname {out} masquerade"),
        }
    }
}

/// Base chains of nftables: type, hook, priority.
const CHAINS: [(&str, &str, &str, i32); 3] = [
    ("input", "filter", "input", 0),
    ("prerouting", "nat", "prerouting", -100),
    ("postrouting", "nat", "postrouting", 100),
];

/// The driver, the address, up; without IPv6, whose own packets are of no use here.
pub(super) fn card(guest: &Guest) -> Result<()> {
    let (me, you) = (GUEST.ip, HOST.ip);
    shell(
        guest,
        &format!(
            "modprobe virtio_net && \
             echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 && \
             ip address replace {me}/24 dev eth0 && ip link set eth0 up && \
             {{ ip route show default | grep -q . || ip route add default via {you}; }}"
        ),
    )
    .map(drop)
}

impl Guest {
    /// Two network namespaces, `left` (10.1.0.1) and `right` (10.1.0.2), with a veth pair between them; each end is
    /// called `veth0`.
    ///
    /// # Errors
    /// When they exist already.
    pub fn veth(&self) -> Result<()> {
        shell(
            self,
            &format!(
                "{}{}{}",
                namespace("left"),
                namespace("right"),
                pair("left", "veth0", "10.1.0.1", "right", "veth0", "10.1.0.2")
            ),
        )
        .map(drop)
    }

    /// Three namespaces in a row: `inside` (10.1.0.2), `router` (`in0` 10.1.0.1, `out0` 10.2.0.1) that forwards, and
    /// `outside` (10.2.0.2), which knows no way back but by the router's own address.
    ///
    /// # Errors
    /// When they exist already.
    pub fn router(&self) -> Result<()> {
        let mut line: String = ["inside", "router", "outside"].map(namespace).concat();
        line += &pair("inside", "veth0", "10.1.0.2", "router", "in0", "10.1.0.1");
        line += &pair("router", "out0", "10.2.0.1", "outside", "veth0", "10.2.0.2");
        line += "ip -n inside route add default via 10.1.0.1; \
                 ip netns exec router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'";
        shell(self, &line).map(drop)
    }

    /// Puts rules into the table `ip klab` of a network namespace (the first one when its name is empty), instead of
    /// those there; no rules take the table away.
    ///
    /// # Errors
    /// When the guest's kernel does not take them.
    pub fn nftables(&self, netns: &str, rules: &[Rule]) -> Result<()> {
        let mut text = "add table ip klab\ndelete table ip klab\n".to_owned();
        if !rules.is_empty() {
            text += "add table ip klab\n";
        }
        for (chain, kind, hook, priority) in CHAINS {
            let used = rules
                .iter()
                .any(|rule| rule.to_string().starts_with(&format!("{chain} ")));
            if used {
                text += &format!(
                    "add chain ip klab {chain} {{ type {kind} hook {hook} priority {priority} ; }}\n"
                );
            }
        }
        for rule in rules {
            text += &format!("add rule ip klab {rule}\n");
        }
        let enter = enter(netns)?;
        shell(self, &format!("{enter}nft -f - <<'END'\n{text}END")).map(drop)
    }

    /// Sends a text from the guest by a socket of its own: `kind` is `udp` or `tcp`, `netns` a namespace or empty. Of kind
    /// `raw` the text is a whole IPv4 packet in hexadecimal, sent as it is, and the port is 0.
    ///
    /// # Errors
    /// When it cannot be sent, or the connection does not come about in five seconds.
    pub fn send_from(&self, netns: &str, kind: &str, to: &str, text: &str) -> Result<()> {
        let enter = enter(netns)?;
        let mut argv: Vec<&str> = enter.split_whitespace().collect();
        argv.extend(["/init", "send", kind, to, text]);
        let output = self.agent()?.output(&argv)?;
        done(&argv.join(" "), &output)
    }
}

fn namespace(name: &str) -> String {
    format!("ip netns add {name}; ip -n {name} link set lo up; ")
}

/// A veth pair between two namespaces.
fn pair(a: &str, dev_a: &str, ip_a: &str, b: &str, dev_b: &str, ip_b: &str) -> String {
    let end = |ns: &str, dev: &str, ip: &str| {
        format!(
            "ip netns exec {ns} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/{dev}/disable_ipv6'; \
             ip -n {ns} address add {ip}/24 dev {dev}; ip -n {ns} link set {dev} up; "
        )
    };
    format!(
        "ip link add {dev_a} netns {a} type veth peer name {dev_b} netns {b}; {}{}",
        end(a, dev_a, ip_a),
        end(b, dev_b, ip_b)
    )
}

/// Words to put before a command so that it runs in a namespace.
fn enter(netns: &str) -> Result<String> {
    if !netns
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    {
        return Err(Error::Invalid(format!(
            "`{netns}` is no name of a network namespace"
        )));
    }
    Ok(if netns.is_empty() {
        String::new()
    } else {
        format!("ip netns exec {netns} ")
    })
}

fn shell(guest: &Guest, line: &str) -> Result<String> {
    let output = guest.agent()?.shell(&format!("set -e; {line}"))?;
    done(line, &output)?;
    Ok(output.text())
}

fn done(what: &str, output: &vm::agent::Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(Error::machine(format!(
        "in the guest, `{}` failed: {}",
        what.lines().next().unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
