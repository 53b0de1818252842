"""What ``twistd cometd-lite`` makes of its options, without starting anything (that is in ``live/``)."""

from __future__ import annotations

import gc
import resource
import socket
import subprocess
import sys
import time
from dataclasses import fields

import pytest
from twisted.application.service import IService, IServiceMaker
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.logger import capturedLogs, formatEvent
from twisted.plugin import IPlugin, getPlugins
from twisted.scripts.twistd import ServerOptions
from zope.interface.verify import verifyObject

from cometd_lite import listening, service
from cometd_lite.access.origins import Hosts
from cometd_lite.core.namespaces import Namespace
from cometd_lite.limits import FILES_RESERVED, Limits
from cometd_lite.listening import with_backlog
from cometd_lite.options import mount, one_of
from cometd_lite.server import Bounds
from cometd_lite.server.connection import HTTPConnection
from cometd_lite.service import Options, connections_within_files, makeService
from cometd_lite.stores.redis.connection import Address


def parsed(*words):
    options = Options()
    options.parseOptions(words)
    return options


def refusal(*words):
    """Return the sentence with which the options are refused."""
    with pytest.raises(SystemExit) as exit_:
        parsed(*words)
    (sentence,) = exit_.value.args
    assert sentence.startswith("cometd-lite: ")
    return sentence


# -- the plugin


def test_twistd_lists_the_plugin():
    (maker,) = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "cometd-lite"]
    verifyObject(IPlugin, maker)
    assert maker.module == "cometd_lite.service"
    assert maker.options is Options
    assert maker.makeService is makeService


