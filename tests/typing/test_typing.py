"""The public names are typed, documented, and all used by a program that mypy reads strictly."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from tools import needs_package

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("api.py")
MODULES = ("cometd_lite", "cometd_lite.client", "cometd_lite.testing", "cometd_lite.errors")
CALLED = ("Comet", "Client", "Limits", "MemoryServer")
"""What programs make themselves, and so whose words are theirs to use; the others are given to them."""


def names(module: str) -> list[str]:
    found = importlib.import_module(module)
    listed = getattr(found, "__all__", None)
    if listed is None:
        listed = [
            name
            for name, thing in vars(found).items()
            if not name.startswith("_") and getattr(thing, "__module__", None) == module
        ]
    return list(listed)


@pytest.mark.slow
def test_the_program_is_clean_under_strict_mypy(tmp_path: Path) -> None:
    needs_package("mypy_zope")  # without it Twisted's own interfaces say nothing to mypy
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nstrict = True\nplugins = mypy_zope:plugin\n")
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                f"--config-file={settings}",
                "--follow-imports=silent",
            ),
            *("--namespace-packages", "--explicit-package-bases", str(PROGRAM)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("Success"), done.stdout + done.stderr


def uses() -> set[str]:
    """Return every name, attribute and keyword in the program."""
    nodes = list(ast.walk(ast.parse(PROGRAM.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | attributes | {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}


def words(thing: object) -> set[str]:
    """Return what a public name has of its own; camelCase is for Twisted to call."""
    if not inspect.isclass(thing):
        return set()
    own = {word for word in vars(thing) if not word.startswith("_") and word == word.lower()}
    if thing.__name__ in CALLED:
        own |= {name for name in inspect.signature(thing).parameters if name not in {"options", "url"}}
    return own


@pytest.mark.parametrize("module", MODULES)
def test_the_program_uses_every_public_name_and_all_that_these_have(module: str) -> None:
    used = uses()
    unused = set(names(module)) - used
    for name in names(module):
        thing = getattr(importlib.import_module(module), name)
        unused |= {f"{name}.{word}" for word in words(thing) if word not in used}
    assert unused == set()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring_and_so_has_what_it_does(module: str) -> None:
    missing = []
    for name in names(module):
        thing = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not inspect.getdoc(thing):
            missing.append(name)
        if inspect.isclass(thing):
            missing += [
                f"{name}.{word}"
                for word, part in vars(thing).items()
                if not word.startswith("_")
                and (inspect.isfunction(part) or isinstance(part, (property, classmethod, staticmethod)))
                and not inspect.getdoc(part)
            ]
    assert missing == []


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (ROOT / "cometd_lite" / "py.typed").exists()
