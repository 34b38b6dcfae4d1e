"""The rule that chooses a direction: by hand, on the published tables where they are at hand, and on bad tables."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from derta.config.direction import SelectionConfig
from derta.direction.commands import COMMANDS
from derta.direction.selection import Candidate, read_table, select, write_table
from derta.errors import InputError

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "refusal_direction"
GOOD = Candidate(-1, 3, bypass=-2.0, induce=1.0, kl=0.05)


def _candidate(**changes: Any) -> Candidate:
    return replace(GOOD, **changes)


def test_the_least_bypass_among_the_valid_is_chosen() -> None:
    best = _candidate(position=-2, bypass=-3.0)
    spoiled = [  # each would win but for one score
        _candidate(position=-3, bypass=-9.0, kl=0.11),
        _candidate(position=-4, bypass=-9.0, induce=-0.01),
        _candidate(position=-5, bypass=-9.0, layer=8),
        _candidate(position=-6, bypass=math.nan),
        _candidate(position=-7, bypass=-9.0, kl=math.nan),
    ]
    selection = select([GOOD, *spoiled, best], layers=10, rule=SelectionConfig())
    assert selection.chosen == best
    assert select([_candidate(kl=0.1, induce=0.0)], 10, SelectionConfig()).chosen is not None  # the bounds are valid
    assert selection.survivors == (best, GOOD)
    assert [reasons[0].split()[0] for reasons in selection.dropped.values()] == ["KL", "induce", "in", "not", "not"]


@pytest.mark.parametrize(("layers", "first_dropped"), [(18, 14), (24, 19), (10, 8), (3, 2), (80, 64)])
def test_where_the_top_layers_begin(layers: int, first_dropped: int) -> None:
    """floor(0.8 * layers): with 18 and 24 layers the published surviving sets need 14 and 19 to be left out."""
    candidates = [_candidate(layer=layer) for layer in range(layers)]
    kept = select(candidates, layers, SelectionConfig()).survivors
    assert [candidate.layer for candidate in kept] == list(range(first_dropped))


def test_no_valid_direction_is_a_result_with_reasons() -> None:
    """Every reason of a candidate is given, not only the first."""
    selection = select([_candidate(layer=9, kl=0.5, induce=-4.0)], 10, SelectionConfig())
    assert selection.chosen is None and selection.survivors == ()
    assert [reason.split()[0] for reason in selection.dropped["position -1, layer 9"]] == ["in", "KL", "induce"]


@pytest.mark.parametrize(
    ("model", "position", "layer", "survivors"), [("gemma-2b-it", -2, 10, 13), ("qwen-1_8b-chat", -2, 15, 12)]
)
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published tables are not part of the project")
def test_published_tables_give_the_published_choice(model, position, layer, survivors, capsys):
    """Tables of github.com/andyrdt/refusal_direction, commit 9d852fa; its surviving set, not only its choice."""
    folder = PUBLISHED / model
    COMMANDS["select"].answer(["--table", str(folder / "direction_evaluations.json")])
    assert json.loads(capsys.readouterr().out) == {"position": position, "layer": layer, "survivors": survivors}
    candidates = read_table(folder / "direction_evaluations.json")
    found = select(candidates, max(c.layer for c in candidates) + 1, SelectionConfig()).survivors
    assert list(found) == read_table(folder / "direction_evaluations_filtered.json")
    assert json.loads((folder / "direction_metadata.json").read_text()) == {"pos": position, "layer": layer}


def test_command_on_a_table_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.json"
    write_table(table, [GOOD, _candidate(layer=9), _candidate(position=-2, bypass=math.nan)])
    COMMANDS["select"].answer([f"table={table}"])
    assert json.loads(capsys.readouterr().out) == {"position": -1, "layer": 3, "survivors": 1}
    COMMANDS["select"].answer(["--table", str(table), "--kl-max", "0.01"])
    printed, note = capsys.readouterr()
    assert note == f"note: this is now launch/diagnose_direction.py select table={table} kl_max=0.01\n"
    printed = json.loads(printed)
    assert (printed["position"], printed["survivors"], printed["reason"]) == (None, 0, "no valid direction found")
    assert printed["dropped"]["position -1, layer 3"] == ["KL above 0.01: harmless answers change (selection.kl_max)"]


def test_a_written_table_comes_back(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", [GOOD, _candidate(layer=4, kl=math.nan)])
    first, second = read_table(tmp_path / "table.json")
    assert first == GOOD and math.isnan(second.kl) and second.bypass == GOOD.bypass
    assert "NaN" not in (tmp_path / "table.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{not json", "line 1: expected a JSON list of objects, found malformed JSON"),
        ("{}", "item 1: position, layer, refusal_score"),
        ("[]", "expected at least one record"),
        ('[{"position": -1}]', "item 1: layer, refusal_score, steering_score, kl_div_score missing"),
        ("[3]", "item 1: expected a JSON object"),
    ],
)
def test_tables_that_are_none(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "table.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "table.json")


def test_every_mistake_of_a_table_is_listed(tmp_path: Path) -> None:
    good = GOOD.to_row()
    rows = [good, good, {**good, "position": 2}, {**good, "layer": "3"}, {**good, "layer": 5, "kl_div_score": "low"}]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    with pytest.raises(InputError) as error:
        read_table(tmp_path / "table.json")
    for part in ("2: position -1, layer 3 is there already", "3: position is int 2", "4: layer is '3'", "kl_div_score"):
        assert part in str(error.value)