def test_listing_the_plugin_imports_no_reactor():
    # Else twistd's --reactor option comes too late.
    program = (
        "import sys, twisted.plugins.cometd_lite_plugin, cometd_lite;"
        "sys.exit('twisted.internet.reactor' in sys.modules or 'klein' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- options


def test_without_options_the_bounds_are_those_of_limits():
    options = parsed()
    assert options.limits == Limits()
    assert options["listen"] == ["tcp:8080:interface=127.0.0.1"]
    assert options["overflow"] == "reject"
    assert (options["mount"], options["store"]) == ("", "memory")
    assert (options["allow-origin"], options["host"]) == ([], [])


def test_each_bound_of_limits_has_an_option_of_its_name():
    names = [field.name.replace("_", "-") for field in fields(Limits)]
    words = [word for name in names for word in (f"--{name}", "7")]
    assert parsed(*words).limits == Limits(**dict.fromkeys([field.name for field in fields(Limits)], 7))


def test_sizes_and_times_may_have_units():
    options = parsed("--max-body", "1M", "--ttl", "2h", "--max-wait", "1.5m", "--capacity-bytes", "64kB")
    assert options.limits.max_body == 1024 * 1024
    assert options.limits.ttl == 7200
    assert options.limits.max_wait == 90
    assert options.limits.capacity_bytes == 64 * 1024


def test_what_may_be_given_again_is_collected():
    options = parsed(
        *("--listen", "tcp:1", "--listen", "unix:/run/comet.sock"),
        *("--allow-origin", "https://a.example", "--allow-origin", "*", "--host", "A.example", "--host", "b"),
        *("--allow-parameter", "user", "--allow-parameter", "v"),
    )
    assert options["allow-parameter"] == ["user", "v"]
    assert options["listen"] == ["tcp:1", "unix:/run/comet.sock"]
    assert options["allow-origin"] == ["https://a.example", "*"]
    assert options.hosts.named == {"a.example", "b"}


@pytest.mark.parametrize(
    ("name", "values", "right"),
    [
        ("capacity", ["many", "0", "-1", "1.5", ""], "a whole number, 1 or more"),
        ("max-parked", ["0"], "a whole number, 1 or more"),
        ("max-recipients", ["1k"], "a whole number, 1 or more"),
        ("max-body", ["64q", "0", "-1", "1.5M", ""], "64k"),
        ("capacity-bytes", ["x"], "64k"),
        ("max-memory", ["1T"], "256M"),
        ("ttl", ["0", "1w", "-1", "", "0.0"], "12h"),
        ("max-wait", ["x", "0"], "in seconds"),
        ("overflow", ["explode", ""], "reject or drop-oldest"),
        ("store", ["papyrus"], "memory"),
        ("mount", ["/a b", "/a//b", "/ü", "/a?b", "/%41"], "/comet"),
    ],
)
def test_a_wrong_value_is_told_with_the_option_and_what_is_right(name, values, right):
    for value in values:
        sentence = refusal(f"--{name}", value)
        assert f"--{name} {value}" in sentence
        assert right in sentence
        assert "\n" not in sentence


def test_namespaces_are_given_as_a_pattern_and_settings() -> None:
    settings = (
        "capacity=50,capacity-bytes=64k,ttl=1h,overflow=drop-oldest,max-body=2k,presence=yes,unread-after=10m"
    )
    chat = Namespace(
        capacity=50,
        capacity_bytes=65_536,
        ttl=3_600.0,
        overflow="drop-oldest",
        max_body=2_048,
        presence=True,
        unread_after=600.0,
    )
    jobs = Namespace(presence=False)
    expected = {"chat/**": chat, "my jobs/*": jobs, "last": Namespace(ttl=5.0)}
    in_words = ["--namespace", "chat/**", settings, "--namespace", "my jobs/*", "presence=no", "--no-console"]
    in_words += ["--namespace", "last", "ttl=5", "--ttl", "1h"]
    in_one = ["--ttl", "1h", f"--namespace=chat/** {settings}", "--namespace", "my jobs/* presence=no"]
    in_one += ["--namespace=last", "ttl=5", "--no-console"]
    for words in (in_words, in_one):
        options = parsed(*words)
        assert options["namespace"] == expected
        assert (options["ttl"], options["no-console"]) == (3_600.0, 1)
    comet = makeService(parsed(*in_words)).comet
    assert comet.hub.namespaces.of("chat/a/b") == chat


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a/**",), "a/**: it takes a pattern and its settings, as in 'chat/**' capacity=50,ttl=1h."),
        (("ttl=1h",), "ttl=1h: it takes a pattern and its settings, as in 'chat/**' capacity="),
        (("chat/**", "--reuse-port"), "chat/**: it takes a pattern and its settings"),
        (("a/**", "size=5"), "a/** size=5: there is no setting 'size'; there are capacity, capacity-bytes,"),
        (("a/**", "ttl=0"), "a/** ttl=0: ttl takes a time above 0, in seconds or as in 90s, 15m, 12h or 7d."),
        (("a/**", "overflow=x"), "a/** overflow=x: overflow takes reject or drop-oldest."),
        (("a/**", "presence=1"), "a/** presence=1: presence takes yes or no."),
        (("a/**", "ttl=1,ttl=2"), "a/** ttl=1,ttl=2: ttl is set twice."),
        (("a/**", "ttl"), "a/** ttl: it takes a pattern"),
        (("a/**/b", "ttl=1"), "a/**/b ttl=1: 'a/**/b' is no recipient or pattern: "),
        (("$x", "ttl=1"), "$x ttl=1: '$x' is no recipient or pattern: "),
        (
            ("a", "ttl=1", "--namespace", "a", "capacity=1"),
            "a is given twice; join its settings by commas.",
        ),
    ],
)
def test_a_wrong_namespace_is_told_with_what_is_right(words: tuple[str, ...], sentence: str) -> None:
    assert refusal("--namespace", *words).startswith(f"cometd-lite: --namespace {sentence}")


@pytest.mark.parametrize(
    "address", ["redis://localhost", "unix:/run/redis.sock", "redis+sentinel://a,b/m", "rediss://me:x@h/1"]
)
def test_a_store_may_be_a_redis(address):
    store = parsed("--store", address, "--overflow", "drop-oldest", "--ttl", "60").store
    assert store.address == Address.parse(address)
    assert (store.overflow, store.limits.ttl) == ("drop-oldest", 60)


@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("redis://", "redis://localhost:6379"),
        ("unix:redis.sock", "unix:/run/redis/redis.sock"),
        ("redis+sentinel://a", "redis+sentinel://one,two/mymaster"),
        ("rediss://a?ca=/nowhere.pem", "a PEM file"),
        ("valkey://a", "redis://localhost:6379"),
    ],
)
def test_a_wrong_address_of_a_redis_is_told_with_what_is_right(address, right):
    sentence = refusal("--store", address)
    assert f"--store {address}: it takes " in sentence
    assert right in sentence


