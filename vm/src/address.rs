//! Addresses of sockets as QEMU spells them: `unix:PATH,server=on,wait=off`, `tcp:HOST:PORT`, and plain.

use std::path::{Path, PathBuf};

/// Place of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A path.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Address {
    /// Parses what a user wrote. A file of that very name is that file.
    pub(crate) fn parse(text: &Path) -> Self {
        let Some(name) = text.to_str().filter(|_| !text.exists()) else {
            return Self::Unix(text.to_owned());
        };
        let (name, options) = split(name);
        if let Some(path) = name.strip_prefix("unix:") {
            return Self::Unix(path.into());
        }
        if let Some(address) = name.strip_prefix("tcp:") {
            return Self::Tcp(host(address));
        }
        // As a character device is written: `socket,path=PATH`, `socket,host=HOST,port=PORT`.
        let option = |key: &str| {
            let mut all = options.iter();
            all.find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
        };
        if name == "socket" {
            if let Some(path) = option("path") {
                return Self::Unix(path.into());
            }
            if let Some(port) = option("port") {
                return Self::Tcp(host(&format!("{}:{port}", option("host").unwrap_or(""))));
            }
        }
        let port = name.rsplit_once(':').map(|(_, port)| port);
        if !name.contains('/') && port.is_some_and(|port| port.parse::<u16>().is_ok()) {
            return Self::Tcp(host(&name));
        }
        Self::Unix(if options.iter().all(|option| known(option)) {
            name.into()
        } else {
            text.to_owned()
        })
    }
}

/// The address and its options; two commas are one that is part of the text.
fn split(text: &str) -> (String, Vec<String>) {
    const COMMA: &str = "\u{0}";
    let text = text.replace(",,", COMMA);
    let mut parts = text.split(',').map(|part| part.replace(COMMA, ","));
    (parts.next().unwrap_or_default(), parts.collect())
}

/// Tells whether a socket's address may have the option.
fn known(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    [
        "server",
        "wait",
        "nowait",
        "reconnect",
        "id",
        "mode",
        "ipv4",
        "ipv6",
    ]
    .contains(&name)
}

/// QEMU leaves the host out where it is this one.
fn host(address: &str) -> String {
    match address.strip_prefix(':') {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_qemu_spells_them() {
        for (text, path) in [
            ("/run/q", "/run/q"),
            ("unix:/run/q", "/run/q"),
            ("unix:/run/q,server=on,wait=off", "/run/q"),
            ("unix:/run/q,server,nowait", "/run/q"),
            ("unix:/run/a,,b,server=on", "/run/a,b"),
            ("/run/q,server=on,wait=off", "/run/q"),
            ("/run/a,b", "/run/a,b"),
            ("socket,path=/run/q,server=on,wait=off", "/run/q"),
            ("q.sock", "q.sock"),
            ("unix:q", "q"),
            ("./a:1", "./a:1"),
        ] {
            assert_eq!(
                Address::parse(Path::new(text)),
                Address::Unix(path.into()),
                "{text}"
            );
        }
        for (text, address) in [
            ("tcp:127.0.0.1:4444", "127.0.0.1:4444"),
            ("tcp::1234", "127.0.0.1:1234"),
            (":1234", "127.0.0.1:1234"),
            ("localhost:1234", "localhost:1234"),
            ("tcp:[::1]:1234,server=on,wait=off", "[::1]:1234"),
            (
                "socket,host=localhost,port=1234,server=on",
                "localhost:1234",
            ),
            ("socket,port=1234", "127.0.0.1:1234"),
        ] {
            assert_eq!(
                Address::parse(Path::new(text)),
                Address::Tcp(address.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_file_of_that_name_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unix:a,server=on");
        std::fs::write(&path, "").unwrap();
        assert_eq!(Address::parse(&path), Address::Unix(path.clone()));
    }
}
