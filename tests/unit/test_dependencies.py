"""pyproject.toml declares what the code imports: everything but the extras is a plain dependency."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
NOT_PLAIN = {"lm_eval", "submitit", "liger_kernel", "optimi", "pydantic_core"}  # extras, and a part of pydantic


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(name: str) -> set[str]:
    """Names in a list of pyproject.toml, read without tomllib, which Python 3.10 lacks."""
    block = re.search(rf"^{name} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert block
    return {canonical(found) for found in re.findall(r'^\s*"([\w.-]+)', block[1], re.MULTILINE)}


def imported(sources: dict[str, str]) -> dict[str, str]:
    """Top-level package outside the standard library -> a file that imports it."""
    found = {}
    for file, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            found |= {name.split(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "derta"}}


def test_every_import_is_declared(sources: dict[str, str]) -> None:
    distributions, plain = packages_distributions(), declared("dependencies")
    missing = {
        name: file
        for name, file in imported(sources).items()
        if name not in NOT_PLAIN and not plain & {canonical(made) for made in distributions.get(name, [name])}
    }
    assert missing == {}
    assert {"torch", "pyyaml", "deepspeed", "pydantic"} <= plain


def test_deepspeed_is_imported_where_it_is_asked_for(sources: dict[str, str]) -> None:
    """It is installed on Linux alone, and slow to import."""
    for file, text in sources.items():
        for node in ast.parse(text).body:
            assert "deepspeed" not in ast.unparse(node) or not isinstance(node, ast.Import | ast.ImportFrom), file