def test_a_redis_without_what_it_needs_is_told_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cometd_lite.stores.redis.connection", None)
    assert "pip install 'cometd-lite[redis]'" in refusal("--store", "redis://localhost")


@pytest.mark.parametrize(
    "endpoint", ["nonsense:1", "tcp", "tcp:x", "8080", "", "tcp:8080:interfaces=127.0.0.1"]
)
def test_a_wrong_endpoint_is_told_with_one_that_is_right(endpoint):
    sentence = refusal("--listen", endpoint)
    assert f"--listen {endpoint}: " in sentence
    assert "tcp:8080:interface=127.0.0.1" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("origin", ["example.com", "https://", "https://example.com/page", "", "null"])
def test_a_wrong_origin_is_told_with_one_that_is_right(origin):
    assert "https://example.com" in refusal("--allow-origin", origin)


def test_an_unknown_option_and_a_surplus_word_are_named():
    assert "no-such-option" in refusal("--no-such-option")
    assert "surplus" in refusal("surplus")
    assert "listen" in refusal("--listen")


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("/", ""), ("", ""), ("/comet", "/comet"), ("comet/", "/comet"), ("/a/b/", "/a/b"), ("/~me", "/~me")],
)
def test_a_mount_point_begins_and_does_not_end_with_a_slash(text, prefix):
    assert mount(text) == prefix


def test_an_option_takes_one_of_its_choices():
    assert one_of("a", "b")("b") == "b"
    with pytest.raises(ValueError, match=r"^a or b$"):
        one_of("a", "b")("c")


def test_the_help_keeps_the_lines_of_its_opening_and_names_every_option():
    said = str(Options())
    assert "\n  curl localhost:8080/poll/bob\n" in said
    for field in fields(Limits):
        assert f"--{field.name.replace('_', '-')}" in said


