"""The exit statuses of the command, each with what it means."""

DONE = 0
"""It was done; or the reader of the output closed it; or SIGTERM ended what has no end."""

REFUSED = 1
"""The server said no, and why."""

USAGE = 2
"""The command was used wrongly."""

NO_ANSWER = 3
"""No server answered at the URL."""

NOTHING = 4
"""Nothing came while ``poll`` waited."""

COMMAND_FAILED = 5
"""The COMMAND of ``--exec`` failed; its message counts as not handled."""

INTERRUPTED = 130
"""Ctrl-C."""

TERMINATED = 143
"""SIGTERM ended what would have ended by itself."""

HELP = """\
exit status: 0 done, 1 the server said no, 2 used wrongly, 3 no server answered, 4 nothing came while poll
waited, 5 the COMMAND of --exec failed, 130 Ctrl-C, 143 ended by SIGTERM"""
