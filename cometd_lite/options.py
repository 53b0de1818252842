"""The options of ``twistd cometd-lite``, and the objects that they ask for; ``service`` wires those together.

A wrong option ends the program with one sentence and a non-zero status.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor as _reactor
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from . import __version__, listening
from .access.origins import Hosts
from .access.tokens import Tokens
from .access_log import FORMATS, AccessLog
from .bayeux.options import BayeuxOptions
from .core.namespaces import Namespace, check_pattern
from .core.store import Store
from .http.spelling import nearest
from .limits import DRAIN_SECONDS, Limits
from .server import Proxies
from .units import count, duration, size, whole
from .webhooks.signing import Signer

reactor: Any = _reactor

_REDIS = frozenset({"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"})


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that lets only ``choices`` through."""

    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(" or ".join(choices))
        return text

    return choose


def store(text: str) -> str:
    """Return what ``memory``, ``sqlite:PATH`` or the URL of a Redis says. Raises ``ValueError``."""
    kind, colon, rest = text.partition(":")
    if text == "memory" or (kind == "sqlite" and colon and rest):
        return text
    if colon and kind in _REDIS:
        try:
            from .stores.redis.connection import Address  # noqa: PLC0415  hiredis is only there where it was asked for
        except ImportError:
            raise ValueError("a Redis only with hiredis: pip install 'cometd-lite[redis]'") from None
        Address.parse(text).check()
        return text
    raise ValueError(
        "memory, sqlite: and the path of a file, as in sqlite:/var/lib/comet/messages.db, "
        "or a Redis, as in redis://localhost:6379 or unix:/run/redis/redis.sock"
    )


def application(text: str) -> str:
    """Return the URL of an application. Raises ``ValueError``."""
    from .outgoing.http import checked_url  # noqa: PLC0415  treq is only imported where it is needed

    return checked_url(text)


def mount(text: str) -> str:
    """Return a path prefix with a leading and no trailing slash, empty for the root."""
    path = "/" + text.strip("/")
    if not re.fullmatch(r"(?:/[\w.~!$&'()*+,;=:@-]+)+|/", path, re.ASCII):
        raise ValueError("a path, as in /comet")
    return "" if path == "/" else path


def _parameter(name: str, default: str | None, sentence: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """Return one of twisted's option tuples; the error for a wrong value names the option."""

    def coerce(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise UsageError(f"--{name} {text}: it takes {error}.") from None

    return (name, None, default, sentence, coerce)


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "capacity": count,
    "capacity-bytes": size,
    "ttl": duration,
    "overflow": one_of("reject", "drop-oldest"),
    "max-body": size,
    "presence": one_of("yes", "no"),
    "unread-after": duration,
}
"""What ``--namespace`` may set, and what reads it."""


def namespace(text: str) -> Namespace:
    """Return what ``capacity=50,ttl=1h`` sets. Raises ``ValueError`` with a sentence."""
    given: dict[str, Any] = {}
    for setting in text.split(","):
        name, _, value = setting.partition("=")
        if name not in _SETTINGS:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(_SETTINGS)}.")
        if name in given:
            raise ValueError(f"{name} is set twice.")
        try:
            given[name] = _SETTINGS[name](value)
        except ValueError as error:
            raise ValueError(f"{name} takes {error}.") from None
    if "presence" in given:
        given["presence"] = given["presence"] == "yes"
    return Namespace(**{name.replace("-", "_"): value for name, value in given.items()})


def _joined(words: list[str]) -> list[str]:
    """Join each ``--namespace PATTERN`` with the word that follows: Twisted's options take one word."""
    joined: list[str] = []
    rest = iter(words)
    for word in rest:
        joined.append(word)
        pattern = next(rest, None) if word == "--namespace" else None
        if pattern is not None:
            joined.append(pattern)
        if pattern is not None or word.startswith("--namespace="):
            settings = next(rest, None)
            if settings is not None and not settings.startswith("-"):
                joined[-1] += f" {settings}"
            elif settings is not None:
                joined += _joined([settings, *rest])
    return joined


SERVE = "cometd-lite"
"""The name of the program where ``cometd-lite serve`` has started twistd's."""