def test_key_files_are_found_after_a_daemon_has_left_its_directory(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(b"a secret of at least thirty-two bytes")
    monkeypatch.chdir(tmp_path)
    tokens = parsed("--key", "key").tokens
    monkeypatch.chdir("/")
    tokens.reload()


# -- the service


def test_the_service_is_made_of_what_was_asked_for():
    made = makeService(parsed("--capacity", "5", "--max-body", "10000", "--mount", "/comet", "--host", "x"))
    verifyObject(IService, made)
    assert made.listen == ["tcp:8080:interface=127.0.0.1"]
    assert made.comet.limits.capacity == 5
    assert made.factory.bounds.body == 10_000
    assert made.factory.router.prefix == b"/comet"
    assert made.comet.routes.policy.hosts.named == {"x"}
    assert makeService(parsed()).factory.bounds.body == Limits().max_body


@pytest.mark.parametrize(
    ("endpoints", "only_local"),
    [
        (["tcp:0:interface=127.0.0.1"], True),
        (["tcp:0:interface=127.1.2.3"], True),
        (["tcp:0:interface=localhost"], True),
        (["haproxy:tcp:0:interface=127.0.0.1"], True),
        ([r"tcp6:0:interface=\:\:1"], True),
        (["unix:{directory}/sock"], True),
        (["unix:{directory}/sock", "tcp:0:interface=127.0.0.1"], True),
        (["tcp:0"], False),
        (["tcp:0:interface=0.0.0.0"], False),
        ([r"tcp6:0:interface=\:\:"], False),
        (["tcp:0:interface=127.0.0.1", "tcp:0"], False),
    ],
)
@pytest.mark.parametrize("reuse_port", [False, True])
def test_only_a_server_that_only_this_machine_reaches_is_on_loopback(
    tmp_path, endpoints, only_local, reuse_port
):
    words = [f"--listen={endpoint.format(directory=tmp_path)}" for endpoint in endpoints]
    made = makeService(parsed("--host", "x", *words, *(["--reuse-port"] if reuse_port else [])))
    made.privilegedStartService()
    for port in made.ports:
        port.stopListening()
    assert made.comet.routes.policy.hosts == Hosts(frozenset({"x"}), only_local)


@pytest.mark.parametrize(("address", "only_local"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_socket_that_was_handed_over_is_looked_at_where_it_listens(monkeypatch, address, only_local):
    descriptor = socket.create_server((address, 0)).detach()  # the endpoint closes it
    endpoint = AdoptedStreamServerEndpoint(service.reactor, descriptor, socket.AF_INET)
    monkeypatch.setattr(listening, "serverFromString", lambda *_: endpoint)
    made = makeService(parsed())
    made.privilegedStartService()
    for port in made.ports:
        port.stopListening()
    assert made.comet.routes.policy.hosts.loopback_only is only_local


@pytest.mark.parametrize(
    ("words", "hooks", "is_warned"),
    [
        (["--listen=tcp:0"], {}, True),
        (["--listen=tcp:0:interface=127.0.0.1"], {}, False),
        (["--listen=tcp:0", "--key={key}"], {}, False),
        (["--listen=tcp:0", "--authorize-url=http://localhost:1/"], {}, False),
        (["--listen=tcp:0"], {"authorize": lambda *_: True}, False),
    ],
)
def test_a_server_that_lets_everything_in_from_other_machines_says_so_after_its_address(
    tmp_path, words, hooks, is_warned
):
    key = tmp_path / "key"
    key.write_text("s" * 32)
    made = makeService(parsed(*[word.format(key=key) for word in words]), **hooks)
    made.privilegedStartService()
    with capturedLogs() as logs:
        made.startService()
    for port in made.ports:
        port.stopListening()
    made.comet.stop()
    said = [formatEvent(event) for event in logs]
    (address,) = [line for line in said if " serves http://localhost:" in line]
    warnings = [line for line in said if line.startswith("Each client that can connect may")]
    assert bool(warnings) is is_warned
    assert all(said.index(line) > said.index(address) for line in warnings)


def test_a_program_gives_its_hooks_along():
    made = makeService(parsed(), authorize=lambda *_: False, on_push=print, on_park=print)
    assert made.comet.routes.policy.authorize is not None
    assert made.comet.hub.on_push is not None
    assert made.comet.hub.registry.on_park is not None
    assert made.comet.hub.registry.on_leave is None


def test_beside_other_services_it_takes_over_nothing_of_the_process(monkeypatch):
    started = []
    monkeypatch.setattr(service.reactor, "callWhenRunning", started.append)
    seconds = service.reactor.seconds
    for alone in (False, True):
        options = Options()
        options.parent = ServerOptions() if alone else None  # twistd's own, as where it runs the plugin
        options.parseOptions(["--listen", "tcp:0:interface=127.0.0.1"])
        made = makeService(options)
        made.startService()
        assert [call.__name__ for call in started] == (
            ["_handle_signals", "settle_collector"] if alone else []
        )
        assert (service.reactor.seconds is time.monotonic) == (alone or seconds is time.monotonic)
        made.comet.stop()
    service.reactor.seconds = seconds


@pytest.mark.parametrize(
    "endpoint", ["tcp:8080", "tcp6:8080:interface=\\:\\:1", "ssl:443:certKey=x", "haproxy:tcp:8080"]
)
def test_more_connections_may_wait_than_twisted_lets(endpoint: str) -> None:
    assert with_backlog(endpoint) == f"{endpoint}:backlog=4096"


@pytest.mark.parametrize(
    "endpoint", ["tcp:8080:backlog=5", "unix:/run/comet.sock", "systemd:domain=INET:index=0"]
)
def test_an_endpoint_keeps_the_queue_that_it_asks_for(endpoint: str) -> None:
    assert with_backlog(endpoint) == endpoint


# -- connections, and the files of the process


@pytest.fixture
def files(monkeypatch):
    """Return a function that pretends other limits on the process's files; what was set is kept."""
    limits = []

    def pretend(soft, hard):
        limits[:] = [(soft, hard)]

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    pretend.limits = limits
    return pretend


def test_the_limit_on_files_is_raised_as_far_as_the_connections_need_it(files):
    files(1_024, 524_288)
    assert connections_within_files(20_000, settle=True) == (20_000, 64)
    assert files.limits[-1] == (20_000 + 64 + FILES_RESERVED, 524_288)
    files(1_024, resource.RLIM_INFINITY)
    assert connections_within_files(20_000, settle=True) == (20_000, 64)


def test_where_it_cannot_be_raised_there_are_fewer_connections(files):
    files(1_024, 4_096)
    assert connections_within_files(20_000, settle=True) == (4_096 - 64 - FILES_RESERVED, 64)
    files(64, 64)
    assert connections_within_files(20_000, settle=True) == (40, 8)


def test_what_is_enough_and_what_belongs_to_others_is_left_alone(files):
    files(1_024, 524_288)
    assert connections_within_files(100, settle=True) == (100, 64)
    assert connections_within_files(20_000, settle=False) == (1_024 - 64 - FILES_RESERVED, 64)
    files(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert connections_within_files(20_000, settle=True) == (20_000, 64)
    assert len(files.limits) == 1


def test_the_service_counts_connections_and_believes_the_proxies_that_were_named():
    made = makeService(
        parsed("--max-connections", "50", "--proxied", "10.0.0.0/8", "--client-connections", "1")
    )
    assert made.factory.max_connections == made.comet.limits.max_connections == 50
    assert made.factory.proxies.trusts("10.1.2.3")
    admitted = made.factory.admission(HTTPConnection(made.factory, "192.0.2.1"))
    refused = made.factory.admission(HTTPConnection(made.factory, "192.0.2.1"))
    assert (admitted, refused.status) == (None, 429)
    assert made.factory.admission(HTTPConnection(made.factory, "10.1.2.3")) is None
    assert makeService(parsed()).factory.proxies is None


def test_refusing_connections_leaves_the_garbage_collector_nothing():
    # An exception that is kept is a cycle, by its traceback: thousands a second stopped everyone for 20 ms.
    made = makeService(parsed("--client-connections", "1"))
    made.factory.admission(HTTPConnection(made.factory, "192.0.2.1"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            assert made.factory.refusal(HTTPConnection(made.factory, "192.0.2.1")).status == 429
        assert gc.collect() < 100
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", ["localhost", "10.0.0.1/8", "nginx"])
def test_a_wrong_proxy_is_told_with_one_that_is_right(wrong):
    assert "10.0.0.0/8" in refusal("--proxied", wrong)


def test_idle_connections_are_kept_for_as_long_as_a_load_balancer_wants():
    assert makeService(parsed()).factory.bounds.idle_seconds == Bounds().idle_seconds
    assert makeService(parsed("--keep-alive", "10.5m")).factory.bounds.idle_seconds == 630


# -- metrics and the access log


class Over:
    """A request that is over, as observers are told of it."""

    rule = ""
    code = 200

    def age(self):
        return 0.0


def test_requests_are_counted_and_connections_known_unless_metrics_are_off():
    made = makeService(parsed())
    made.factory.on_answer(Over())
    metrics = made.comet.metrics
    assert metrics.requests["none"].statuses == {200: 1}
    assert (metrics.connections(), metrics.unsent()) == (0, 0)
    assert made.monitor is not None


def test_without_metrics_and_access_log_no_observer_is_called():
    made = makeService(parsed("--no-metrics"))
    made.factory.on_answer(Over())
    assert made.comet.metrics.requests["none"].statuses == {}
    assert made.monitor is None
    assert made.access_log is None


def test_the_access_log_and_the_metrics_are_both_told(monkeypatch):
    seen = []
    monkeypatch.setattr("cometd_lite.access_log.AccessLog.add", lambda self, request: seen.append(request))
    request = Over()
    made = makeService(parsed("--access-log", "unopened"))
    made.factory.on_answer(request)
    assert made.comet.metrics.requests["none"].statuses == {200: 1}
    alone = makeService(parsed("--access-log", "unopened", "--no-metrics"))
    alone.factory.on_answer(request)
    assert seen == [request, request]


def test_an_access_log_has_one_of_two_formats():
    assert parsed()["access-log-format"] == "combined"
    assert refusal("--access-log-format", "xml") == (
        "cometd-lite: --access-log-format xml: it takes combined or json."
    )
