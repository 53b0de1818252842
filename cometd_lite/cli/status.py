"""The exit statuses of the command, each with what it means."""

DONE = 0
"""The command has succeeded, its output was closed, or SIGTERM ended a command that has no end."""

REFUSED = 1
"""The server refused it; the sentence is on standard error."""

USAGE = 2
"""The command was used wrongly."""

NO_ANSWER = 3
"""No server answered at the URL."""

NOTHING = 4
"""No message came while ``poll`` waited."""

COMMAND_FAILED = 5
"""The COMMAND of ``--exec`` failed; its message counts as not handled."""

INTERRUPTED = 130
"""Ctrl-C."""

TERMINATED = 143
"""SIGTERM ended a command that would have ended by itself."""

HELP = """\
exit status: 0 done, 1 refused by the server, 2 used wrongly, 3 no server answered, 4 no message came while
poll waited, 5 the COMMAND of --exec failed, 130 Ctrl-C, 143 ended by SIGTERM"""
