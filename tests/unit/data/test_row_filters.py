"""Filters by the rows they drop; every expected count is written out."""

import json

import pytest

from derta.data.assemble import assemble, find_origins
from derta.data.build import build
from derta.data.manifest import as_table
from derta.data.recipe import parse_recipe
from derta.data.schema import row_id
from derta.errors import InputError
from derta.storage.json_lines import write_lines

SAFE = "Sorry, I can't help with that."


def safety(number, prompt=None, safe=SAFE, harmful=None, **more):
    return {
        "instruction": prompt or f"harmful request {number}",
        "output": harmful or f"harmful steps {number}",
        "safe_response": safe,
        **more,
    }


def read(name="safety", **changes):
    """A source of a recipe."""
    return {"name": name, "adapter": "derta_source", "path": "rows.jsonl", **changes}


def assembled_of(tmp_path, *sources, limit=None):
    recipe = parse_recipe({"sources": sources}, tmp_path / "recipe.yaml")
    return assemble(recipe, find_origins(recipe), limit=limit)


def run(tmp_path, records, limit=None, **source):
    write_lines(tmp_path / "rows.jsonl", records)
    return assembled_of(tmp_path, read(**source), limit=limit)


def messages(number):
    """Prompt, chosen and rejected of `safety(number)`."""
    pairs = (("user", f"harmful request {number}"), ("assistant", SAFE), ("assistant", f"harmful steps {number}"))
    return ([{"role": role, "content": content}] for role, content in pairs)


def dropped(assembled, index=0):
    return {f"{step}: {reason}": count for (step, reason), count in assembled.reports[index].dropped.items()}


def requests(rows):
    return sorted(row["prompt"][-1]["content"] for row in rows)


def test_lengths_in_characters(tmp_path):
    records = [
        safety(1),  # prompt 17, safe 30, harmful 15 characters
        safety(2, prompt="short"),
        safety(3, prompt="p" * 18),
        safety(4, harmful="h" * 14),
        safety(5, safe="s" * 31),
        safety(6, harmful="h" * 15 + " \n"),  # 15 after whitespace at the end is gone
    ]
    filters = {"min_prompt_chars": 17, "max_prompt_chars": 17, "min_response_chars": 15, "max_response_chars": 30}
    assembled = run(tmp_path, records, filters=filters)
    assert requests(assembled.train) == ["harmful request 1", "harmful request 6"]
    assert dropped(assembled) == {
        "length: prompt_too_short": 1,
        "length: prompt_too_long": 1,
        "length: response_too_short": 1,
        "length: response_too_long": 1,
    }


def test_refusal_filters(tmp_path):
    records = [
        safety(1),
        safety(2, safe="Here is some general information."),
        safety(3, harmful="I'm sorry, but I cannot help."),
        safety(4, safe="A neutral overview comes first. I cannot help with the rest."),
    ]
    everything = run(tmp_path, records)
    assert len(everything.train) == 4 and dropped(everything) == {}
    assembled = run(tmp_path, records, filters={"safe_must_refuse": True, "harmful_must_not_refuse": True})
    assert requests(assembled.train) == ["harmful request 1", "harmful request 4"]
    assert dropped(assembled) == {
        "refusal: safe_response_does_not_refuse": 1,
        "refusal: harmful_response_refuses": 1,
    }

    records = [{"q": "request 1", "a": "answer 1"}, {"q": "request 2", "a": "As an AI, I cannot answer."}]
    columns = {"instruction": "q", "output": "a"}
    filters = {"helpful_must_not_refuse": True}
    assembled = run(tmp_path, records, adapter="instruction_output", columns=columns, filters=filters)
    assert requests(assembled.train) == ["request 1"]
    assert dropped(assembled) == {"refusal: helpful_response_refuses": 1}


