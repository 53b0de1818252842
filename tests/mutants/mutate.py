"""Change the product in small ways, one at a time, and see whether a test notices.

    python tests/mutants/mutate.py --count 250 --seed 1 --at-least 94

Each mutant is one change of one expression or statement: a comparison turned round, a condition that always
holds, a call left out. A mutant is killed where a test fails or takes far too long. A mutant that lives is a
hole in the tests, or changes nothing that can be seen. The latter are in ``equivalents.toml``, each with its
reason, and do not count.

Which mutants are made depends on the seed and on the code alone. Each mutant has a name that says what is
changed, and a hash puts the names into an order, so that a change of the code elsewhere keeps the choice.

At first all tests run once, in a copy of the tree, and the functions that each test calls are noted. A mutant
then meets the tests that call its function: first those of the files that are about it most, and of these the
quick ones first. Only a mutant that survives them meets all other tests. Two are tried at a time, each in a
copy of its own. Live tests, browsers and soaks do not take part. While writing tests for one module, say
``--module core/mailbox.py --tests tests/test_mailbox.py tests/test_stores.py``, which takes a minute.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib.util import cache_from_source
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
PACKAGE = "cometd_lite"

MODULES = (
    "access/*.py",
    "bayeux/*.py",
    "core/deadletters.py",
    "core/deadlines.py",
    "core/hub.py",
    "core/idempotency.py",
    "core/leases.py",
    "core/listeners.py",
    "core/mailbox.py",
    "core/namespaces.py",
    "core/nametable.py",
    "core/parked.py",
    "core/readers.py",
    "core/registry.py",
    "core/sessions.py",
    "http/acks.py",
    "http/bodies.py",
    "http/params.py",
    "http/spelling.py",
    "server/body.py",
    "server/head.py",
    "stores/log.py",
    "stores/losses.py",
    "stores/mailboxes.py",
    "stores/memory.py",
    "stores/names.py",
    "stores/numbers.py",
    "stores/patterns.py",
    "stores/slices.py",
    "stores/taking.py",
    "webhooks/*.py",
)
"""What is changed, below the package; a pattern that fits nothing is an error."""

APART = ("bench", "browser", "clients", "embedding", "foreign", "live", "mutants", "soak", "typing")
"""Directories of tests that do not take part: they start processes, or take minutes."""

FIRST_SECONDS = 5.0
"""So long, by their own times, are the tests that a mutant meets first."""
MEMORY_BYTES = 6 * 1024**3
"""A mutant that takes more is killed by it, and not the machine."""


# -- what is changed


@dataclass(frozen=True)
class Mutant:
    """One change: ``before`` at a place of a module becomes ``after``."""

    module: str
    function: str
    """The qualified name of the function that it is in; empty at the module's top."""
    code: int
    """The line by which that function's code object is known; 0 at the module's top."""
    line: int
    text: str
    """The line that is changed, without its indentation."""
    before: str
    after: str
    start: int
    end: int
    """Offsets of ``before`` in the module's bytes."""
    number: int = 0
    """Which of those that are called the same it is."""

    @property
    def name(self) -> str:
        """Return what stays the same while nothing near it changes."""
        number = f" ({self.number + 1})" if self.number else ""
        words = f"{self.module} {self.function or '-'}: {self.text}: {self.before} -> {self.after}{number}"
        return " ".join(words.split())

    def source(self, module: bytes) -> bytes:
        """Return the module with the change made."""
        return module[: self.start] + self.after.encode() + module[self.end :]


_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}

Change = tuple[ast.AST, str]


