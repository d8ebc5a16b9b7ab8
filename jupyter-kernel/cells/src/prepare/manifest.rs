//! The manifests by which the cells' crates are built.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use toml::{Table, Value};

/// File in the template's folder with cargo's messages about each crate when it built the library.
pub(super) const ARTIFACTS: &str = "artifacts.json";
/// The crate that has the library's versions and features.
const SHARED: &str = "klab-shared";
/// The level at which the library was built, and all crates are.
pub(super) const LEVEL: i64 = 2;
/// The crates whose traits the library's types have, and their dependencies. A user's crate that asks for no more features
/// of them gets the very ones that the library has.
const MEETING: [&str; 7] = [
    "serde",
    "serde_core",
    "serde_json",
    "itoa",
    "memchr",
    "ryu",
    "zmij",
];

/// The manifest of the cell's crate: evcxr's, without the library. `:opt` is for that crate alone.
pub(super) fn of_cells(evcxr: &str, shared: &Path) -> Result<String> {
    let mut manifest: Table = evcxr.parse().context("in what `:dep` or `:opt` said")?;
    let dependencies = table(&mut manifest, "dependencies")?;
    dependencies.remove("probes");
    let path = Value::String(shared.display().to_string());
    dependencies.insert(
        SHARED.to_owned(),
        Table::from_iter([("path".to_owned(), path)]).into(),
    );
    let profile = table(table(&mut manifest, "profile")?, "dev")?;
    let level = profile.insert("opt-level".to_owned(), LEVEL.into());
    // A cell is too small for its parts to be kept or compiled side by side: both cost more than they save.
    profile.insert("incremental".to_owned(), false.into());
    let cell = table(table(profile, "package")?, "ctx")?;
    cell.insert("codegen-units".to_owned(), 1.into());
    if let Some(level) = level.filter(|level| *level != Value::Integer(LEVEL)) {
        cell.insert("opt-level".to_owned(), level);
    }
    manifest.insert("workspace".to_owned(), Table::new().into());
    Ok(manifest.to_string())
}

/// Tells whether the cells of such a manifest have no crate but the library's.
pub(super) fn is_plain(of_cells: &str) -> bool {
    let manifest = of_cells.parse::<Table>();
    let dependencies = manifest
        .ok()
        .and_then(|mut manifest| manifest.remove("dependencies"));
    dependencies.is_some_and(|dependencies| {
        dependencies
            .as_table()
            .is_some_and(|table| table.keys().eq([SHARED]))
    })
}

fn table<'a>(of: &'a mut Table, name: &str) -> Result<&'a mut Table> {
    let entry = of.entry(name).or_insert_with(|| Table::new().into());
    entry
        .as_table_mut()
        .with_context(|| format!("`{name}` is no table"))
}

