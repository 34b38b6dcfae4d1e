"""Recipes: what is accepted, and the message for everything that is not."""

import datetime
import re
from pathlib import Path

import pytest
import yaml

from derta.data.recipe import load_recipe, parse_recipe, pin_revision
from derta.errors import InputError

SHIPPED = Path(__file__).resolve().parents[3] / "data_recipes"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def source(**changes):
    return {"name": "safety", "adapter": "derta_source", "path": "a.jsonl", **changes}


def hub(**changes):
    values = {"name": "safety", "adapter": "llm_lat", "hub": "org/data", "revision": COMMIT, "split": "train"}
    return {**values, "licence": "mit", **changes}


def parse(sources, **values):
    return parse_recipe({"sources": sources, **values}, Path("folder/recipe.yaml"))


def test_shipped_recipes_are_valid_and_pinned():
    names = {path.stem for path in SHIPPED.glob("*.yaml")}
    assert names >= {"miniature", "derta_paper", "pku_saferlhf", "beavertails", "circuit_breakers", "reference_repo"}
    for name in names:
        recipe = load_recipe(name, SHIPPED)
        assert recipe.description
        assert all(one.licence for one in recipe.sources), name
        assert all(one.hub is None or re.fullmatch("[0-9a-f]{40}", one.revision) for one in recipe.sources), name


def test_defaults_and_filter_layers():
    recipe = parse([source(filters={"max_prompt_chars": 10})], filters={"max_prompt_chars": 20, "duplicates": "row"})
    assert recipe.seed == 42 and recipe.holdout == 0 and recipe.shuffle
    assert recipe.sources[0].filters.max_prompt_chars == 10  # the source's own wins
    assert recipe.sources[0].filters.duplicates == "row"  # the rest comes from the recipe


NO_COUNT = r"does nothing without count:"
WRONG_SOURCES = [  # a source, and what is said of it
    (source(cuont=3), r"cuont: unknown key \(did you mean 'count'\?\); fix: use one of path, hub, .*name, adapter, "),
    (source(filters={"min_chars": 1}), r"\.filters.min_chars: unknown key .*fix: use "),
    (
        source(adapter="beaver_tails"),
        r"adapter: unknown adapter 'beaver_tails' \(did you mean 'beavertails'\?\); fix: ",
    ),
    (source(columns={"outptu": "x"}), r"unknown column 'outptu' \(did you mean 'output'\?\); fix: use"),
    (source(columns={"output": None}), r"columns.output: the adapter 'derta_source' needs it; fix: name the column"),
    ({"name": "a", "adapter": "llm_lat"}, r"\.path: expected exactly one of path and hub; fix:"),
    (hub(path="a.jsonl"), r"expected exactly one of path and hub; fix: give a local path or a hub id"),
    (hub(revision=None), r"revision: expected a commit hash of org/data; fix: pin it"),
    (hub(revision="main"), r"revision: 'main' can move; fix: give a 40-digit commit hash, or pin_on"),
    (hub(split=None), r"split: expected the split of org/data to read; fix: for example split: train"),
    (hub(licence=None), r"licence: expected the licence of org/data; fix: copy it from its dataset page"),
    (source(split="train"), r"\.split: only a hub source has one; fix: remove it"),
    (source(pin_on_build=True), r"pin_on_build: only a hub source has one; fix: remove it"),
    (source(path=""), r"path: expected a text, found an empty string; fix: fill it"),
    (source(count="many"), r"\.count: expected a whole number, found 'many'; fix:"),
    (source(count=True), r"\.count: expected a whole number, found bool true; fix:"),
    (source(count=0), r"\.count: expected 1 or more, found int 0; fix:"),
    (source(select="last"), r"\.select: expected 'sample' or 'first', found 'last'; fix:"),
    (source(select="first"), rf"\.select: {NO_COUNT}; fix: remove it, or give count:"),
    (source(allow_fewer=True), rf"allow_fewer: {NO_COUNT}"),
    (source(seed=1), rf"\.seed: {NO_COUNT}"),
    (source(filters={"duplicates": "no"}), r"duplicates: expected 'prompt', 'row' or 'keep', found 'no'"),
    (source(filters={"min_prompt_chars": -1}), r"min_prompt_chars: expected 0 or more, found int -1; fix:"),
    (
        source(filters={"min_prompt_chars": 9, "max_prompt_chars": 8}),
        r"min_prompt_chars: 9 is more than max_prompt_chars, 8; fix: correct one",
    ),
    (
        source(filters={"keep_values": {"a": "b"}}),
        r"keep_values.a: expected a list, found 'b'; fix: write .value, ",
    ),
    (source(filters={"keep_values": {"a": []}}), r"keep_values.a: expected at least one value"),
    (
        source(filters={"drop_values": {"day": [datetime.date(2024, 1, 2)]}}),
        r"drop_values.day\[0\]: expected texts, numbers, .* found a value of type date; fix: quote it",
    ),
    (
        source(adapter="messages", borderline=True, filters={"helpful_must_not_refuse": False}),
        r"filters.helpful_must_not_refuse: always true for borderline rows; fix: remove it",
    ),
    ({"name": "a", "adapter": "miniature", "count": 1}, r"needs part: and count:.*fix: give"),
    (source(part="helpful"), r"part: only the miniature adapter has parts; fix: use path: or hub:"),
    ("a.jsonl", r": expected keys and values, found a string of 7 characters; fix: see data_recipes/README.md"),
]
WRONG = [  # sources, other keys, and what is said
    *(([one], {}, rf"sources\[0\].*{message}") for one, message in WRONG_SOURCES),
    ([], {}, r"sources: expected at least one source, found none; fix: add one"),
    ([source(), source()], {}, r"sources\[0\].name: expected a name that no other source has, found 'safety'"),
    ([source()], {"sead": 1}, r"sead: unknown key \(did you mean 'seed'\?\); fix: use one of "),
    ([source()], {"holdout": 1.5}, r"holdout: expected a fraction below 1 or a whole number of rows; fix:"),
    ([source()], {"holdout": float("nan")}, r"holdout: expected a finite number"),
    ([source()], {"decontaminate": {"against": []}}, r"decontaminate.against: expected at least one entry; fix: add"),
]


