"""Fuzz every door for a while, from the corpus that is kept beside this file.

    python tests/fuzz/fuzz.py [--seconds 60] [--keep] [http] [websocket] [bayeux] [cursors] [tokens]

Atheris, which looks at what of ``cometd_lite`` an input reaches, makes new inputs of those in
``corpus/NAME.jsonl``: one a line, its bytes as the characters of a JSON string. The targets share the time.
What breaks a promise is printed in the same form, to be put there with the mending; ``test_fuzz.py`` tries
all of them every day. ``--keep`` adds to it what reached anything new. Exits 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
MOST_BYTES = 700
"""Longer than any bound that the targets set."""
KEPT_BYTES = 400
"""What is longer is no pleasure to read; it is found again."""
HUNG_SECONDS = 10
"""One input takes a hundredth of this on a slow machine."""
NAMES = ("http", "websocket", "bayeux", "cursors", "tokens")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def inputs(name: str) -> list[bytes]:
    """Return the inputs of a target that are kept."""
    lines = (CORPUS / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line).encode("latin-1") for line in lines]


def line(data: bytes) -> str:
    """Return an input as it is kept."""
    return json.dumps(data.decode("latin-1"))


def inside(name: str, options: list[str]) -> None:
    """Fuzz one target in this process, by libFuzzer's options; it ends the process."""
    import atheris  # noqa: PLC0415  only the run needs it, and it instruments what is imported after it

    with atheris.instrument_imports(include=["cometd_lite"]):
        import targets  # noqa: PLC0415
    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()


def fuzz(name: str, seconds: int, directory: Path) -> bool:
    """Fuzz one target for so long, from its corpus into ``directory``; return whether it held."""
    found, kept = directory / "found", directory / "kept"
    found.mkdir()
    kept.mkdir()
    for number, data in enumerate(inputs(name)):
        (kept / f"{number:04}").write_bytes(data)
    done = run(
        name,
        *(str(kept), f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", f"-timeout={HUNG_SECONDS}"),
        *(f"-artifact_prefix={found}/", "-print_final_stats=1", "-rss_limit_mb=1024"),
    )
    runs = done.partition("stat::number_of_executed_units:")[2].split()
    new = len(list(kept.iterdir())) - len(inputs(name))
    say(f"{name}: {int(runs[0]) if runs else 0:,} inputs in {seconds} s, {new} of them new ground")
    for file in sorted(found.iterdir()):
        say(f"FOUND {file.name.partition('-')[0]}: {line(file.read_bytes())}\n{done[-6_000:]}")
    if not runs and not any(found.iterdir()):
        say(f"FOUND: it did not run\n{done[-6_000:]}")
        return False
    return not any(found.iterdir())


def keep(name: str, directory: Path) -> None:
    """Add to the corpus what reached what nothing before it did."""
    found = {file.read_bytes() for file in (directory / "kept").iterdir()}.difference(inputs(name))
    new = sorted([data for data in found if len(data) <= KEPT_BYTES], key=lambda data: (len(data), data))
    with (CORPUS / f"{name}.jsonl").open("a") as file:
        file.writelines(f"{line(data)}\n" for data in new)
    say(f"{name}: {len(new)} kept")


def run(name: str, *options: str) -> str:
    """Return what a run of its own said."""
    words = [sys.executable, __file__, "--inside", name, "--", *options]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="target", help=f"of {', '.join(NAMES)}; all unless given")
    parser.add_argument("--seconds", type=int, default=60, help="for all of them together")
    parser.add_argument("--keep", action="store_true", help="add what reached anything new to the corpus")
    parser.add_argument("--inside", choices=NAMES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside, given.names)
    names = given.names or NAMES
    held = True
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            held &= fuzz(name, max(1, given.seconds // len(names)), Path(directory))
            if given.keep:
                keep(name, Path(directory))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
