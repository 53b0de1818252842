"""Tells twistd of the subcommand ``cometd-lite``; the module is named by string, so nothing is imported."""

from twisted.application.service import ServiceMaker

cometd_lite = ServiceMaker(
    "cometd-lite",
    "cometd_lite.service",
    "A comet server: hold GET /poll/NAME until someone says POST /push/NAME.",
    "cometd-lite",
)
