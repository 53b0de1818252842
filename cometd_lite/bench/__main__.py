"""``python -m cometd_lite.bench``: the same as ``cometd-lite bench``."""

from __future__ import annotations

import sys

from .command import main

sys.exit(main())
