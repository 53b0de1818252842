"""The modules of the package: short enough to be read at once, and one name for one class."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cometd_lite

PACKAGE = Path(cometd_lite.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}


def test_no_module_has_more_than_500_lines() -> None:
    assert not {name for name, text in SOURCES.items() if text.count("\n") > 500}


def test_no_two_classes_have_one_name() -> None:
    found = re.compile(r"^class (\w+)", re.MULTILINE).findall
    names = Counter(name for text in SOURCES.values() for name in found(text))
    assert not [name for name, count in names.items() if count > 1]


def test_the_server_starts_where_twisted_has_moved_its_private_names() -> None:
    # What is public nowhere may be elsewhere in the next version.
    code = (
        "import twisted.protocols.haproxy._wrapper as wrapper; del wrapper.HAProxyProtocolWrapper\n"
        "from cometd_lite.service import Options, makeService\n"
        "options = Options(); options.parseOptions([]); makeService(options)\n"
        "import cometd_lite.client\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_private_name_of_twisted_is_imported_by_name() -> None:
    imported = re.compile(r"^\s*(?:from|import) (?:twisted|klein)[a-z._]*\._", re.MULTILINE)
    assert not [name for name, text in SOURCES.items() if imported.search(text)]


def test_a_private_name_of_twisteds_objects_is_only_set_where_it_may_be_missing() -> None:
    used = re.compile(r"\b(?:request|channel|transport|reactor|response)\._[a-z]\w*")
    found = [name for text in SOURCES.values() for name in used.findall(text)]
    assert found == ["channel._dataBuffer"]  # it is read by getattr, with a default