@pytest.mark.parametrize(("by", "kept"), [("prompt", 2), ("row", 3), ("keep", 4)])
def test_duplicates(tmp_path, by, kept):
    records = [
        safety(1),
        safety(1),  # the same in everything
        safety(1, prompt="HARMFUL  request 1 ?", harmful="other harmful steps"),  # the same prompt, normalised
        safety(2),
    ]
    assembled = run(tmp_path, records, filters={"duplicates": by})
    assert len(assembled.train) == kept
    assert dropped(assembled) == ({f"duplicates: same_{by}_in_source": 4 - kept} if kept < 4 else {})
    assert len({row["id"] for row in assembled.train}) == kept


def test_duplicates_across_sources(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [safety(1), safety(2)])
    assembled = assembled_of(tmp_path, read("first", count=1, select="first"), read("second"))
    # request 2 was not selected from the first source, so the second may still give it
    assert [(row["source"], requests([row])) for row in sorted(assembled.train, key=lambda row: row["source"])] == [
        ("first", ["harmful request 1"]),
        ("second", ["harmful request 2"]),
    ]
    assert dropped(assembled, 0) == {"count: not_selected": 1}
    assert dropped(assembled, 1) == {"duplicates: same_prompt_in_earlier_source": 1}


def test_values_of_the_sources_own_columns(tmp_path):
    records = [safety(n, topic=topic) for n, topic in enumerate(["a", "b", "c", "a"])]
    assembled = run(tmp_path, records, filters={"keep_values": {"topic": ["a", "b"]}, "drop_values": {"topic": ["b"]}})
    assert len(assembled.train) == 2
    assert dropped(assembled) == {"values: topic_not_kept": 1, "values: topic_dropped": 1}
    with pytest.raises(InputError, match=r"rows.jsonl, line 1, field 'colour': expected this column in every record"):
        run(tmp_path, records, filters={"keep_values": {"colour": ["a"]}})


def test_a_value_that_can_never_match_is_an_error_and_one_that_does_not_occur_a_warning(tmp_path, caplog):
    (tmp_path / "rows.csv").write_text(f"instruction,output,safe_response,good,n\nq,a,{SAFE.replace(',', ';')},no,3\n")

    def build_with(**filters):
        return assembled_of(tmp_path, read(path="rows.csv", filters=filters))

    for filters, where in (
        ({"drop_values": {"good": [False]}}, "drop_values.good: bool false"),
        ({"keep_values": {"n": [3, "3"]}}, "keep_values.n: int 3"),
        ({"drop_values": {"n": [3.0]}}, "drop_values.n: float 3.0"),
    ):
        message = rf"filters.{where} is in no record, the column holds text; fix: put it in"
        with pytest.raises(InputError, match=message):
            build_with(**filters)
    assert len(build_with(keep_values={"n": ["3", "4"]}, drop_values={"good": [None]}).train) == 1
    assert "filters.keep_values.n: '4' is in no record; fix: correct the value" in caplog.text
    assert "filters.drop_values.good: null is in no record" in caplog.text


def test_a_column_that_only_the_recipe_knows_is_an_error_even_where_bad_rows_are_dropped(tmp_path):
    records = [{"instruction": "q", "output": "a", "input": "note"}]
    source = {"adapter": "instruction_output", "on_invalid": "drop", "columns": {"input": "inptu"}}
    with pytest.raises(InputError, match="expected the column 'inptu' .* found it in none"):
        run(tmp_path, records, **source)


