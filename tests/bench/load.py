"""``python tests/bench/load.py …``: ``cometd-lite bench`` with other dialects, and the server's costs.

With ``--pid`` the cost is measured from outside: CPU time and memory of the server's processes::

    python tests/bench/load.py fanout --pid $(cat twistd.pid)
    python tests/bench/load.py mailbox --dialect bayeux --url http://localhost:8080/cometd
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# What is imported from here on lies beside this file and above it.
from dialects import DIALECTS
from processes import Processes

from cometd_lite.bench import NotThere
from cometd_lite.bench.command import parser, report, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cometd_lite.bench import Result


def with_costs(result: Result) -> str:
    """Return a result as lines for people, with what the server's processes took."""
    lines = report(result)
    if result.cpu_us is not None and result.server_cpu is not None:
        each = "delivery" if result.deliveries else "push"
        lines += f"  server CPU   {result.cpu_us:.1f} µs for each {each}, {result.server_cpu:.0%} of a core\n"
    if result.kb_per_reader is not None:
        lines += f"  memory       {result.kb_per_reader:.1f} KB for each reader that waits\n"
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = parser()
    words.add_argument("--pid", type=int, action="append", help="a server's process; may be repeated")
    words.add_argument("--dialect", choices=DIALECTS, default="cometd-lite", help="what the server speaks")
    arguments = words.parse_args(argv)
    try:
        costs = Processes(arguments.pid) if arguments.pid else None
    except NotThere as error:
        words.error(str(error))
    return run(arguments, DIALECTS[arguments.dialect], costs, with_costs)


if __name__ == "__main__":
    sys.exit(main())
