"""report.html: one file that holds the whole report and opens from disk, without network or server.

Tables and text come from a template (derta/report/page/) that escapes whatever it is given. Figures are specifications,
as JSON that cannot end its element, which Vega draws in the reader's browser. What comes from results can act neither
as markup nor as a script: the page's Content-Security-Policy runs nothing but the two scripts that it names by hash,
without `eval`, and loads nothing at all.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from derta.charts import colour_rules, library


@dataclass(frozen=True, slots=True)
class Numbers:
    """A table of the page. rows: attributes that filters look at, and cells; the first heads its row."""

    title: str
    header: Sequence[str]
    rows: Sequence[tuple[Mapping[str, str], Sequence[Any]]]


def render_page(content: Mapping[str, Any]) -> str:
    """The page as text; `content` as of `derta.report.page_content`. Raises ValueError: NaN or infinity in a figure,
    which JSON lacks."""
    page = files("derta.report") / "page"
    names = ("template.html", "style.css", "page.js")
    template, sheet, script = (page.joinpath(name).read_text(encoding="utf-8") for name in names)
    light, dark = (f":root {{ {colour_rules(scheme)} }}" for scheme in (0, 1))
    style = _inside(f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n{sheet}")
    scripts = [_inside(text) for text in (library(), script)]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    text = environment.from_string(template).render(policy=policy, style=style, scripts=scripts, **content).lstrip()
    # Half a surrogate pair is no character of a file; as a reference it is shown as the mark for unknown ones.
    return text.encode("utf-8", "xmlcharrefreplace").decode("utf-8")


def _inside(text: str) -> str:
    """Content of an element: what the browser hashes is what stands between its tags."""
    return f"\n{text.strip()}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
