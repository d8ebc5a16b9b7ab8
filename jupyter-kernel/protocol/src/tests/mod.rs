//! The protocol on real sockets, with a language that does what its cells say.

mod ask;
mod bad;
mod client;
mod comm;
mod debug;
mod execute;
mod language;
mod stop;
mod subshell;

use std::sync::Arc;
use std::time::Duration;

use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use client::Client;
use language::Fake;

/// Time that anything here may take; on an idle machine it is milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A kernel of the fake language, served by this process on Unix sockets.
struct Kernel {
    connection: ConnectionInfo,
    language: Arc<Fake>,
    served: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

impl Kernel {
    async fn start() -> Self {
        Self::with_key("secret").await
    }

    async fn with_key(key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = ConnectionInfo {
            ip: folder.path().join("kernel").display().to_string(),
            transport: Transport::IPC,
            shell_port: 1,
            iopub_port: 2,
            stdin_port: 3,
            control_port: 4,
            hb_port: 5,
            key: key.to_owned(),
            signature_scheme: "hmac-sha256".to_owned(),
            kernel_name: None,
        };
        let language = Arc::<Fake>::default();
        let (to, its) = (connection.clone(), Arc::clone(&language));
        let served = tokio::spawn(async move {
            let started = crate::serve(&to, move |background| {
                its.begin(background);
                Ok(its)
            });
            started.await
        });
        while !folder.path().join("kernel-5").exists() {
            assert!(!served.is_finished(), "the kernel does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self {
            connection,
            language,
            served,
            _folder: folder,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.connection).await
    }

    /// Waits for the kernel's end.
    async fn ended(self) -> Arc<Fake> {
        tokio::time::timeout(LIMIT, self.served)
            .await
            .expect("the kernel does not end")
            .unwrap()
            .unwrap();
        self.language
    }
}