_OPTIONS_OF_TWISTD = """
Put twistd's own options first: -n stays in the foreground, --pidfile= writes
no pid file."""


class WrongOption(SystemExit):
    """An option was used wrongly; the text says how."""


class Options(UsageOptions):
    """The options of ``twistd cometd-lite``."""

    synopsis = "[options]"
    longdesc = """\
A comet server: a client asks GET /poll/NAME and is held until someone says
POST /push/NAME. Try it, in two shells beside this one:

  curl localhost:8080/poll/bob
  curl -d 'hello' localhost:8080/push/bob

Sizes are bytes or end in k, M or G; times are seconds or end in s, m, h or d."""
    optFlags = (  # noqa: N815  Twisted's name
        ("no-console", None, "Do not show the console page at /."),
        ("no-metrics", None, "Do not show the counts at /metrics."),
        ("no-openapi", None, "Do not describe the interface at /openapi.json."),
        ("no-bayeux", None, "Do not speak Bayeux at /cometd."),
        ("presence", None, "Show who reads a recipient, by name, at /presence/NAME."),
        ("reuse-port", None, "Let several processes listen at the same TCP port (SO_REUSEPORT)."),
    )
    optParameters = (  # noqa: N815  Twisted's name
        _parameter("capacity", "1000", "Messages that one mailbox holds.", count),
        _parameter("capacity-bytes", "1M", "Bytes of messages that one mailbox holds.", size),
        _parameter("ttl", "1d", "Time that a message is kept, at the most.", duration),
        _parameter("max-attempts", "10", "Leases that a message has before it is a dead letter.", count),
        _parameter("max-body", "64k", "Bytes of one push's body.", size),
        _parameter("max-wait", "120", "Time that a poll may ask to be held.", duration),
        _parameter("keep-alive", "75", "Time that a connection is kept open between two requests.", duration),
        _parameter("max-parked", "15000", "Polls, streams and sockets that wait at once.", count),
        _parameter("max-connections", "20000", "Connections that are open at once, if files suffice.", count),
        _parameter("max-recipients", "100000", "Mailboxes that exist at once.", count),
        _parameter("max-sessions", "50000", "Listeners and Bayeux clients remembered at once.", count),
        _parameter("max-memory", "256M", "Bytes that all messages take, with overhead.", size),
        _parameter(
            "overflow",
            "reject",
            "What a full mailbox does with a push: reject or drop-oldest.",
            one_of("reject", "drop-oldest"),
        ),
        _parameter("bayeux-timeout", "30", "Time that a Bayeux connect is held.", duration),
        _parameter("bayeux-interval", "0", "Milliseconds between a Bayeux client's connects.", whole),
        _parameter(
            "bayeux-max-interval", "10", "Time after which a silent Bayeux client is disconnected.", duration
        ),
        _parameter("bayeux-browser-sessions", "100", "Bayeux clients of one browser, by its cookie.", count),
        _parameter("mount", "/", "Path under which the interface lies, as in /comet.", mount),
        _parameter("store", "memory", "Where messages are kept: memory, sqlite:PATH or redis://HOST.", store),
        _parameter(
            "sync",
            "full",
            "What a push to sqlite: waits for: full survives a loss of power, normal a crash.",
            one_of("full", "normal"),
        ),
        _parameter(
            "drain", f"{DRAIN_SECONDS:g}", "Time that clients have to end when the server stops.", duration
        ),
        ("access-log", None, None, "Write a line for each request into this file."),
        _parameter(
            "access-log-format",
            "combined",
            "The form of a line: combined, as nginx and Apache have it, or json, with times.",
            one_of(*FORMATS),
        ),
        _parameter(
            "client-connections",
            None,
            "Connections of one address at once [default: a quarter of all, of a public address].",
            count,
        ),
        _parameter("client-parked", None, "Polls, streams and sockets of one client that wait.", count),
        _parameter("client-pushes", None, "Messages that one client pushes a second.", count),
        _parameter("client-bytes", None, "Bytes that one client pushes a second.", size),
        _parameter("client-registrations", None, "Listeners and Bayeux sessions of one client.", count),
        _parameter(
            "authorize-url",
            None,
            "Ask this application, by POST, about requests without a valid token.",
            application,
        ),
        _parameter("notify-url", None, "Post joins, leaves and unread messages to this URL.", application),
        ("notify-key", None, None, "Sign webhooks with the key in this file: whsec_ and base64."),
        _parameter("unread-after", None, "Time after which an unread message is reported.", duration),
        ("audience", None, None, "The audience: tokens need an aud that names it."),
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's
        for name, _, default, _, *coerce in self.optParameters:
            if coerce and default is not None:
                self[name] = coerce[0](default)  # usage shows defaults as they are typed, and keeps them so
        self["namespace"] = {}
        for name in ("listen", "allow-origin", "allow-parameter", "host", "key", "proxied"):
            self[name] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen there; may be given again. A Twisted endpoint [default: tcp:8080:interface=127.0.0.1]."""
        self["listen"].append(endpoint)

    def opt_allow_origin(self, origin: str) -> None:
        """Let web pages of this origin push and read, as in https://example.com; may be given again."""
        self["allow-origin"].append(origin)

    def opt_allow_parameter(self, name: str) -> None:
        """Let requests have a query parameter of this name, for an application; may be given again."""
        self["allow-parameter"].append(name)

    def opt_host(self, name: str) -> None:
        """Answer to this Host and to names of this machine, and to no other; may be given again."""
        self["host"].append(name)

    def opt_key(self, file: str) -> None:
        """Check tokens against this key file: a secret, a PEM public key or a JWKS; may be given again."""
        self["key"].append(file)

    def opt_namespace(self, text: str) -> None:
        """Set the bounds of a pattern's names, as in 'chat/**' capacity=50,ttl=1h; may be given again."""
        pattern, _, settings = text.rpartition(" ")
        if not pattern.strip() or "=" not in settings:
            raise UsageError(
                f"--namespace {text}: it takes a pattern and its settings, "
                "as in 'chat/**' capacity=50,ttl=1h."
            )
        pattern = pattern.strip()
        if pattern in self["namespace"]:
            raise UsageError(f"--namespace {pattern} is given twice; join its settings by commas.")
        try:
            check_pattern(pattern)
            self["namespace"][pattern] = namespace(settings)
        except ValueError as error:
            raise UsageError(f"--namespace {text}: {error}") from None

    def opt_proxied(self, network: str) -> None:
        """Trust this proxy to name the client: an address, a network or unix; may be given again."""
        self["proxied"].append(network)

    def opt_version(self) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"cometd-lite {__version__}\n")
        raise SystemExit(0)

    def parseArgs(self, *surplus: str) -> None:  # noqa: N802  Twisted's name
        """Refuse what is no option, by name."""
        if surplus:
            raise UsageError(f"{surplus[0]}: only options are taken, each beginning with --.")

    def postOptions(self) -> None:  # noqa: N802  Twisted's name
        """Check what belongs together; raises ``UsageError`` with a sentence."""
        self["listen"] = self["listen"] or ["tcp:8080:interface=127.0.0.1"]
        for endpoint in self["listen"]:
            try:
                listening.check(reactor, endpoint)
            except ValueError as error:
                raise UsageError(str(error)) from None
        for origin in self["allow-origin"]:
            parts = urlsplit(origin)
            if origin != "*" and not (parts.scheme and parts.netloc and parts.path in {"", "/"}):
                raise UsageError(f"--allow-origin {origin}: not an origin, as in https://example.com.")
        for network in self["proxied"]:
            try:
                Proxies([network])
            except ValueError:
                raise UsageError(
                    f"--proxied {network}: not an address or network, as in 10.1.2.3 or 10.0.0.0/8, nor unix."
                ) from None
        _ = self.tokens  # a wrong key file is an error before anything is served
        self._check_webhooks()

    def _check_webhooks(self) -> None:
        if self["notify-url"] is None:
            for name in ("notify-key", "unread-after"):
                if self[name] is not None:
                    raise UsageError(f"--{name} needs --notify-url, to which events are posted.")
        elif self["notify-key"] is None:
            raise UsageError(
                "--notify-url needs --notify-key, the file of the key that signs what is posted."
            )
        else:
            try:
                Signer(self.notify_key or "")
            except ValueError as error:
                raise UsageError(f"--notify-key: {error}.") from None

    @property
    def notify_key(self) -> Path | None:
        """The file of the key that signs events."""
        file = self["notify-key"]
        return None if file is None else Path(file).expanduser().absolute()  # as in ``access_log``

    def parseOptions(self, options: Any = None) -> None:  # noqa: N802  Twisted's name
        """Parse as Twisted does, but answer a wrong option by one sentence instead of the whole help."""
        words = sys.argv[1:] if options is None else list(options)
        try:
            super().parseOptions(_joined(words))  # type: ignore[no-untyped-call]  # Twisted's
        except UsageError as error:
            raise WrongOption(f"cometd-lite: {self._sentence(str(error))}") from None

    def _sentence(self, error: str) -> str:
        """Return what is wrong; for an option that there is not, with the one that was probably meant."""
        found = re.fullmatch(r"option --([^ ]+) not recognized", error)
        if found is None:
            return error
        meant = nearest(found[1], [name.rstrip("=") for name in self.longOpt])
        return f"there is no option --{found[1]}" + ("." if meant is None else f"; did you mean --{meant}?")

    def getSynopsis(self) -> str:  # noqa: N802  Twisted's name
        """Return the first line of the help, which names the command that was typed."""
        if Path(sys.argv[0]).name == SERVE:
            return "Usage: cometd-lite serve [options]"
        return super().getSynopsis()

    def getUsage(self, width: int | None = None) -> str:  # noqa: N802  Twisted's name
        """Return the help; its opening keeps its lines, which Twisted would fill."""
        described, self.longdesc = self.longdesc, ""
        if Path(sys.argv[0]).name != SERVE:
            described += _OPTIONS_OF_TWISTD
        try:
            return f"{described}\n\n{super().getUsage(width)}"
        finally:
            self.longdesc = described

    @cached_property
    def tokens(self) -> Tokens | None:
        """What checks tokens, None without keys. Raises ``UsageError`` for a file that holds no key."""
        if not self["key"]:
            return None
        try:
            files = [Path(file).expanduser().absolute() for file in self["key"]]  # as in ``access_log``
            return Tokens(files, audience=self["audience"])
        except ValueError as error:
            raise UsageError(f"--key: {error}.") from None

    @property
    def bayeux(self) -> BayeuxOptions | None:
        """How Bayeux is spoken, None for not at all."""
        if self["no-bayeux"]:
            return None
        return BayeuxOptions(
            self["bayeux-timeout"],
            self["bayeux-interval"],
            self["bayeux-max-interval"],
            browser_sessions=self["bayeux-browser-sessions"],
        )

    @property
    def store(self) -> Store | None:
        """The store that was asked for, not opened; None for memory."""
        kind, _, path = self["store"].partition(":")
        if kind in _REDIS:
            from .stores.redis.store import RedisStore  # noqa: PLC0415  as in ``store``

            return RedisStore(self["store"], self.limits, overflow=self["overflow"], clock=reactor)
        if kind == "memory":
            return None
        from .stores.sqlite import SQLiteStore  # noqa: PLC0415  some Pythons are built without sqlite3

        file = Path(path).expanduser()
        return SQLiteStore(file, self.limits, overflow=self["overflow"], sync=self["sync"])

    @property
    def access_log(self) -> AccessLog | None:
        """The access log that was asked for, not opened."""
        if self["access-log"] is None:
            return None
        file = Path(self["access-log"]).expanduser().absolute()  # a daemon leaves its directory
        return AccessLog(file, self["access-log-format"], reactor)

    @property
    def limits(self) -> Limits:
        """The bounds that were given, each under its option's name."""
        return Limits(**{field.name: self[field.name.replace("_", "-")] for field in fields(Limits)})

    @property
    def hosts(self) -> Hosts:
        """The names that were given; ``CometService`` adds whether only this machine can connect."""
        return Hosts(frozenset(name.lower() for name in self["host"]))
