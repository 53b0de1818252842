"""How Sphinx builds these pages: ``sphinx-build -W docs build/docs``."""

from __future__ import annotations

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

from cometd_lite import __version__

project = "cometd-lite"
author = "the authors of cometd-lite"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"cometd-lite {__version__}"


def setup(app: Sphinx) -> None:
    """Name the languages that Pygments does not know."""
    for language in ("caddy", "haproxy"):
        app.add_lexer(language, TextLexer)
