"""report.html: one file that holds the whole report and opens from disk, without network or server.

The page's own style and scripts (derta/report/page/) and the content as JSON are put into one template. What comes from
results cannot act as markup: in the JSON every character that could end its element is escaped, the scripts only ever
set text, and the page's Content-Security-Policy runs nothing but these scripts (by hash) and loads nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

SCRIPTS = (
    "elements.js",
    "statistics.js",
    "plots.js",
    "summary.js",
    "trade_off.js",
    "attacks.js",
    "positions.js",
    "probability.js",
    "directions.js",
    "details.js",
    "main.js",
)
"""In the order in which the page runs them."""
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def render_page(content: Mapping[str, Any]) -> str:
    """The page as text; `content` as of `derta.report.page_content`."""
    page = files("derta.report") / "page"
    style = _inside(page.joinpath("style.css").read_text(encoding="utf-8"))
    scripts = [_inside(page.joinpath(name).read_text(encoding="utf-8")) for name in SCRIPTS]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    labels = ", ".join(checkpoint["label"] for checkpoint in content["checkpoints"])
    return Template(page.joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(f"Safety evaluation: {labels}"),
        policy=html.escape(policy),
        style=style,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        content=embedded_json(content),
    )


def embedded_json(content: Any) -> str:
    """JSON that stays data inside a script element, whatever its texts are.

    Raises:
        ValueError: NaN or infinity, which JSON lacks.
    """
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _inside(text: str) -> str:
    """Content of an element: what the browser hashes is what stands between its tags."""
    return f"\n{text.strip()}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
