"""Foreign clients behind a proxy that gives each connection to the next of three processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from foreign import PATIENCE, Make, eventually
from program import Program
from redis_server import RedisServer, free_port
from tools import needs, needs_package

MESSAGES = 20
KINDS = [("faye", "long-polling"), ("faye", "websocket"), ("cometd", "long-polling"), ("cometd", "websocket")]
NGINX = """
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    upstream comet {{ {servers} }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://comet;
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off;
            proxy_read_timeout 300;
        }}
    }}
}}
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[int]:
    """Return the port of an nginx before three processes at one Redis."""
    redis = RedisServer(tmp_path).start()
    options = ("--store", redis.address, "--bayeux-timeout", "5", "--bayeux-browser-sessions", "1000")
    programs = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        programs.append(Program(tmp_path / str(number), *options))
    port = free_port()
    servers = " ".join([f"server 127.0.0.1:{program.port};" for program in programs])
    (tmp_path / "nginx.conf").write_text(NGINX.format(work=tmp_path, port=port, servers=servers))
    nginx = subprocess.Popen([needs("nginx"), "-p", tmp_path, "-c", tmp_path / "nginx.conf"])
    yield port
    nginx.terminate()
    nginx.wait()
    for program in programs:
        assert program.stop() == 0
        assert "Traceback" not in program.log.read_text()
    redis.kill()


def ask(port: int, method: str, target: str, body: bytes = b"") -> int:
    """Ask something on a connection of its own; return the status."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def is_up(port: int) -> bool:
    try:
        return ask(port, "GET", "/healthz") == 200
    except OSError:
        return False


def streamed(port: int, count: int) -> list[Any]:
    """Return the data of the first messages of the room, as a stream tells them."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/stream/room?after=oldest", headers={"Accept": "application/x-ndjson"})
        answer = connection.getresponse()
        found: list[Any] = []
        while len(found) < count:
            said = json.loads(answer.readline())
            found += [said["data"]] if "data" in said else []
        answer.close()
    return found


@pytest.mark.parametrize("each", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_all_hear_all_in_order_whichever_process_a_connection_comes_to(
    proxy: int, foreign: Make, each: int
) -> None:
    # So many clients of Faye and of CometD, half of them over each transport, and so many sockets.
    needs_package("websockets")
    from websockets.sync.client import connect  # noqa: PLC0415  it is only there where it was installed

    eventually(lambda: is_up(proxy), "nginx")
    with ExitStack() as stack:
        url = f"ws://127.0.0.1:{proxy}/ws/room?after=oldest"
        sockets = [stack.enter_context(connect(url)) for _ in range(each)]

        def received(count: int) -> list[list[Any]]:
            return [[json.loads(one.recv(PATIENCE))["data"] for _ in range(count)] for one in sockets]

        clients = [foreign(kind, proxy, transport) for kind, transport in KINDS for _ in range(each // 2)]
        for deed in (("open",), ("subscribe", "/room")):
            told = [client.tell(*deed) for client in clients]
            for client, number in zip(clients, told, strict=True):
                client.answer(number)
        for number in range(MESSAGES):
            assert ask(proxy, "POST", "/push/room", b"%d" % number) == 201
        for client in clients:
            assert client.hears(MESSAGES) == [("/room", number) for number in range(MESSAGES)]
        assert received(MESSAGES) == [list(range(MESSAGES))] * each
        for client in clients:
            client.do("publish", "/room", client.transport)
        published = sorted([client.transport for client in clients])
        for client in clients:
            assert sorted([data for _, data in client.hears(len(clients))]) == published
        first, *others = received(len(clients))
        assert sorted(first) == published
        assert others == [first] * (each - 1)
    for _ in range(3):
        assert streamed(proxy, MESSAGES) == list(range(MESSAGES))
