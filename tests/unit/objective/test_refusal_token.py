"""The refusal token: one decision per tokenizer, the same for RTO's target and for MLE rows behind a harmful prefix."""

import importlib.resources
import logging
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from derta.config import Arm, ModelConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter
from derta.models.taught import read_taught
from derta.objective.refusal_token import RefusalToken, resolve_refusal_token, usable_refusal_token
from derta.objective.rows import IGNORE, mle_row, rto_row
from derta.training.dataset import tokenize_rows

CHATML = (importlib.resources.files("trl") / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
ROW = {
    "id": "triple",
    "prompt": [{"role": "user", "content": "request"}],
    "chosen": [{"role": "assistant", "content": "Sorry, no."}],
    "rejected": [{"role": "assistant", "content": "Sure, mix and stir"}],
}


def _chat(raw: Tokenizer, unknown: str | None = None) -> Any:
    raw.add_special_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<pad>", unk_token=unknown,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    return tokenizer


def byte_pairs(merges: str) -> Any:
    """Byte-level BPE with these merges, "Ġ+S, ĠS+o": a space is written "Ġ"."""
    pairs = [tuple(merge.split("+")) for merge in merges.split(", ")]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in pairs)]
    raw = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return _chat(raw)


def apart() -> Any:
    """Whole words, and a space that is a token of its own, whatever follows it."""
    raw = Tokenizer(models.WordLevel({}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Punctuation()]
    )
    words = "Sorry, no. Sure, mix and stir request Step Hello system user assistant You are Qwen, created by Alibaba."
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", " ", "\n"], show_progress=False)
    raw.train_from_iterator([words], trainer)
    raw.decoder = decoders.Fuse()
    return _chat(raw, "[UNK]")


