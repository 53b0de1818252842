"""``python -m cometd_lite``: the command, where it was not installed."""

import sys

from .cli import main

sys.exit(main())
