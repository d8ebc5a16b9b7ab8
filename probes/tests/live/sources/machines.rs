//! Machines that klab did not start, as tests start, attach and ask them.

use super::*;

/// A machine that was attached, and is forgotten with the test.
pub(crate) struct Attached {
    name: String,
    pub(crate) guest: Guest,
}

impl Attached {
    pub(crate) fn new(name: &str, qmp: &Path, gdb: Option<&str>) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let guest = match gdb {
            None => Guest::attach_qmp(&name, qmp).unwrap(),
            gdb => {
                Machine::adopt(&name, qmp, gdb).unwrap();
                Guest::attach(&name).unwrap()
            }
        };
        Self { name, guest }
    }

    pub(super) fn memory(&self) -> Memory {
        self.guest.machine().unwrap().memory()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        Machine::attach(&self.name).unwrap().detach().unwrap();
    }
}

/// A client of a QMP socket that shares no code with klab's.
pub(super) struct Qmp {
    stream: UnixStream,
    answers: std::io::Lines<BufReader<UnixStream>>,
}

impl Qmp {
    pub(super) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        answers.next().unwrap().unwrap();
        let mut qmp = Self { stream, answers };
        qmp.run("qmp_capabilities", &Value::Null);
        qmp
    }

    pub(super) fn run(&mut self, command: &str, arguments: &Value) -> Value {
        let mut line = serde_json::json!({ "execute": command });
        if !arguments.is_null() {
            line["arguments"] = arguments.clone();
        }
        writeln!(self.stream, "{line}").unwrap();
        loop {
            let answer = self.answers.next().unwrap().unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
        }
    }

    pub(super) fn dump(&mut self, to: &Path, format: &str) {
        let protocol = format!("file:{}", to.display());
        let arguments =
            serde_json::json!({ "paging": false, "protocol": protocol, "format": format });
        self.run("dump-guest-memory", &arguments);
    }
}

/// A QEMU that klab did not start.
pub(crate) struct Foreign {
    pub(super) child: Child,
    pub(super) folder: tempfile::TempDir,
}

impl Foreign {
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command
            .current_dir(folder.path())
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-serial",
                "file:serial",
            ])
            .args(["-qmp", "unix:qmp,server=on,wait=off"])
            .args(options)
            .stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let foreign = Self { child, folder };
        let until = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(foreign.qmp()).is_err() {
            assert!(Instant::now() < until, "QEMU does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        foreign
    }

    pub(crate) fn qmp(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }
}

impl Foreign {
    /// Output of its console so far.
    pub(crate) fn serial(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("serial")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