def test_ignored_columns(tmp_path):
    records = [{"instruction": "q", "output": "a", "input": "note"}]
    assert requests(run(tmp_path, records, adapter="instruction_output").train) == ["q\n\nnote"]
    assembled = run(tmp_path, records, adapter="instruction_output", columns={"input": None})
    assert requests(assembled.train) == ["q"]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    pair = [{"prompt": "q", "chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "b"}]}]
    (row,) = run(tmp_path, pair, adapter="preference", columns={"prompt": None}).train
    assert (row["prompt"], row["rejected"]) == (turns[:1], pair[0]["rejected"][1:])
    (row,) = run(tmp_path, pair, adapter="preference", columns={"prompt": None, "rejected": None}).train
    assert (row["kind"], row["rejected"]) == ("helpful", None)


def test_settings_without_effect_are_said(tmp_path, caplog):
    records = [{"instruction": "q", "output": "a"}]
    write_lines(tmp_path / "overviews.jsonl", [{"id": "1", "overview": "o", "reason": "r"}])
    source = {"adapter": "instruction_output", "extended_refusal": {"file": "overviews.jsonl"}}
    run(tmp_path, records, filters={"safe_must_refuse": True, "helpful_must_not_refuse": True}, **source)
    assert "filters.safe_must_refuse had no response to read in any source" in caplog.text
    assert "helpful_must_not_refuse had" not in caplog.text
    assert "extended_refusal extended no row (1 helpful)" in caplog.text


def test_invalid_rows_stop_the_build_or_are_counted(tmp_path):
    records = [safety(1), safety(2, safe=" "), safety(3), safety(4, harmful=SAFE)]
    with pytest.raises(InputError) as error:
        run(tmp_path, records)
    assert "source 'safety' has rows that cannot be used:" in str(error.value)
    assert "rows.jsonl, line 2, field 'safe_response'" in str(error.value)
    assert "rows.jsonl, line 4, field 'rejected'" in str(error.value)
    assembled = run(tmp_path, records, on_invalid="drop")
    assert requests(assembled.train) == ["harmful request 1", "harmful request 3"]
    assert dropped(assembled) == {"invalid: empty_field": 1, "invalid: same_responses": 1}


def test_a_column_missing_everywhere_is_one_error_that_names_no_adapter_which_could_misread_it(tmp_path):
    records = [{"instruction": f"request {n}", "output": "steps"} for n in range(50)]
    with pytest.raises(InputError) as error:
        run(tmp_path, records)
    assert str(error.value).count("\n") == 1
    assert "adapter: " not in str(error.value), "`output` is the harmful response here, and the helpful one elsewhere"
    assert (
        "rows.jsonl, line 1, field 'safe_response': expected this column in every record, found only the columns "
        "instruction, output; fix: correct the file, or name the column"
    ) in str(error.value)


def test_columns_of_another_adapter_are_recognised(tmp_path):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    with pytest.raises(InputError, match="or the columns are those of another adapter; fix: adapter: sharegpt$"):
        run(tmp_path, [{"id": "1", "conversations": turns}], adapter="messages")


def test_steps_add_up(tmp_path):
    records = [safety(n, topic="ab"[n % 2]) for n in range(20)] + [safety(0), safety(50, safe="No refusal here.")]
    for record in records[20:]:
        record["topic"] = "a"
    filters = {"keep_values": {"topic": ["a"]}, "safe_must_refuse": True}
    assembled = run(tmp_path, records, filters=filters, count=4)
    steps = {step["step"]: (step["rows_in"], step["rows_out"]) for step in assembled.reports[0].steps()}
    # 22 read; 10 with topic b go; 12 - 1 without refusal - 1 duplicate = 10; 4 of them are selected
    assert steps == {
        "values": (22, 12),
        "adapter": (12, 12),
        "invalid": (12, 12),
        "length": (12, 12),
        "refusal": (12, 11),
        "duplicates": (11, 10),
        "contamination": (10, 10),
        "count": (10, 4),
    }


def test_beavertails_steps_add_up(tmp_path):
    rows = [("p", True), ("p", False), ("p", False), ("q", True), ("r", False), ("r", True)]
    records = [{"prompt": p, "response": f"{n} {SAFE}", "is_safe": safe} for n, (p, safe) in enumerate(rows)]
    assembled = run(tmp_path, records, adapter="beavertails")
    # 6 records: two pairs (4 records become 2), one harmful p and one safe q are left over
    assert dropped(assembled) == {"adapter: joined_with_partner": 2, "adapter: no_partner_of_the_other_kind": 2}
    assert len(assembled.train) == 2


def test_all_rows_filtered_out(tmp_path):
    with pytest.raises(InputError) as error:
        run(tmp_path, [safety(1), safety(2)], filters={"min_prompt_chars": 1000})
    assert str(error.value) == (
        "source 'safety': expected at least one row, found 0 after reading 2 (2 length: prompt_too_short); "
        "fix: loosen the filters or give other data"
    )


def test_fewer_rows_than_asked(tmp_path):
    records = [safety(1), safety(2), safety(2)]
    with pytest.raises(InputError) as error:
        run(tmp_path, records, count=3)
    assert str(error.value) == (
        "source 'safety': expected 3 rows, found 2 after reading 3 (1 duplicates: same_prompt_in_source); "
        "fix: lower count:, loosen the filters, or set allow_fewer: true"
    )
    assert len(run(tmp_path, records, count=3, allow_fewer=True).train) == 2
    assert len(run(tmp_path, records, count=3, limit=1).train) == 1


def test_duplicate_own_ids(tmp_path):
    records = [{"prompt": f"request {n}", "chosen": "a", "rejected": "b", "id": name} for n, name in enumerate("xyx")]
    with pytest.raises(InputError, match=r"line 3, field 'id': .*found 'x' again; fix: make ids unique, or .*line 1\)"):
        run(tmp_path, records, adapter="preference")
    assert len(run(tmp_path, records, adapter="preference", columns={"id": None}).train) == 3


def test_decontamination_in_a_recipe(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [safety(n) for n in range(5)])
    (tmp_path / "benchmark.csv").write_text("prompt,label\nharmful request 3,a\n")
    against = [{"path": "benchmark.csv"}]
    values = {"sources": [read()], "decontaminate": {"ngram": 3, "against": against}}
    recipe = parse_recipe(values, tmp_path / "recipe.yaml")
    manifest = build(recipe, tmp_path / "out").manifest
    assert manifest["outputs"]["train.parquet"]["rows"] == 4
    dropped = {"overlaps_evaluation_prompt": 1}
    step = {"step": "contamination", "rows_in": 5, "rows_out": 4, "dropped": dropped}
    assert manifest["sources"][0]["steps"][6] == step
    against_entry, removed = manifest["decontaminated_against"][0], manifest["sources"][0]["contamination"]
    assert against_entry["name"] == against_entry["inputs"][0]["file"] == "benchmark.csv"
    assert against_entry["prompts"] == 1
    assert removed.pop("ids") == [row_id("safety", *messages(3))]
    assert removed == {"ngram": 3, "rows": 5, "overlapping": 1, "overlapping_by_set": {"benchmark.csv": 1}}
    assert "harmful request" not in json.dumps(manifest)
    against[0]["column"] = "question"
    recipe = parse_recipe(values, tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match=r"benchmark.csv, line 2: .* in the column 'question', found no such"):
        build(recipe, tmp_path / "other")


def test_borderline_rows_are_counted_apart_and_must_not_refuse(tmp_path):
    records = [{"instruction": f"question {n}", "output": answer} for n, answer in enumerate(["a", "b", SAFE])]
    write_lines(tmp_path / "borderline.jsonl", records)
    write_lines(tmp_path / "safety.jsonl", [safety(1)])
    edge = read("edge", adapter="instruction_output", path="borderline.jsonl", borderline=True)
    sources = [edge, read(path="safety.jsonl")]
    manifest = build(parse_recipe({"sources": sources}, tmp_path / "recipe.yaml"), tmp_path / "out").manifest
    assert manifest["outputs"]["train.parquet"]["rows"] == 3
    assert manifest["outputs"]["train.parquet"]["rows_borderline"] == 2
    assert [entry.get("borderline") for entry in manifest["sources"]] == [True, None]
    assert manifest["sources"][0]["steps"][4]["dropped"] == {"helpful_response_refuses": 1}
    assert "2 borderline" in as_table(manifest)
    sources[1]["borderline"] = True
    with pytest.raises(InputError, match=r"safety.jsonl, line 1, field 'rejected': expected a benign prompt with a"):
        build(parse_recipe({"sources": sources}, tmp_path / "recipe.yaml"), tmp_path / "other")
