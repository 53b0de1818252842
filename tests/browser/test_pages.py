"""What browsers are given, as files: the pages name only each other, and nothing in them runs inline."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser

import pytest

from cometd_lite.pages import CONTENT_SECURITY_POLICY, pages


class _Elements(HTMLParser):
    """Every element of a page, with its attributes and the text directly inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.tag = tag

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""

    def handle_data(self, data: str) -> None:
        self.inside[self.tag] = self.inside.get(self.tag, "") + data.strip()


@pytest.fixture
def elements() -> _Elements:
    return _Elements(pages()["index.html"].body.decode())


def test_the_console_and_the_client_are_there():
    assert {"index.html", "console.css", "console.js", "client.js", "tabs.js", "icon.svg"} <= set(pages())


def test_nothing_in_the_page_runs_or_styles_inline(elements):
    assert not elements.inside.get("script")
    assert all(tag != "style" for tag, _ in elements.found)
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag


def test_the_page_names_what_lies_beside_it_and_nothing_else(elements):
    # Served at / or under any --mount, it finds its parts; and it asks nobody else for any.
    named = [
        attributes[name] for _, attributes in elements.found for name in ("src", "href") if name in attributes
    ]
    served = {name for name in named if not name.startswith("#")} - {"metrics", "openapi.json"}
    assert served <= set(pages())
    assert {"console.js", "console.css", "client.js"} <= served


@pytest.mark.parametrize("name", [name for name in pages() if name.endswith(".js")])
def test_modules_import_what_lies_beside_them(name):
    imported = re.findall(r'^(?:import|\} from) .*?"(.+?)";$', pages()[name].body.decode(), re.MULTILINE)
    for target in imported:
        assert target.startswith("./")
        assert target.removeprefix("./") in pages()


def test_every_label_and_reference_of_the_page_leads_somewhere(elements):
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements.found:
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby", "list"):
            for target in (attributes.get(name) or "").split():
                assert target in ids, f"{name}={target}"


def test_the_icon_is_found_by_its_name_and_where_browsers_look_for_one():
    assert pages()["favicon.ico"] is pages()["icon.svg"]


def test_the_looks_of_the_console_stay_simple():
    assert pages()["console.css"].body.count(b"\n") <= 700


def test_only_the_console_carries_the_policy():
    assert pages()["index.html"].headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "Content-Security-Policy" not in pages()["client.js"].headers


def test_each_page_has_the_type_and_the_validator_that_a_browser_needs():
    types = {name.rpartition(".")[2]: page.headers["Content-Type"] for name, page in pages().items()}
    assert types == {
        "css": "text/css; charset=utf-8",
        "html": "text/html; charset=utf-8",
        "ico": "image/svg+xml",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
        "ts": "text/plain; charset=utf-8",
    }
    validators = {page.headers["ETag"] for page in pages().values()}
    assert len(validators) == len({page.name for page in pages().values()})
    assert all(re.fullmatch(r'"[0-9a-f]{20}"', validator) for validator in validators)


def test_a_page_is_the_same_compressed_under_a_validator_of_its_own():
    for page in pages().values():
        assert page.gzipped is not None
        assert gzip.decompress(page.gzipped.body) == page.body
        assert page.gzipped.headers["Content-Encoding"] == "gzip"
        assert page.gzipped.etag != page.etag
        assert "Content-Encoding" not in page.headers