/// A message of cargo about a crate that it compiled.
#[derive(Deserialize)]
struct Artifact {
    package_id: String,
    features: Vec<String>,
    filenames: Vec<String>,
    target: Target,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Writes the crate [`SHARED`], which has no code. By it a session resolves the versions that the library was built with, as
/// `probes` is among its dependencies for a target that nothing is built for. With their features it has the crates that
/// meet the library's types, and those that procedural macros are made of: with others, serde would be another one.
pub(super) fn shared(to: &Path, template: &Path, probes: &Path) -> Result<()> {
    let said = fs::read_to_string(template.join(ARTIFACTS))?;
    fs::create_dir_all(to)?;
    fs::write(to.join("lib.rs"), "")?;
    fs::write(to.join("Cargo.toml"), of_shared(&said, probes))?;
    Ok(fs::remove_file(template.join(ARTIFACTS))?)
}

fn of_shared(said: &str, probes: &Path) -> String {
    let (mut target, mut host) = (BTreeMap::new(), BTreeMap::new());
    for line in said.lines() {
        let Ok(artifact) = serde_json::from_str::<Artifact>(line) else {
            continue;
        };
        let Some((name, version)) = artifact
            .package_id
            .split_once('#')
            .and_then(|(_, id)| id.split_once('@'))
        else {
            continue;
        };
        if !artifact.package_id.starts_with("registry+")
            || artifact
                .target
                .kind
                .iter()
                .any(|kind| kind == "custom-build")
        {
            continue;
        }
        let of_host = artifact
            .filenames
            .iter()
            .any(|file| file.contains("/target/debug/"));
        let dependency = Table::from_iter([
            ("package".to_owned(), name.into()),
            ("version".to_owned(), format!("={version}").into()),
            ("default-features".to_owned(), false.into()),
            ("features".to_owned(), artifact.features.into()),
        ]);
        let key = format!("{name}-{}", version.replace(['.', '+'], "-"));
        if of_host {
            host.insert(key, dependency);
        } else if MEETING.contains(&name) {
            target.insert(key, dependency);
        }
    }
    let own = Table::from_iter([("path".to_owned(), probes.display().to_string().into())]);
    let never = Table::from_iter([("probes".to_owned(), own.into())]);
    let never = Table::from_iter([("dependencies".to_owned(), never.into())]);
    let manifest = Table::from_iter([
        (
            "package".to_owned(),
            Table::from_iter([
                ("name".to_owned(), SHARED.into()),
                ("version".to_owned(), "0.0.0".into()),
                ("edition".to_owned(), "2024".into()),
            ])
            .into(),
        ),
        (
            "lib".to_owned(),
            Table::from_iter([("path".to_owned(), "lib.rs".into())]).into(),
        ),
        (
            "dependencies".to_owned(),
            Value::Table(
                target
                    .into_iter()
                    .map(|(key, of)| (key, of.into()))
                    .collect(),
            ),
        ),
        // There is no build script, so they are resolved and never built.
        (
            "build-dependencies".to_owned(),
            Value::Table(host.into_iter().map(|(key, of)| (key, of.into())).collect()),
        ),
        (
            "target".to_owned(),
            Table::from_iter([("cfg(any())".to_owned(), never.into())]).into(),
        ),
    ]);
    manifest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVCXR: &str = "[package]\nname = \"ctx\"\n[profile.dev]\nopt-level = 0\nrpath = true\n[dependencies]\n\
        probes = { path = \"/p\" }\nregex = \"1\"\n";

    #[test]
    fn the_library_is_no_dependency_of_a_cell() {
        let manifest: Table = of_cells(EVCXR, Path::new("/shared"))
            .unwrap()
            .parse()
            .unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        assert_eq!(dependencies.keys().collect::<Vec<_>>(), [SHARED, "regex"]);
        assert_eq!(dependencies[SHARED]["path"].as_str(), Some("/shared"));
    }

    #[test]
    fn the_level_is_that_of_the_cell_alone() {
        let manifest: Table = of_cells(EVCXR, Path::new("/shared"))
            .unwrap()
            .parse()
            .unwrap();
        let profile = &manifest["profile"]["dev"];
        assert_eq!(profile["opt-level"].as_integer(), Some(2));
        assert_eq!(profile["package"]["ctx"]["opt-level"].as_integer(), Some(0));
        let usual = EVCXR.replace("level = 0", "level = 2");
        let manifest: Table = of_cells(&usual, Path::new("/shared"))
            .unwrap()
            .parse()
            .unwrap();
        let of_cell = &manifest["profile"]["dev"]["package"]["ctx"];
        assert!(of_cell.get("opt-level").is_none(), "{of_cell}");
        assert!(of_cells("opt-level = s", Path::new("/")).is_err());
    }

    #[test]
    fn what_meets_the_library_keeps_its_version_and_features() {
        let crate_of = |name: &str, kind: &str, file: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"registry+https://x#{name}\",\
                 \"target\":{{\"kind\":[\"{kind}\"]}},\"features\":[\"std\"],\"filenames\":[\"{file}\"]}}\n"
            )
        };
        let said = [
            crate_of(
                "serde@1.0.2",
                "lib",
                "/t/target/x86_64-unknown-linux-gnu/debug/deps/s.rlib",
            ),
            crate_of(
                "nix@0.30.1",
                "lib",
                "/t/target/x86_64-unknown-linux-gnu/debug/deps/n.rlib",
            ),
            crate_of("syn@2.0.1", "lib", "/t/target/debug/deps/syn.rlib"),
            crate_of("serde@1.0.2", "custom-build", "/t/target/debug/build/b"),
            "{\"reason\":\"build-finished\"}".to_owned(),
        ];
        let manifest: Table = of_shared(&said.concat(), Path::new("/probes"))
            .parse()
            .unwrap();
        let target = manifest["dependencies"].as_table().unwrap();
        assert_eq!(target.keys().collect::<Vec<_>>(), ["serde-1-0-2"]);
        assert_eq!(target["serde-1-0-2"]["version"].as_str(), Some("=1.0.2"));
        assert_eq!(target["serde-1-0-2"]["features"][0].as_str(), Some("std"));
        let host = manifest["build-dependencies"].as_table().unwrap();
        assert_eq!(host.keys().collect::<Vec<_>>(), ["syn-2-0-1"]);
        assert!(
            manifest["target"]["cfg(any())"]["dependencies"]
                .get("probes")
                .is_some()
        );
    }
}
