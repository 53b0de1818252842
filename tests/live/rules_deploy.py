"""Rules for the pages about operating a server."""

from __future__ import annotations

import json
import re

from fork_server import ROOT
from program import Connection, eventually
from redis_server import RedisServer
from rules import under
from tools import needs
from walk import SHELL, Walk

from cometd_lite.service import Options

# -- operating


def through(walk: Walk, front: str) -> None:
    """Push, poll, stream and talk through what listens at ``front`` in the place of the server."""
    port = walk.port(front)
    with Connection(port) as poll, Connection(port) as other:
        poll.request("GET", "/poll/bob?wait=60")
        eventually(lambda: other.ask("GET", "/recipients/bob").json["waiting"] == 1, "parked")
        assert other.ask("POST", "/push/bob", "hello").json["delivered"] == 1
        assert poll.answer().data == ["hello"]
        assert other.ask("GET", "/metrics").status == 403
        # A stream's bytes come as they are sent, however few.
        poll.request("GET", "/stream/bob")
        assert b"text/event-stream" in poll.until(b"\r\n\r\n").lower()
        poll.until(b"retry: ")
        for words in ("one", "two"):
            assert other.ask("POST", "/push/bob", words).json["delivered"] == 1
            poll.until(b"data: " + words.encode())
    with Connection(port) as socket, Connection(port) as other:
        socket.send(
            "GET /ws/carol HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b"101 Switching Protocols" in socket.until(b"\r\n\r\n")
        assert other.ask("POST", "/push/carol", "over a socket").json["delivered"] == 1
        socket.until(b'"data":"over a socket"')


@under("docs/deploy/proxies.md", "nginx")
def behind_nginx(walk: Walk) -> None:
    needs("nginx")
    walk.server()
    block = walk.next("nginx").replace("listen 80;", f"listen 127.0.0.1:{walk.port('8090')};")
    block = block.replace("/var/log/nginx", str(walk.directory))
    places = "".join(
        f"{kind}_temp_path {walk.directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    walk.write(
        "nginx.conf",
        f"daemon off; pid {walk.directory}/pid; error_log stderr; events {{}} http {{ {places} {block} }}",
    )
    command = f"nginx -p {walk.directory} -c nginx.conf"
    walk.run(f"{command} -t", "test is successful")
    running = walk.serve(f"exec {command}", port="8090")
    through(walk, "8090")
    walk.run("curl -s 'localhost:8090/poll/bob?wait=0&token=SECRET'")
    running.stop()
    assert "SECRET" not in (walk.directory / "comet.log").read_text()


@under("docs/deploy/proxies.md", "Caddy")
def behind_caddy(walk: Walk) -> None:
    needs("caddy")
    walk.server()
    site = walk.next("caddy").replace("comet.example.com", f"http://localhost:{walk.port('8090')}")
    walk.write("Caddyfile", "{\n\tadmin off\n\tgrace_period 1s\n}\n" + site)
    walk.serve("exec env HOME=. caddy run --config Caddyfile --adapter caddyfile", port="8090")
    through(walk, "8090")


@under("docs/deploy/proxies.md", "HAProxy")
def behind_haproxy(walk: Walk) -> None:
    needs("haproxy")
    walk.server()
    walk.write("haproxy.cfg", walk.next("haproxy").replace("bind :80", f"bind 127.0.0.1:{walk.port('8090')}"))
    assert walk.run("haproxy -c -f haproxy.cfg").count("WARNING") == 0
    walk.serve("exec haproxy -db -f haproxy.cfg", port="8090")
    through(walk, "8090")


@under("docs/deploy/systemd.md", "As a service of systemd")
def as_a_service(walk: Walk) -> None:
    needs("systemd-analyze", "systemd")
    unit = walk.next("ini")
    options = re.findall(r"--[a-z-]+", unit)
    assert {option.lstrip("-") + "=" for option in options} <= {*Options().longOpt, "pidfile="}
    # What cannot be here is the program and a kernel that systemd has started.
    walk.write("cometd-lite.service", unit.replace("/opt/cometd-lite/bin/twistd", "/bin/true"))
    said = walk.run("systemd-analyze verify ./cometd-lite.service 2>&1 || true")
    assert "cometd-lite.service" not in said, said
    said = walk.run("systemd-analyze security --offline=true --threshold=20 ./cometd-lite.service 2>&1")
    assert "OK" in said, said


def given(words: list[str]) -> Options:
    """Return the options of the server that a container is given."""
    options = Options()
    options.parseOptions(words)
    return options


@under("docs/deploy/containers.md", "Build and run")
def in_a_container(walk: Walk) -> None:
    file = ROOT / "docs" / "deploy" / "Containerfile"
    assert walk.next(SHELL).split() == [
        "docker",
        "build",
        "-f",
        str(file.relative_to(ROOT)),
        "-t",
        "cometd-lite",
        ".",
    ]
    # tests/test_containerfile.py builds and starts the image where a builder is.
    for _ in range(2):
        command, *words = walk.next(SHELL).partition(" cometd-lite ")[::2]
        assert command.startswith("docker run ")
        assert "127.0.0.1:" in command
        given(" ".join(words).split())


@under("docs/deploy/containers.md", "With Compose")
def with_compose(walk: Walk) -> None:
    options = given(json.loads(re.findall(r"command: (\[.*\])", walk.next("yaml"))[0]))
    assert options["host"] == ["comet.example.com"]


@under("docs/deploy/containers.md", "In Kubernetes")
def in_kubernetes(walk: Walk) -> None:
    pod = walk.next("yaml")
    options = given(json.loads(re.findall(r"args: (\[.*\])", pod)[0]))
    assert options["drain"] < int(re.findall(r"terminationGracePeriodSeconds: (\d+)", pod)[0])
    walk.server()
    walk.run(f"curl -sf localhost:8080{re.findall(r'path: (/[a-z]+)', pod)[0]}", '"status"')


@under("docs/redis.md", "One process per core")
def one_per_core(walk: Walk) -> None:
    needs("systemd-analyze", "systemd")
    redis = RedisServer(walk.directory).start()
    walk.serve(walk.next(SHELL).replace("unix:/run/redis/redis.sock", redis.address))
    walk.run("curl -s --retry 9 --retry-all-errors -d 'at one' localhost:8080/push/bob", '"delivered":0')
    for _ in range(10):
        walk.run("curl -s 'localhost:8080/poll/bob?after=oldest'", '"data":"at one"')
    walk.write("comet.socket", walk.next("ini"))
    walk.write("comet@.service", walk.next("ini").replace("/opt/cometd-lite/bin/twistd", "/bin/true"))
    said = walk.run(
        "ln -s comet@.service comet@1.service; systemd-analyze verify ./comet.socket 2>&1 || true"
    )
    said += walk.run("systemd-analyze verify ./comet@1.service 2>&1 || true")
    assert "comet.socket" not in said, said
    assert "comet@" not in said, said
    walk.stop()
    redis.kill()


@under("docs/monitoring.md", "Metrics and alerts")
def alerts(walk: Walk) -> None:
    walk.shell()
    assert b'"uid": "cometd-lite"' in (walk.directory / "grafana.json").read_bytes()
    walk.write("alerts.yml", walk.next("yaml"))  # tests/test_metrics.py holds it to what there is


@under("docs/performance.md", "Performance")
def load_generator(walk: Walk) -> None:
    walk.server()
    walk.shell(
        "fanout at http://localhost:", "deliveries", "mailbox at http://localhost:", ", http://127.0.0.1:"
    )


@under("docs/scale.md", "Your own numbers")
def a_plan_of_ones_own(walk: Walk) -> None:
    (walk.directory / "tests").symlink_to(ROOT / "tests")
    assert walk.shell() == walk.next("text")


@under("docs/scale.md", "The steps")
def a_picture_of_the_steps(walk: Walk) -> None:
    assert "several servers" in walk.next("text")


@under("docs/scale.md", "Several Redis")
def a_picture_of_shards(walk: Walk) -> None:
    assert "GET /poll?rcpt=alice&rcpt=bob" in walk.next("text")