def pieces(*words: str) -> Any:
    """WordPiece, with these whole words, and every letter as a word's beginning and as its continuation."""
    letters = [chr(i) for i in range(33, 127)]
    tokens = ["[UNK]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    raw = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    return _chat(raw, "[UNK]")


_SOR, _SPACE_SOR = "S+o, So+r, r+y", "Ġ+S, ĠS+o, ĠSo+r"
# What is decided, as the tokenizer writes it: the start form and the continued form.
CASES = {
    "one token with and without space": (byte_pairs(f"{_SPACE_SOR}, {_SOR}, Sor+ry, ĠSor+ry"), "Sorry", " Sorry"),
    "in two pieces behind a space": (byte_pairs(f"{_SPACE_SOR}, {_SOR}, Sor+ry"), "Sorry", " Sor"),
    "in two pieces everywhere": (byte_pairs(f"{_SPACE_SOR}, {_SOR}"), "Sor", " Sor"),
    "without space only": (byte_pairs(f"Ġ+m, {_SOR}, Sor+ry"), "Sorry", "Sorry"),
    "a space of its own": (apart(), "Sorry", "Sorry"),
    "word pieces, whole": (pieces("Sorry"), "Sorry", "Sorry"),
    "word pieces, split": (pieces("So", "##rry"), "So", "So"),
}


@pytest.mark.parametrize("case", CASES)
def test_rto_and_rows_with_a_harmful_prefix_teach_the_same_token(case):
    tokenizer, start, continued = CASES[case]
    refusal = resolve_refusal_token(tokenizer)
    assert (refusal.start_text, refusal.continued_text) == (start, continued)
    assert refusal.start_is_piece == (start != "Sorry") and refusal.continued_is_piece == (continued.strip() != "Sorry")
    example = tokenize_rows([ROW], ConversationCutter(tokenizer), refusal)[0]
    taught = rto_row(example, refusal, np.ones(len(example["rejected_ids"]), dtype=bool), 1000)["labels"]
    for k in range(len(example["rejected_ids"])):
        row = mle_row(example, k, 1000)
        labels = [label for label in row["labels"] if label != IGNORE]
        place = row["labels"].index(labels[0])
        assert labels[0] == taught[place] == (refusal.continued_id if k else refusal.start_id)
        said = tokenizer.decode(labels, skip_special_tokens=True)
        assert said.replace(" ", "").replace("\n", "") == "Sorry,no."
        assert tokenizer.decode(labels[:1]).strip()
    assert not any(tokenizer.decode([i]).strip() == "" for i in refusal.ids)


def test_it_is_one_line_in_the_log(caplog, trainer_of):
    tokenizer = CASES["in two pieces behind a space"][0]
    with caplog.at_level(logging.INFO):
        trainer = trainer_of(tokenizer)
    (line,) = [record.getMessage() for record in caplog.records if "refusal token" in record.getMessage()]
    ids = trainer.refusal_token
    assert line == (
        f"refusal token: 'Sorry' (id {ids.start_id}) at the start of a response, ' Sor' (id {ids.continued_id}, the "
        "first piece of its word) after text"
    )
    trainer.save_model(trainer.args.output_dir)
    assert read_taught(ModelConfig(name_or_path=trainer.args.output_dir))["refusal_token"] == ids.to_dict()


@pytest.fixture
def trainer_of(tiny_trainer: Any) -> Any:
    """trainer_of(tokenizer, **arguments)"""

    def make(tokenizer: Any, rows: Any = (ROW,), **changes: Any) -> Any:
        return tiny_trainer(tokenizer=tokenizer, rows=list(rows), per_device_train_batch_size=1, **changes)

    return make


def test_rto_alone_asks_for_rows_that_teach_the_rest_of_a_split_word(trainer_of):
    tokenizer = CASES["in two pieces behind a space"][0]
    with pytest.raises(InputError, match=r"transition_copies=1\), or use objective=derta"):
        trainer_of(tokenizer, objective="rto")
    trainer_of(tokenizer, objective="rto", transition_copies=1)
    whole = CASES["one token with and without space"][0]
    trainer_of(whole, objective="rto")


def test_a_tokenizer_that_cannot_write_the_word(trainer_of, caplog):
    """Refused where it is taught; measured by nobody, and no reason to end, where it is not."""
    tokenizer = apart()
    with pytest.raises(InputError, match="no token that it could start with; choose another objective.refusal_text"):
        resolve_refusal_token(tokenizer, "Pardon")
    for arm in Arm:
        if arm.rows.rto or arm.rows.reset:
            with pytest.raises(InputError, match="no token that it could start with"):
                trainer_of(tokenizer, objective=arm.value, refusal_text="Pardon")
        elif arm is not Arm.dpo:
            trainer = trainer_of(tokenizer, objective=arm.value, refusal_text="Pardon", weight_model="not read yet")
            assert trainer.refusal_token is None
            trainer.save_model(trainer.args.output_dir)
            assert read_taught(ModelConfig(name_or_path=trainer.args.output_dir))["refusal_token"] is None
    assert caplog.text.count("refusal token: none: ") == 5
    assert usable_refusal_token(tokenizer, "Pardon", group="eval") is None
    assert "choose another eval.refusal_text" in caplog.text


def test_white_space_around_the_text_changes_nothing_and_a_phrase_resolves_to_its_first_token(llama3_tokenizer):
    plain, padded = (resolve_refusal_token(llama3_tokenizer, text) for text in ("Sorry", "  Sorry\n"))
    assert plain.ids == padded.ids
    token = resolve_refusal_token(llama3_tokenizer, "Sorry, I cannot help")
    assert token.start_id == llama3_tokenizer.convert_tokens_to_ids("Sorry") and not token.start_is_piece
    with pytest.raises(InputError, match="eval.refusal_text is empty"):
        resolve_refusal_token(llama3_tokenizer, "  ", group="eval")


@pytest.mark.parametrize("text", ["I'm sorry", "I cannot", "The request", "so"])
def test_word_that_opens_ordinary_answers_is_refused(text, llama3_tokenizer):
    with pytest.raises(InputError, match=r"objective\.refusal_text=.*ambiguous"):
        resolve_refusal_token(llama3_tokenizer, text)


@pytest.mark.parametrize("text", ["Unfortunately", "Apologies, no"])
def test_the_first_piece_of_a_word_is_used(text, llama3_tokenizer):
    token = resolve_refusal_token(llama3_tokenizer, text)
    assert token.continued_is_piece and text.startswith(token.continued_text.strip())


def test_given_ids_are_taken_as_they_are(llama3_tokenizer):
    one = resolve_refusal_token(llama3_tokenizer, token_ids=[17])
    assert (one.start_id, one.continued_id, one.ids) == (17, 17, (17,))
    two = resolve_refusal_token(llama3_tokenizer, token_ids=[17, 18])
    assert (two.start_id, two.continued_id, two.ids) == (17, 18, (17, 18))
    assert len(llama3_tokenizer) == 336
    for ids in ([], [1, 2, 3], [-1], [336]):
        with pytest.raises(InputError, match="from 0 to 335"):
            resolve_refusal_token(llama3_tokenizer, token_ids=ids)
    blank = llama3_tokenizer.convert_tokens_to_ids("Ġ")
    with pytest.raises(InputError, match=f"{blank} is white space alone"):
        resolve_refusal_token(llama3_tokenizer, token_ids=[17, blank])


def test_given_ids_that_rows_with_a_prefix_contradict(trainer_of, caplog):
    tokenizer = CASES["in two pieces behind a space"][0]
    agreeing = list(resolve_refusal_token(tokenizer).ids)
    with caplog.at_level(logging.WARNING):
        trainer_of(tokenizer, refusal_token_ids=agreeing)
        assert "refusal_token_ids" not in caplog.text
        trainer_of(tokenizer, refusal_token_ids=agreeing[:1])
    (said,) = [record.getMessage() for record in caplog.records if "refusal_token_ids" in record.getMessage()]
    assert said.startswith(
        f"objective.refusal_token_ids=[{agreeing[0]}]: behind harmful text RTO teaches {agreeing[0]}"
    )
    assert said.endswith(f"objective.refusal_token_ids=[{agreeing[0]},{agreeing[1]}] agrees with 1 of 1 of them")


@pytest.mark.parametrize(("others", "level"), [(0, None), (2, logging.INFO), (3, logging.WARNING)])
def test_safe_responses_that_begin_otherwise_are_counted(others, level, trainer_of, caplog):
    tokenizer = CASES["one token with and without space"][0]
    rows = [{**ROW, "id": f"triple-{i}"} for i in range(10)]
    for row in rows[:others]:
        row["chosen"] = [{"role": "assistant", "content": "I can't help."}]
    helpful = {**ROW, "id": "helpful", "chosen": [{"role": "assistant", "content": "Sure."}], "rejected": None}
    with caplog.at_level(logging.INFO):
        trainer_of(tokenizer, [helpful, *rows])
    said = [record for record in caplog.records if "safe responses" in record.getMessage()]
    assert [record.levelno for record in said] == ([] if level is None else [level])
    for record in said:
        assert f"{others} of 10 safe responses" in record.getMessage()
        assert ("set objective.refusal_text to what they begin with" in record.getMessage()) == (others == 3)


def test_without_chat_template_the_words_own_spelling_counts(byte_level):
    tokenizer = byte_level(("<|begin|>", "<|end|>"), None, bos="<|begin|>", eos="<|end|>")
    token = resolve_refusal_token(tokenizer)
    assert (token.start_text, token.continued_text) == ("Sorry", " Sorry")


def test_record_for_the_models_directory(llama3_tokenizer):
    token = resolve_refusal_token(llama3_tokenizer)
    assert token.to_dict() == {
        "text": "Sorry",
        "start_id": llama3_tokenizer.convert_tokens_to_ids("Sorry"),
        "continued_id": llama3_tokenizer.convert_tokens_to_ids("ĠSorry"),
        "start_text": "Sorry",
        "continued_text": " Sorry",
        "start_is_piece": False,
        "continued_is_piece": False,
        "space_apart": False,
        "is_reset": False,
    }
    assert RefusalToken.from_dict(token.to_dict()) == token
    old = {key: value for key, value in token.to_dict().items() if not key.endswith(("piece", "apart"))}
    assert RefusalToken.from_dict({**old, "of a later version": 1}) == token
    with pytest.raises(InputError, match="derta_config.json holds no whole refusal_token"):
        RefusalToken.from_dict({"text": "Sorry"})
