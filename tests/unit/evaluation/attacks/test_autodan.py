"""AutoDAN on models whose weakness is known, with both ways of mutation; its operators one by one."""

import json
import random
from dataclasses import replace

import pytest
from bag_model import bag_model, killed_and_resumed, outcomes

from derta.config.attacks import AttackConfig, AutoDANConfig, ChatModelConfig
from derta.errors import InputError
from derta.evaluation.attacks.attack import Direct
from derta.evaluation.attacks.autodan import AutoDAN, cross
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.attacks.disguises import read_templates
from derta.evaluation.attacks.synonyms import SHIPPED_SYNONYMS, read_synonyms, replace_words, swap_at_random
from derta.evaluation.records import Outcome
from derta.models.target import TargetModel

SMALL = AutoDANConfig(
    steps=12, population=8, templates="miniature", synonyms="miniature", word_steps=2, mutation=0.3, save_steps=2
)
TEXTS = ("Sorry , it is bane .", "Here are steps")


def autodan(**changes):
    return AutoDAN(replace(SMALL, **changes), "Here are steps", 0)


def last_state(attack, row, target):
    return list(attack.steps(row, target, {}))[-1]


def weak_to_word(target, word, weight=60.0, bias=0.5) -> TargetModel:
    ids = target.tokenizer(word, add_special_tokens=False)["input_ids"]
    return bag_model(target.tokenizer, triggers=[ids], weight=weight, bias=bias, texts=TEXTS, end="<|end|>")


@pytest.fixture(scope="module")
def aimed_rows(harmful_rows):
    """Rows whose harmful response is the one that the hand-set models can write."""
    return [{**row, "rejected": [{"role": "assistant", "content": "Here are steps"}]} for row in harmful_rows[:2]]


def test_words_that_a_model_falls_for_are_found_by_synonyms(target, aimed_rows):
    """ "says" stands in no template: it comes in as a synonym of "gives" and "repeats", and stays because it is fit."""
    assert not any("says" in text for text in read_templates("miniature").values())
    assert "repeats" in read_synonyms("miniature")["says"]
    weak = weak_to_word(target, " says", bias=0.0)
    refusing = bag_model(target.tokenizer, texts=TEXTS, end="<|end|>")
    assert outcomes(Direct(), aimed_rows, weak) == [Outcome.REFUSED] * 2
    as_they_are = autodan(steps=1, population=4)  # the four templates alone
    assert outcomes(as_they_are, aimed_rows, weak) == [Outcome.REFUSED] * 2
    assert outcomes(autodan(), aimed_rows, weak) == [Outcome.COMPLIED] * 2
    assert outcomes(autodan(), aimed_rows, refusing) == [Outcome.REFUSED] * 2


def test_the_best_loss_never_rises_and_the_search_stops_at_the_target(target, aimed_rows):
    weak = weak_to_word(target, " says", weight=20.0, bias=-2.0)
    states = list(autodan(steps=8).steps(aimed_rows[0], weak, {}))
    losses = [state["best"]["loss"] for state in states]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    easy = weak_to_word(target, " wish", weight=400.0)
    state = last_state(autodan(), aimed_rows[0], easy)
    assert state["step"] == 1 and state["best"]["greedy"] and "wish" in state["content"]


def test_the_population_keeps_its_size_its_elites_and_one_query_each(target, aimed_rows):
    random_target = target  # the fresh miniature model: any loss
    previous = None
    for state in autodan(steps=6, population=10, elites=0.2, crossover=1.0).steps(aimed_rows[0], random_target, {}):
        assert len(state["population"]) == 10
        assert all(text.count("{query}") == 1 for text in state["population"])
        if previous and not state["done"]:
            assert previous["best"]["text"] in previous["population"]
        previous = state
    assert state["evaluated"] <= 60
    query = aimed_rows[0]["prompt"][0]["content"]
    assert state["content"].count(query) == 1 and "{query}" not in state["content"]


def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path, target, aimed_rows):
    first, second = (row["id"] for row in aimed_rows)
    left, taken = killed_and_resumed(lambda: autodan(steps=7), 4, first, aimed_rows, target, tmp_path)
    assert {row_id: state["step"] for row_id, state in left.items()} == {first: 2}
    assert taken == [(first, n) for n in (3, 4, 5, 6, 7, 7)] + [(second, n) for n in (1, 2, 3, 4, 5, 6, 7, 7)]


