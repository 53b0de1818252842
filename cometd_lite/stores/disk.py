"""What the system says of the disk below a store, and of the machine's last start."""

from __future__ import annotations

import os
from pathlib import Path


def disk_free(directory: Path) -> int:
    """Return the bytes that are free on the disk of a directory. Raises ``OSError``."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def boot_id() -> str:
    """Return what is the same until this machine loses its power or is restarted; empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
