"""The rooms of derta/ in their order, from the ground up: a room uses only rooms that stand below it, and no module
imports, over however many others, itself. Imports inside functions count; those for type checking alone do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

ROOMS = (
    "derta",  # version and public names
    "errors",
    "progress",
    "config",
    "storage",
    "statistics",
    "charts",
    "models",
    "miniature",
    "data",
    "objective",
    "residual",
    "training",
    "evaluation",
    "triples",
    "direction",
    "report",
    "release",
    "plan",
    "sweep",
    "benchmark",
    "launch",
)
TOP = {"plan", "sweep", "benchmark"}  # they do not use one another either


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "derta" and len(parts) > 1 else parts[0]


def imported(source: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of a known module, whether the module itself or a name in it is imported."""
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known or node.module in known:
                    yield node.lineno, whole if whole in known else str(node.module)


def wrong_imports(sources: dict[str, str]) -> list[str]:
    """Every import that runs up, sideways between the top rooms, or round in a circle."""
    found, graph = [], {}
    for module, source in sources.items():
        targets = list(imported(source, set(sources)))
        graph[module] = {target for _, target in targets}
        for line, target in targets:
            here, there = room(module), room(target)
            if here != there and (ROOMS.index(there) > ROOMS.index(here) or {here, there} <= TOP):
                found.append(f"{module}, line {line}: {here} may not use {there} ({target})")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle of modules: {' <- '.join(error.args[1])}")
    return found


def test_every_room_uses_only_rooms_below_it(sources):
    modules = {
        file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): text for file, text in sources.items()
    }
    assert {room(name) for name in modules} <= set(ROOMS), "a new room: say where it stands"
    assert wrong_imports(modules) == []


def test_wrong_imports_are_caught_wherever_they_stand():
    sources = {
        "derta.models.load": "def f():\n    from derta.training import run\n",
        "derta.training.run": "from derta.models.load import f\n",
        "derta.plan.plan": "import derta.sweep.jobs\n",
        "derta.sweep.jobs": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from derta.launch import train\n",
    }
    assert wrong_imports(sources) == [
        "derta.models.load, line 2: models may not use training (derta.training.run)",
        "derta.plan.plan, line 1: plan may not use sweep (derta.sweep.jobs)",
        "a circle of modules: derta.models.load <- derta.training.run <- derta.models.load",
    ]
