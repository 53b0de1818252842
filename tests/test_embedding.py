"""The programs in ``embedding/``, in memory: what the documentation shows does what it says."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from twisted.application.service import IService, IServiceCollection
from twisted.web.resource import IResource

from cometd_lite.comet import Comet
from cometd_lite.core.message import OLDEST
from cometd_lite.errors import NotFound
from cometd_lite.testing import MemoryServer

PROGRAMS = Path(__file__).with_name("embedding")


def program(name: str) -> ModuleType:
    """Import a program without running it."""
    spec = importlib.util.spec_from_file_location(f"embedding_{name}", PROGRAMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serving() -> Iterator[list[MemoryServer]]:
    servers: list[MemoryServer] = []
    yield servers
    for server in servers:
        server.close()


def test_a_site_shows_a_page_and_serves_the_comet_beside_it(serving: list[MemoryServer]) -> None:
    server = MemoryServer(resource=program("in_a_site").site, url="http://localhost/comet")
    serving.append(server)
    following = server.client.follow("news", "oldest")
    server.result(server.comet.push("news", "it works"))
    assert server.result(anext(following)).data == "it works"
    page = server.result(server.treq.request("GET", "http://localhost/"))
    assert b'from "/comet/client.js"' in server.result(page.content())
    assert server.result(server.client.request("GET", "client.js")).status == 200
    with pytest.raises(NotFound):
        server.result(server.client.request("GET", "../nothing"))


def test_a_klein_application_pushes_from_its_routes(serving: list[MemoryServer]) -> None:
    def shop(comet: Comet) -> IResource:
        resource: IResource = program("in_klein").Shop(comet).app.resource()
        return resource

    server = MemoryServer(resource=shop, url="http://localhost/comet")
    serving.append(server)
    waiting = server.run(server.client.poll("orders/7", "now"))
    response = server.result(server.treq.request("POST", "http://localhost/orders/7/paid"))
    assert server.result(response.content()) == b"1 got it at once\n"
    assert waiting.value.messages[0].data == {"state": "paid"}


def test_a_service_beside_the_server_pushes_into_it(serving: list[MemoryServer]) -> None:
    module = program("under_a_service")
    server = MemoryServer()
    serving.append(server)
    ticking = module.ticks(server.comet)
    ticking.clock = server.clock
    ticking.startService()
    server.advance(3)
    batch = server.result(server.client.poll("ticks", OLDEST))
    assert [message.data for message in batch.messages] == [0, 1, 2, 3]
    server.result(ticking.stopService())


def test_the_server_and_its_neighbour_are_services_of_one_application() -> None:
    module = program("under_a_service")
    (together,) = IServiceCollection(module.application)
    assert [type(service).__name__ for service in together] == ["CometService", "TimerService"]
    assert all(IService.providedBy(service) for service in together)


def test_a_bot_answers_who_greets_it_once_also_where_it_is_started_again(
    serving: list[MemoryServer], tmp_path: Path
) -> None:
    bot = program("chat_bot").bot
    server = MemoryServer()
    serving.append(server)

    def said() -> list[Any]:
        batch = server.result(server.client.poll("chat/lobby", "oldest", wait=0))
        return [message.data for message in batch.messages]

    place = str(tmp_path / "place")
    first = server.run(bot(server.client, place))
    server.result(server.client.push("chat/lobby", {"from": "ann", "text": "Hello all"}))
    server.result(server.client.push("chat/lobby", "unrelated"))
    first.cancel()
    server.result(server.client.push("chat/lobby", "hello, anyone?"))
    server.run(bot(server.client, place))
    answers = [
        message["text"] for message in said() if isinstance(message, dict) and message["from"] == "bot"
    ]
    assert answers == ["hello, ann!", "hello, you!"]


@pytest.mark.parametrize("path", sorted(PROGRAMS.glob("*.py")), ids=lambda path: path.stem)
def test_each_program_says_what_it_is_and_how_it_is_run(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said is not None
    assert path.name in said


@pytest.mark.parametrize("path", sorted(PROGRAMS.iterdir()), ids=lambda path: path.stem)
def test_each_program_is_read_in_a_minute(path: Path) -> None:
    if path.suffix in {".py", ".sh"}:
        assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 30


def test_messages_of_both_ways_are_the_same(serving: list[MemoryServer]) -> None:
    server = MemoryServer(resource=program("in_a_site").site, url="http://localhost/comet")
    serving.append(server)
    server.result(server.client.push("news", {"a": 1}))
    (inside,) = server.result(server.comet.poll("news", "oldest")).messages
    (outside,) = server.result(server.client.poll("news", "oldest")).messages
    assert msgspec.json.decode(inside.json) == msgspec.json.decode(outside.json)
