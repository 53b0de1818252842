"""Builds the sdist and the wheel twice: complete, the same bytes each time, and shown whole by an index.

    python .ci/packages.py DIRECTORY

The wheel is built from the sdist, and the second pair from a fresh clone elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]


def git(*words: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def build(source: Path, into: Path) -> dict[str, str]:
    """Build both packages; return the hash of each."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct").strip()}
    words = [sys.executable, "-m", "build", "-q", "--outdir", str(into), str(source)]
    subprocess.run(words, env=environment, check=True)
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(into.iterdir())}


def missing(directory: Path) -> set[str]:
    """Return which files of the repository the packages lack, or have beside them."""
    tracked = {name for name in git("ls-files").splitlines() if not name.startswith(".")}
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        source = {name.partition("/")[2] for name in packed.getnames()} - {"PKG-INFO", ".gitignore"}
    with zipfile.ZipFile(wheel) as packed:
        installed = {name for name in packed.namelist() if ".dist-info/" not in name}
    code = {name for name in tracked if name.startswith(("cometd_lite/", "twisted/"))}
    return (source ^ tracked) | (installed ^ code)


def description(directory: Path) -> str:
    """Return the page of a package index, once an index would render it."""
    built = sorted(map(str, directory.iterdir()))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        return packed.read(name).decode()


def main(directory: Path) -> str | None:
    """Build and compare; return what is wrong."""
    first = build(ROOT, directory)
    with TemporaryDirectory() as elsewhere:
        git("clone", "--quiet", str(ROOT), f"{elsewhere}/clone")
        again = build(Path(elsewhere, "clone"), Path(elsewhere, "built"))
    sys.stdout.writelines(f"{digest}  {name}\n" for name, digest in first.items())
    if first != again:
        return f"built again, they are {again}"
    if lost := missing(directory):
        return f"in one of the repository, the sdist and the wheel only: {', '.join(sorted(lost))}"
    if links := re.findall(r"\]\((?!https?:)[^)]*\)", description(directory)):
        return f"on the page of a package index, these links lead nowhere: {', '.join(links)}"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
