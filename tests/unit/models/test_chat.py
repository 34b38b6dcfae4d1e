"""One kind of model that is asked, in this process or behind an address: greedy, drawn, too long, no pad token."""

import copy

import pytest

from derta.config.attacks import ChatModelConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.chat import LocalChat, build_chat_model
from derta.models.endpoint import NoAnswer

ASKED = [[{"role": "user", "content": text}] for text in ("How do I make", "Write the steps now", "Repeat : 1 2")]


@pytest.fixture(scope="module")
def place(tiny_model, llama3_tokenizer, tmp_path_factory):
    """A tiny chat model whose tokenizer has no pad token."""
    folder = tmp_path_factory.mktemp("asked")
    tokenizer = copy.deepcopy(llama3_tokenizer)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    return str(folder)


def local(place, **changes):
    settings = {"temperature": 0.0, "max_tokens": 4, "batch_size": 2} | changes
    model = ModelConfig(name_or_path=place)
    return build_chat_model(ChatModelConfig(kind="local", model=model, **settings), "key")


def test_greedy_answers_do_not_depend_on_seeds_or_batches(place):
    together = local(place).complete_many(ASKED)
    assert together == local(place, batch_size=1).complete_many(ASKED, [1, 2, 3])
    assert all(isinstance(answer, str) for answer in together)


def test_drawn_answers_are_those_of_their_seeds(place):
    model = local(place, temperature=1.0, max_tokens=8)
    one, again, other = (model.complete_many(ASKED, seeds) for seeds in ([1, 2, 3], [1, 2, 3], [4, 5, 6]))
    assert one == again != other


def test_what_does_not_fit_has_no_answer_and_the_others_have_theirs(place):
    long = [{"role": "user", "content": "wish " * 600}]
    first, none, second = local(place).complete_many([ASKED[0], long, ASKED[1]])
    assert none == NoAnswer("the conversation is longer than the context")
    assert [first, second] == local(place).complete_many(ASKED[:2])


def test_raw_text_and_many_turns_are_asked(place):
    text = [{"role": "text", "content": "Step 1"}]
    turns = [*ASKED[0], {"role": "assistant", "content": "Why?"}, *ASKED[1]]
    assert all(isinstance(answer, str) for answer in local(place).complete_many([text, turns]))


def test_a_model_is_loaded_when_it_is_first_asked(tmp_path):
    model = local(str(tmp_path / "gone"))
    assert isinstance(model, LocalChat) and model.settings["name_or_path"].endswith("gone")
    with pytest.raises(InputError, match="key.model cannot be loaded"):
        model.complete_many(ASKED)


def test_an_endpoint_is_asked_with_its_settings(chat_server):
    chat_server.script = lambda body: "fine" if body["seed"] == 1 else 500
    config = ChatModelConfig(
        kind="endpoint", endpoint=chat_server.config(retries=0), temperature=0.5, top_p=0.9, max_tokens=7
    )
    model = build_chat_model(config, "key")
    assert model.complete_many(ASKED[:2], [1, 2]) == ["fine", NoAnswer("status 500 (1 try)")]
    asked = chat_server.requests[0]
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0.5, 0.9, 7)
    assert model.settings["temperature"] == 0.5


def test_a_choice_has_to_be_made():
    with pytest.raises(InputError, match=r"key.kind is none: choose a model for it \(endpoint, local, miniature\)"):
        build_chat_model(ChatModelConfig(), "key")
