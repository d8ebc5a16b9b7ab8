"""Write requirements.txt from requirements.in and from what the wheel depends on: every package at one version, with the hash of every wheel that may be used.

Debian 12 has Python 3.11 and Debian 13 has 3.13: both must find a wheel here, so the oldest is resolved first and its
versions bind the others. Wheels only, for x86_64 (the lab's machines) or for any machine. Run it to take newer releases.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

PYTHONS = ["3.11", "3.12", "3.13"]
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
HERE = pathlib.Path(__file__).parent


def resolve(python, constraints, scratch):
    """What pip would install: name -> (version, sha256)."""
    report = scratch / f"{python}.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
    command += ["--python-version", python, "--target", str(scratch / "target"), "--report", str(report)]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    project = tomllib.loads((HERE / "wheel/pyproject.toml").read_text())["project"]
    command += ["-r", str(HERE / "requirements.in"), "-c", str(constraints), *project["dependencies"]]
    # A folder of local wheels must not leak into the lock.
    environment = {key: value for key, value in os.environ.items() if key != "PIP_FIND_LINKS"}
    subprocess.run(command, check=True, env=environment)
    found = {}
    for item in json.loads(report.read_text())["install"]:
        name = item["metadata"]["name"].lower().replace("_", "-")
        found[name] = (item["metadata"]["version"], item["download_info"]["archive_info"]["hashes"]["sha256"])
    return found


def main():
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        constraints = scratch / "constraints.txt"
        versions, hashes = {}, {}
        for python in PYTHONS:
            constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
            for name, (version, digest) in resolve(python, constraints, scratch).items():
                versions[name] = version
                hashes.setdefault(name, set()).add(digest)
    lines = ["# Written by lock.py: do not edit.", "--only-binary :all:"]
    for name in sorted(versions):
        parts = [f"{name}=={versions[name]}"] + [f"    --hash=sha256:{digest}" for digest in sorted(hashes[name])]
        lines.append(" \\\n".join(parts))
    (HERE / "requirements.txt").write_text("\n".join(lines) + "\n")
    print(f"{len(versions)} packages for Python {', '.join(PYTHONS)}")


if __name__ == "__main__":
    main()
