"""The Containerfile of ``docs/deploy``: what it says is there, and where a builder is, it builds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cometd_lite.cli.parser import parse
from cometd_lite.options import Options

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "deploy" / "Containerfile"

KNOWN = frozenset({"CMD", "COPY", "ENTRYPOINT", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL"})
KNOWN |= {"USER", "VOLUME", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the file and what follows each, with continued lines joined."""
    text = FILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def test_every_instruction_is_one_and_a_stage_comes_first() -> None:
    names = [name for name, _ in instructions()]
    assert set(names) <= KNOWN
    assert names[0] == "FROM"
    assert names.count("ENTRYPOINT") == names.count("CMD") == names.count("USER") == 1


def test_the_images_that_it_is_made_of_have_a_version_that_the_package_takes() -> None:
    for image in of("FROM"):
        version = re.match(r"docker\.io/library/python:3\.(\d+)-slim(?: AS \w+)?$", image)
        assert version is not None, image
        assert f'"Programming Language :: Python :: 3.{version[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_what_it_copies_is_there_and_is_all_that_the_package_is_made_of() -> None:
    copied = [word for rest in of("COPY") if not rest.startswith("--from") for word in rest.split()[:-1]]
    for name in copied:
        assert (ROOT / name).exists(), name
    assert {"pyproject.toml", "README.md", "LICENSE", "cometd_lite", "twisted"} <= set(copied)


def test_its_process_is_not_root_and_is_told_to_stop_by_a_signal_that_the_server_takes() -> None:
    (user,) = of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert of("STOPSIGNAL") == ["SIGTERM"]
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("VOLUME"), "the volume is the user's"


def test_what_it_starts_are_options_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cometd-lite"])
    program, command, *words = json.loads(of("ENTRYPOINT")[0])
    assert (program, command) == ("/opt/cometd-lite/bin/cometd-lite", "serve")
    options = Options()
    options.parseOptions([*words, *json.loads(of("CMD")[0])])
    assert options["listen"] == [f"tcp:{of('EXPOSE')[0]}"]
    assert options["store"].startswith(f"sqlite:{of('VOLUME')[0]}/")
    assert options["drain"] < 10, "docker stop kills after 10 seconds"


def test_its_health_is_asked_by_a_command_that_there_is() -> None:
    program, command, *words = json.loads(of("HEALTHCHECK")[0].partition(" CMD ")[2])
    assert program == "/opt/cometd-lite/bin/cometd-lite"
    assert parse(command, words).names == []


@pytest.mark.slow
def test_it_builds_where_a_builder_is(tmp_path: Path) -> None:
    for builder in ("podman", "docker"):
        found = shutil.which(builder)
        if found and subprocess.run([found, "info"], capture_output=True, check=False).returncode == 0:
            break
    else:
        pytest.skip("no builder of images runs here")
    image = "cometd-lite-test"
    built = subprocess.run(
        [found, "build", "-f", str(FILE), "-t", image, str(ROOT)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    said = subprocess.run(
        [found, "run", "--rm", "--read-only", image, "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("cometd-lite ")
    subprocess.run([found, "rmi", "-f", image], check=True, capture_output=True)
