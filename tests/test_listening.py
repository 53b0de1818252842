"""Endpoints: what is wrong with one is a sentence, and a socket that a crash left behind is taken over."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from cometd_lite import listening


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        (
            "tcp:8080:interface=::1",
            r"as in tcp6:8080:interface=\:\:1",
        ),
        ("tcp6:8080:interface=fe80::1", "the colons of an IPv6 address are escaped"),
        ("haproxy:tcp6:8080:interface=2001:db8::1", "the colons of an IPv6 address are escaped"),
        ("systemd:", "systemd has passed no such socket"),
        ("systemd:domain=INET:index=0", "systemd has passed no such socket"),
        ("systemd:domain=INET:name=web", "systemd has passed no such socket"),
        ("tcp:8080:mode=666", "tcp does not take these parts"),
        ("tcp:web", "not an endpoint that Twisted knows"),
        ("nonsense", "not an endpoint that Twisted knows"),
        ("", "not an endpoint that Twisted knows"),
        ("unix:", "the path is missing"),
        ("unix:/run/comet.sock:mode=9", "not an endpoint that Twisted knows"),
        ("ssl:8443:privateKey=/nosuch.pem", "/nosuch.pem: No such file or directory"),
    ],
)
def test_what_is_no_endpoint_is_told_in_the_words_of_its_option(endpoint: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        listening.check(reactor, endpoint)
    said = str(caught.value)
    assert said.startswith(f"--listen {endpoint}: ")
    assert sentence in said
    for word in ("_parse", "argument", "list index"):
        assert word not in said


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:8080", r"tcp6:8080:interface=\:\:1", "unix:/run/a.sock:mode=660", "haproxy:tcp:8080"],
)
def test_an_endpoint_is_taken(endpoint: str) -> None:
    listening.check(reactor, endpoint)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CannotListenError("", 80, OSError(13, "Permission denied")), "Permission denied"),
        (CannotListenError(None, "/run/a.sock", "no lock"), "another process listens there"),
        (
            FileNotFoundError(2, "No such file", "1", 0, "/nosuch/a.lock"),
            "No such file",
        ),
        (OverflowError("bind(): port must be 0-65535."), "bind(): port must be 0-65535"),
    ],
)
def test_a_refusal_is_one_sentence(error: Exception, sentence: str) -> None:
    assert listening.refusal("tcp:80", error) == f"cannot listen on tcp:80: {sentence}."


def listened(path: Path) -> Any:
    """Listen on a socket; return the port, or the error."""
    found: list[Any] = []
    listening.listen(reactor, f"unix:{path}", Factory()).addBoth(found.append)
    return found[0]


def left_behind(path: Path, process: int) -> None:
    """Leave a socket and its lock as a process that crashed does."""
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    Path(f"{path}.lock").symlink_to(str(process))


def test_a_socket_left_by_a_crash_is_taken_over_though_its_process_number_lives(
    tmp_path: Path,
) -> None:
    # In a container every process is number 1.
    path = tmp_path / "comet.sock"
    left_behind(path, os.getpid())
    port = listened(path)
    assert IListeningPort.providedBy(port)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    port.stopListening()


def test_a_socket_on_which_a_process_listens_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "comet.sock"
    first = listened(path)
    failure = listened(path)
    assert isinstance(failure.value, CannotListenError)
    assert listening.refusal(f"unix:{path}", failure.value).endswith(": another process listens there.")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.stopListening()