class Mutator(ast.NodeVisitor):
    """Walks through a module and notes what may be changed in it.

    Left alone are annotations, decorators, docstrings, asserts, what a log is told, the sentences of errors,
    protocols, numbers that a module names at its top, and ``check_invariants``, which is for the tests.
    """

    def __init__(self, module: str, source: str) -> None:
        self.module = module
        self.bytes = source.encode()
        self.lines = source.splitlines()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scopes: list[tuple[str, int]] = []
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    # -- where we are

    def note(self, node: ast.AST, after: str) -> None:
        """Note that a node may be written as ``after``."""
        start, end = (
            self.starts[row - 1] + column
            for row, column in (
                (node.lineno, node.col_offset),  # type: ignore[attr-defined]  # statements and expressions
                (node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
            )
        )
        before = self.bytes[start:end].decode()
        names = [name for name, _ in self.scopes if name]
        code = self.scopes[-1][1] if self.scopes else 0
        line: int = node.lineno  # type: ignore[attr-defined]
        text = self.lines[line - 1].partition("  # ")[0].strip()
        self.found.append(Mutant(self.module, ".".join(names), code, line, text, before, after, start, end))

    def expression(self, node: ast.expr, changed: ast.expr) -> None:
        self.note(node, f"({ast.unparse(changed)})")

    def inside(self, name: str, code: int, nodes: Sequence[ast.AST]) -> None:
        self.scopes.append((name, code))
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    # -- what is left alone, and scopes

    def visit_Module(self, node: ast.Module) -> None:
        for one in node.body:
            if not isinstance(one, (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)):
                self.visit(one)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            self.inside(node.name, self.scopes[-1][1] if self.scopes else 0, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "check_invariants":
            return
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        self.inside(node.name, first, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        if not isinstance(node.body, ast.Constant):
            self.scopes.append(("", node.lineno))
            self.note(node.body, "None")
            self.visit(node.body)
            self.scopes.pop()

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        if not (isinstance(node.exc, ast.Name) and node.exc.id == "NotImplementedError"):
            self.note(node, "pass")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not (
            isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
        ):
            self.visit(node.value)

    # -- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call):
            if _is_log(node.value):
                return
            self.note(node, "pass")
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self.note(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        other = _CALCULATED.get(type(node.op))
        if other is not None:
            changed = deepcopy(node)
            changed.op = other()
            self.note(node, ast.unparse(changed))
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self.note(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self.note(node, "return None")
            self.visit(node.value)
        elif isinstance(node.value, ast.Constant):
            self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self.note(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.note(node, "pass")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self.note(node.test, "False")
            self.generic_visit(node)
        else:
            for one in node.body:
                self.visit(one)

    # -- expressions

    def condition(self, test: ast.expr) -> None:
        self.note(test, "True")
        self.note(test, "False")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.note(test, "True")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for place, operator in enumerate(node.ops):
            changed = deepcopy(node)
            changed.ops[place] = _COMPARED[type(operator)]()
            self.expression(node, changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        changed = deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self.expression(node, changed)
        for place in range(len(node.values)):
            rest = [value for at, value in enumerate(node.values) if at != place]
            self.expression(node, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self.expression(node, node.operand)
        self.visit(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_format = isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)
        other = _CALCULATED.get(type(node.op))
        if other is not None and not is_format:
            changed = deepcopy(node)
            changed.op = other()
            self.expression(node, changed)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _NAMES:
            self.note(node.func, _NAMES[node.func.id])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice):
            for bound in ("lower", "upper"):
                if getattr(node.slice, bound) is not None:
                    changed = deepcopy(node)
                    setattr(changed.slice, bound, None)
                    self.expression(node, changed)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.note(node, str(not value))
        elif isinstance(value, (int, float)):
            self.note(node, repr(value + 1))


def _is_log(call: ast.Call) -> bool:
    found = call.func
    return (
        isinstance(found, ast.Attribute)
        and isinstance(found.value, ast.Attribute)
        and found.value.attr == "log"
    )


def modules(root: Path) -> list[str]:
    """Return the modules that are changed, by their paths below the package."""
    found: dict[str, None] = {}
    for pattern in MODULES:
        fitting = sorted((root / PACKAGE).glob(pattern))
        if not fitting:
            raise SystemExit(f"{pattern!r} in MODULES fits nothing in {root / PACKAGE}")
        found |= dict.fromkeys(
            path.relative_to(root / PACKAGE).as_posix() for path in fitting if path.name != "__init__.py"
        )
    return list(found)


def mutants(root: Path) -> list[Mutant]:
    """Return every mutant there is, by module and place; a few of them are no Python."""
    found: list[Mutant] = []
    for module in modules(root):
        source = (root / PACKAGE / module).read_text()
        seen: Counter[str] = Counter()
        for mutant in Mutator(module, source).found:
            found.append(replace(mutant, number=seen[mutant.name]))
            seen[mutant.name] += 1
    return found


def chosen(found: Sequence[Mutant], seed: int, count: int, root: Path = ROOT) -> list[Mutant]:
    """Return so many of the mutants, in an order that depends on the seed and their names alone."""

    def place(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed} {mutant.name}".encode()).digest()

    def is_python(mutant: Mutant) -> bool:
        try:
            compile(mutant.source((root / PACKAGE / mutant.module).read_bytes()), mutant.module, "exec")
        except SyntaxError:
            return False
        return True

    return list(islice(filter(is_python, sorted(found, key=place)), count))


def equivalents() -> dict[str, str]:
    """Return the names of the mutants that change nothing that can be seen, each with the reason."""
    with EQUIVALENTS.open("rb") as file:
        listed = tomllib.load(file).get("equivalent", [])
    return {one["mutant"]: one["reason"] for one in listed}


# -- what the tests call: the part that runs inside pytest, as a plugin

NOTED, ASKED = "MUTANT_NOTED", "MUTANT_ASKED"
"""Variables of the environment: where to note what tests call; where it is said which tests to run."""


class Watch:
    """Notes the functions of the package that each test calls, by file and first line, and its seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = str(ROOT / PACKAGE)
        self.seen: set[int] = set()
        self.called: set[str] = set()
        self.tests: dict[str, dict[str, Any]] = {}
        self.caches: list[Any] = []

    def trace(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        if id(code) not in self.seen:
            self.seen.add(id(code))
            if code.co_filename.startswith(self.package):
                file = code.co_filename[len(self.package) + 1 :]
                self.called.add(f"{file}:{code.co_firstlineno}")

    def begin(self) -> float:
        self.seen, self.called = set(), set()
        for cache in self.caches:
            cache.cache_clear()  # else only the first test would be seen to call what is remembered
        threading.settrace(self.trace)  # type: ignore[arg-type]  # it traces no lines
        sys.settrace(self.trace)  # type: ignore[arg-type]
        return time.perf_counter()

    def end(self, test: str, began: float) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        self.tests[test] = {"seconds": time.perf_counter() - began, "calls": sorted(self.called)}

    def find_caches(self) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith(PACKAGE):
                self.caches += [one for one in vars(module).values() if hasattr(one, "cache_clear")]

    def save(self) -> None:
        self.path.write_text(json.dumps(self.tests))


_watch = Watch(Path(os.environ[NOTED])) if NOTED in os.environ else None


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Keep the tests that are asked for, in the order in which they are."""
    package = Path(sys.modules[PACKAGE].__file__ or "").parent
    assert package == ROOT / PACKAGE, f"the tests are of {package}, and not of this copy"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    if ASKED in os.environ:
        order = {test: place for place, test in enumerate(json.loads(Path(os.environ[ASKED]).read_text()))}
        items[:] = sorted(
            [item for item in items if item.nodeid in order], key=lambda item: order[item.nodeid]
        )
    if _watch is not None:
        _watch.find_caches()


def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    """Watch a test, where that is asked for."""
    began = _watch.begin() if _watch is not None else 0.0
    yield
    if _watch is not None:
        _watch.end(item.nodeid, began)


def pytest_sessionfinish() -> None:
    """Note what was watched."""
    if _watch is not None:
        _watch.save()


if "pytest" in sys.modules:
    import pytest

    pytest_runtest_protocol = pytest.hookimpl(wrapper=True)(pytest_runtest_protocol)  # type: ignore[assignment]


# -- trying mutants


@dataclass
class Tree:
    """A copy of the project in which one mutant at a time is tried."""

    path: Path
    scratch: Path

    @classmethod
    def copied(cls, directory: Path, name: str) -> Tree:
        ignored = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "dist", "build", "*.egg-info")
        tree = cls(directory / name, directory / f"{name}.tmp")
        shutil.copytree(ROOT, tree.path, ignore=ignored)
        tree.scratch.mkdir()
        return tree

    def pytest(
        self, files: Sequence[str], seconds: float, tests: Sequence[str] = (), noted: Path | None = None
    ) -> tuple[bool, str]:
        """Run tests; return whether they all passed within so many seconds, and what was said."""
        environment = os.environ | {
            "HYPOTHESIS_PROFILE": "ci",  # the same examples each time
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins that are installed take longer than most tests
            "PYTHONPATH": str(self.path / "tests" / "mutants"),
            "TMPDIR": str(self.scratch),
        }
        if noted is not None:
            environment[NOTED] = str(noted)
        if tests:
            asked = self.scratch / "asked.json"
            asked.write_text(json.dumps(tests))
            environment[ASKED] = str(asked)
        words = ["-x", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider", "-p", "mutate"]
        running = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words, "--tb=line", *files],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False, f"more than {seconds:.0f} s"
        finally:
            _kill(running.pid)
            running.wait()
        return running.returncode == 0, said


def _kill(group: int) -> None:
    """End whatever the tests have started, a Redis for one."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@dataclass
class Tests:
    """What each test calls, and how long it takes."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By function, the tests that call it."""

    def add(self, noted: Path) -> None:
        for test, found in json.loads(noted.read_text()).items():
            self.seconds[test] = found["seconds"]
            for function in found["calls"]:
                self.calls[function].add(test)
                self.calls[function.partition(":")[0]].add(test)

    def of(self, mutant: Mutant) -> set[str]:
        """Return the tests that call the mutant's function, or at the module's top anything of the module."""
        key = f"{mutant.module}:{mutant.code}" if mutant.code else mutant.module
        return self.calls.get(key, set())

    def rounds(self, mutant: Mutant) -> list[list[str]]:
        """Return the tests that a mutant meets one round after the other, each in their order."""
        calling = self.of(mutant)
        by_file: dict[str, list[str]] = defaultdict(list)
        for test in self.seconds:
            by_file[_file(test)].append(test)
        share = {file: sum(test in calling for test in tests) / len(tests) for file, tests in by_file.items()}
        first: list[str] = []
        taken = 0.0
        for file in sorted(share, key=lambda file: -share[file]):
            tests = [test for test in by_file[file] if test in calling]
            taken += sum(self.seconds[test] for test in tests)
            if first and taken > FIRST_SECONDS:
                break
            first += tests
        known = set(first)
        second = [test for test in self.seconds if test in calling and test not in known]
        third = [test for test in self.seconds if test not in calling]
        return [
            sorted(tests, key=lambda test: self.seconds[test]) for tests in (first, second, third) if tests
        ]

    def patience(self, tests: Sequence[str]) -> float:
        """Return the seconds after which tests are taken to hang."""
        return 30.0 + 5.0 * sum(self.seconds[test] for test in tests)


def _file(test: str) -> str:
    return test.partition("::")[0]


def test_files(root: Path) -> list[str]:
    """Return the files of the tests that take part."""
    found = sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))
    return [file for file in found if file.split("/")[1] not in APART]


def watched(
    trees: Sequence[Tree], files: Sequence[str], say: Callable[[str], None], kept: Path | None
) -> Tests:
    """Run all tests once, and return what they call; ``kept`` is what an earlier run has noted."""
    tests = Tests()
    if kept is not None and kept.exists():
        tests.add(kept)
        return tests
    began = time.monotonic()

    def run(place: int) -> Path:
        noted = trees[place].scratch / "noted.json"
        mine = files[place :: len(trees)]
        if not mine:
            noted.write_text("{}")
            return noted
        passed, said = trees[place].pytest(mine, 3_600.0, noted=noted)
        if not passed:
            raise SystemExit(f"The tests fail without any mutant:\n{said[-5_000:]}")
        return noted

    with ThreadPoolExecutor(len(trees)) as pool:
        noted = [json.loads(path.read_text()) for path in pool.map(run, range(len(trees)))]
    path = kept or trees[0].scratch / "noted.json"
    path.write_text(json.dumps({test: found for one in noted for test, found in one.items()}))
    tests.add(path)
    say(f"{len(tests.seconds)} tests, watched in {time.monotonic() - began:.0f} s")
    return tests


def tried(tree: Tree, mutant: Mutant, tests: Tests, *, thorough: bool) -> str:
    """Return what killed a mutant, empty where nothing did."""
    path = tree.path / PACKAGE / mutant.module
    module = path.read_bytes()
    _write(path, mutant.source(module))
    try:
        rounds = tests.rounds(mutant)
        for asked in (
            rounds
            if thorough or not tests.of(mutant)
            else [one for one in rounds if one[0] in tests.of(mutant)]
        ):
            files = sorted({_file(test) for test in asked})
            passed, said = tree.pytest(files, tests.patience(asked), asked)
            if not passed:
                return _killer(said)
    finally:
        _write(path, module)
    return ""


def _write(path: Path, source: bytes) -> None:
    path.write_bytes(source)
    # A compiled module is known by its source's size and the second in which that was written.
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def _killer(said: str) -> str:
    for line in said.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line
    return said.strip().splitlines()[-1] if said.strip() else "it ended without a word"


def score(killed: int, lived: int) -> float:
    """Return the percentage that was killed."""
    return 100.0 * killed / (killed + lived) if killed + lived else 100.0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=250, help="how many mutants are tried")
    parser.add_argument("--seed", type=int, default=1, help="which mutants are tried")
    parser.add_argument(
        "--at-least", type=float, default=0.0, help="exit 1 where a smaller percentage is killed"
    )
    parser.add_argument("--module", default="", help="only mutants of modules whose path begins so")
    parser.add_argument(
        "--quick", action="store_true", help="only tests that call the function that is changed"
    )
    parser.add_argument("--tests", nargs="+", default=[], help="only these files of tests take part")
    parser.add_argument("--workers", type=int, default=2, help="how many mutants are tried at a time")
    parser.add_argument("--notes", type=Path, help="a file that keeps what tests call, for the next run")
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    asked = parser.parse_args(words)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    everything = [one for one in mutants(ROOT) if one.module.startswith(asked.module)]
    some = chosen(everything, asked.seed, asked.count)
    if asked.list:
        say("\n".join(f"{mutant.line}: {mutant.name}" for mutant in some))
        return 0
    reasons = equivalents()
    equivalent = [mutant for mutant in some if mutant.name in reasons]
    say(f"{len(some)} of {len(everything)} mutants, {len(equivalent)} of them equivalent")
    began = time.monotonic()
    killed: list[Mutant] = []
    lived: list[Mutant] = []
    with TemporaryDirectory(prefix="mutants-") as directory:
        trees = [Tree.copied(Path(directory), f"tree{number}") for number in range(asked.workers)]
        tests = watched(trees, asked.tests or test_files(ROOT), say, asked.notes)
        free: SimpleQueue[Tree] = SimpleQueue()
        for tree in trees:
            free.put(tree)

        def attempt(mutant: Mutant) -> None:
            tree = free.get()
            at = time.monotonic()
            try:
                killer = tried(tree, mutant, tests, thorough=not asked.quick)
            finally:
                free.put(tree)
            (killed if killer else lived).append(mutant)
            took = time.monotonic() - at
            say(f"{'killed' if killer else 'LIVED '} {took:5.1f} s  line {mutant.line}: {mutant.name}")
            if killer:
                say(f"         {killer[:150]}")

        with ThreadPoolExecutor(len(trees)) as pool:
            list(pool.map(attempt, [mutant for mutant in some if mutant not in equivalent]))
    found = score(len(killed), len(lived))
    say(f"\n{len(killed)} killed, {len(lived)} lived, in {time.monotonic() - began:.0f} s: {found:.1f} %")
    for mutant in sorted(lived, key=lambda mutant: (mutant.module, mutant.line)):
        say(f"{PACKAGE}/{mutant.module}:{mutant.line}  {mutant.name}")
    return 0 if found >= asked.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