def test_a_model_behind_an_endpoint_rewrites(chat_server, plain_rows, llama3_tokenizer):
    """Its rewrites hold the word that the target falls for; one without {query} is not used, and counted."""
    weak = bag_model(llama3_tokenizer, triggers=[[llama3_tokenizer.convert_tokens_to_ids("#")]], weight=80.0, bias=0.0)
    asked = []

    def script(body):
        asked.append(body["messages"])
        if len(asked) % 2:
            return 500 if len(asked) == 1 else "a text without the placeholder"
        return f"#### Rewritten. {body['messages'][1]['content']}"

    chat_server.script = script
    mutator = ChatModelConfig(kind="endpoint", endpoint=chat_server.config(retries=0, concurrency=1))
    attack = autodan(templates="role_play", synonyms="general", mutator=mutator, population=9)
    assert outcomes(Direct(), plain_rows[:1], weak) == [Outcome.REFUSED]
    state = last_state(attack, plain_rows[0], weak)
    assert state["step"] == 1 and state["failed"] == 3 and "#### Rewritten." in state["content"]
    assert {messages[1]["content"] for messages in asked} == set(read_templates().values())
    assert "{query}" in asked[0][0]["content"]
    assert attack.settings["mutator"]["model"] == "tiny"


def test_crossing_keeps_all_sentences_and_one_slot():
    first = "One is first. Two is {query} here. Three ends!"
    second = "Alpha? Beta goes\n{query} and on. Gamma. Delta"
    for seed in range(50):
        children = cross(first, second, 5, random.Random(seed))
        for child in children:
            assert child.count("{query}") == 1
        both = " ".join(children)
        for sentence in ("One is first.", "Three ends!", "Alpha?", "Gamma.", "Delta"):
            assert both.count(sentence) == 1
    assert {tuple(cross(first, second, 5, random.Random(seed))) for seed in range(9)} != {(first, second)}
    assert cross("{query}", second, 5, random.Random(0)) == ["{query}", second]  # nothing to cut


def test_words_change_and_the_slot_does_not(tmp_path):
    (tmp_path / "t.txt").write_text("# comment\n\nquery, question\nbig, large, Huge\n")
    table = read_synonyms(str(tmp_path / "t.txt"))
    assert table["big"] == ("large", "huge") and table["huge"] == ("big", "large")
    assert swap_at_random("Big bigger, big!", {"big": ("large",)}, random.Random(0), 1.0) == "Large bigger, large!"
    assert swap_at_random("big", table, random.Random(0), 0.0) == "big"
    assert replace_words("It's well-known.", str.upper) == "IT'S WELL-KNOWN."
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("My query: {query} A question.")
    attack = autodan(templates=str(tmp_path / "x"), synonyms=str(tmp_path / "t.txt"))
    changed = attack._with_fit_words(
        "My query: {query} A question.", {"question": 0.0, "query": -50.0}, random.Random(0)
    )
    assert changed == "My question: {query} A question."


def test_fitness_of_words_is_the_mean_of_their_texts_with_momentum():
    attack = autodan()

    class Loss:
        def __init__(self, loss):
            self.loss = loss

    fitness = attack._word_fitness({"wish make": Loss(2.0), "wish": Loss(4.0), "crow": Loss(9.0)}, {"make": -8.0})
    assert fitness == {"wish": -3.0, "make": (-8.0 - 2.0) / 2}


@pytest.mark.parametrize("name", sorted(file.stem for file in SHIPPED_SYNONYMS.glob("*.txt")))
def test_shipped_tables_are_whole(name):
    assert len(read_synonyms(name)) >= 10


def test_the_miniatures_texts_are_in_the_words_of_its_world(target):
    def count(text):
        return len(target.tokenizer(text, add_special_tokens=False)["input_ids"])

    for text in read_templates("miniature").values():
        asked = text.replace("{query}", "wish")
        assert count(asked) == len(asked.split()), f"{text}: a word of it is not in the miniature's tokenizer"
    for word in read_synonyms("miniature"):
        assert 1 in (count(f" {word}"), count(word.capitalize())), f"{word} is no word of the miniature"


def test_tables_that_cannot_be_used(tmp_path):
    path = tmp_path / "t.txt"
    for text, message in (
        ("# nothing\n", "no group"),
        ("alone\n", "line 1: expected at least two"),
        ("a, a\n", "line 1: expected at least two different words"),
        ("a, b\nb, c\n", "line 2: b stands in an earlier group"),
        ("two words, b\n", "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_synonyms(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_synonyms(str(path))
    with pytest.raises(InputError, match="shipped tables .*general, miniature"):
        read_synonyms(str(tmp_path / "none.txt"))


def test_rows_that_cannot_be_searched_are_skipped(target, aimed_rows):
    long = {**aimed_rows[0], "id": "long", "prompt": [{"role": "user", "content": "wish " * 600}]}
    raw = {**aimed_rows[0], "id": "raw", "prompt": [{"role": "text", "content": "wish"}]}
    made = autodan(steps=1).inputs([long, raw], target, "harmful")
    assert "context of 512" in made.skipped["long"] and "raw text" in made.skipped["raw"]


def test_autodan_is_built_by_name():
    attack = build_attack("autodan", AttackConfig(autodan=SMALL))
    assert attack.name == "autodan" and json.loads(json.dumps(attack.settings)) == attack.settings
    assert build_attack("autodan").templates == read_templates()
