//! `klab lab`: JupyterLab on the lessons.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Folder of the lessons in the home folder: they belong to the user who works through them.
const FOLDER: &str = "klab-lessons";
/// Folder of the lessons of an installed klab: see `vm::paths::shipped`.
const LESSONS: &str = "lessons";

/// Settings of JupyterLab: lessons open as notebooks, the debugger shows a frame's text in its pane instead of before the notebook, nothing is
/// asked of the network.
fn settings() -> Value {
    json!({
        "@jupyterlab/docmanager-extension:plugin": {
            "defaultViewers": { "markdown": "Jupytext Notebook", "myst": "Jupytext Notebook" }
        },
        "@jupyterlab/debugger-extension:main": { "showSourcesInMainArea": false },
        "@jupyterlab/apputils-extension:notification": { "fetchNews": "false", "checkForUpdates": false }
    })
}

/// Becomes JupyterLab in `folder`, else in the user's own lessons: a free port of this machine alone, a token that no
/// process list shows, and no file outside the cache folder.
///
/// # Errors
/// If JupyterLab is missing or does not start, or the folder cannot be written.
pub(crate) fn run(folder: Option<&Path>, no_browser: bool) -> Result<()> {
    let folder = match folder {
        Some(folder) => folder
            .canonicalize()
            .with_context(|| format!("cannot open {}", folder.display()))?,
        None => lessons()?,
    };
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .context("no free port")?
        .port();
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let page = match first(&folder)? {
        Some(lesson) => format!("/lab/tree/{lesson}"),
        None => "/lab".to_owned(),
    };
    let screen = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    let browser = if screen && !no_browser {
        "True"
    } else {
        "False"
    };
    let jupyter = vm::paths::cache()?.join("jupyter");
    let labconfig = jupyter.join("config/labconfig");
    fs::create_dir_all(&labconfig)
        .and_then(|()| {
            let file = labconfig.join("default_setting_overrides.json");
            fs::write(file, format!("{:#}\n", settings()))
        })
        .with_context(|| format!("cannot write in {}", labconfig.display()))?;
    let mut command = Command::new(probes::drgn::python()?);
    command
        .args(["-m", "jupyterlab"])
        .env("JUPYTER_TOKEN", &token)
        .env("JUPYTER_CONFIG_DIR", jupyter.join("config"))
        .env("JUPYTER_DATA_DIR", jupyter.join("data"))
        .env("JUPYTER_RUNTIME_DIR", jupyter.join("runtime"))
        .env("IPYTHONDIR", jupyter.join("ipython"))
        .env("npm_config_cache", jupyter.join("npm"))
        .env("JUPYTERLAB_SETTINGS_DIR", jupyter.join("settings"))
        .env("JUPYTERLAB_WORKSPACES_DIR", jupyter.join("workspaces"))
        .args([
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            "--Application.log_level=WARN",
        ])
        .arg(format!("--ServerApp.port={port}"))
        .arg(format!("--ServerApp.open_browser={browser}"))
        .arg(format!("--LabApp.default_url={page}"))
        .arg("--ServerApp.root_dir")
        .arg(&folder);
    println!("open http://127.0.0.1:{port}{page}?token={token}");
    println!(
        "Ctrl-C stops JupyterLab; `{} down` stops the guest",
        std::env::current_exe()?.display()
    );
    Err(command.exec()).context("cannot start JupyterLab")
}

/// The user's own lessons; missing ones are put there.
fn lessons() -> Result<PathBuf> {
    let Some(shipped) = vm::paths::shipped(LESSONS) else {
        bail!(
            "this klab was not installed and has no lessons: `klab lab notebooks` in its repository opens them"
        );
    };
    let home = std::env::var_os("HOME").context("no home folder: name the folder to open")?;
    let folder = Path::new(&home).join(FOLDER);
    put(&shipped, &folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    Ok(folder)
}

/// Copies the files of `from` that `to` lacks.
fn put(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let own = to.join(entry.file_name());
        if !own.exists() {
            fs::copy(entry.path(), own)?;
        }
    }
    Ok(())
}

/// The lesson that comes first.
fn first(folder: &Path) -> Result<Option<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".md") && name.starts_with(|c: char| c.is_ascii_digit()))
        .min())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lesson_of_the_users_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("00-tour.md"), "new").unwrap();
        fs::write(from.join("01-printk.md"), "new").unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(to.join("01-printk.md"), "worked on").unwrap();
        put(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("00-tour.md")).unwrap(), b"new");
        assert_eq!(fs::read(to.join("01-printk.md")).unwrap(), b"worked on");
        assert_eq!(first(&to).unwrap().as_deref(), Some("00-tour.md"));
        assert_eq!(first(folder.path()).unwrap(), None);
    }
}