@pytest.mark.parametrize(("sources", "values", "message"), WRONG)
def test_wrong_recipe(sources, values, message):
    with pytest.raises(InputError, match=r"recipe folder/recipe.yaml cannot be used:") as error:
        parse(sources, **values)
    assert re.search(message, str(error.value)), error.value


def test_every_problem_is_listed():
    with pytest.raises(InputError) as error:
        parse([source(adapter="no", select="last", count=1), hub(revision="main", split=None)], holdout=-1)
    assert str(error.value).count("\n  - ") == 5  # holdout; adapter; select; split; revision


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.yaml").write_text("seed: 1\nsources: [\n  - a: b\n")
    with pytest.raises(InputError, match=r"bad.yaml, line 3: not valid YAML .*fix: correct the indentation"):
        load_recipe("bad", tmp_path)
    with pytest.raises(InputError, match=r"recipe=baad: no such recipe \(did you mean 'bad'\?\); fix: give a path"):
        load_recipe("baad", tmp_path)


def test_identity_ignores_comments_and_key_order_and_keeps_no_absolute_path():
    one = parse([source()], seed=3)
    other = parse_recipe(
        yaml.safe_load("# text\nseed: 3\nsources:\n  - {path: a.jsonl, name: safety, adapter: derta_source}"),
        Path("b"),
    )
    assert one.sha256() == other.sha256() != parse([source()], seed=4).sha256()
    assert parse([source(path="/data/private/a.jsonl")]).as_dict()["sources"][0]["path"] == "a.jsonl"


def test_pin_revision():
    recipe = parse([hub(revision="main", pin_on_build=True), source(name="other")])
    pin_revision(recipe, COMMIT)
    assert recipe.sources[0].revision == COMMIT
    with pytest.raises(InputError, match="revision=abc: expected a full commit hash of 40 hex digits; fix:"):
        pin_revision(recipe, "abc")
    with pytest.raises(InputError, match="the recipe has 0 hub sources; fix:"):
        pin_revision(parse([source()]), COMMIT)
