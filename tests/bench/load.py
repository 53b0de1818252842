"""``python tests/bench/load.py …``: the load generator as users have it, with the peers' dialects besides."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dialects import PEERS

from cometd_lite.bench import main

if __name__ == "__main__":
    sys.exit(main(dialects=PEERS))
