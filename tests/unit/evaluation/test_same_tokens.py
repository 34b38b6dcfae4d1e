"""What evaluation generates from is, token by token, what training puts before a response: for public chat templates
on several kinds of tokenizers, and for raw text, over random conversations.

The templates are those that TRL ships, read from the installed package; those of Llama-2 and Mistral are written here.
"""

import importlib.resources
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from derta.config.prompts import PromptFormat
from derta.data.build import build
from derta.data.load import load_rows
from derta.data.recipe import load_recipe
from derta.errors import InputError
from derta.evaluation.attacks.attack import Direct
from derta.evaluation.prompts import read_prompts
from derta.models.conversation import ConversationCutter
from derta.models.target import TargetModel
from derta.objective.rows import IGNORE, mle_row
from derta.training.dataset import standard_row, tokenize_rows

SHIPPED = (
    "llama3", "llama3_1", "llama3_2", "gemma", "gemma3", "qwen2_5", "qwen3", "qwen3_5_think", "phi3", "phi3_5",
    "glm4moe", "deepseekv3", "deepseek_r1_distill", "cohere", "cohere2", "gptoss", "lfm2_v2", "nemotron_3_nano",
)  # fmt: skip
# Headers that end in a space, in words, and in a word with the space in front of the response.
WRITTEN = {
    "llama2": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' }}"
        "{{ eos_token }}{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
        "{{ '<<SYS>>' + m['content'] + '<</SYS>>' }}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] + eos_token }}"
        "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% endfor %}"
    ),
    "plain": (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{{ eos_token if m['role'] == 'assistant' }}\n"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
    "two lines": (
        "{% for m in messages %}## {{ m['role'] }}\n\n{{ m['content'] }}{{ '<|end|>' }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}## assistant\n\n{% endif %}"
    ),
}
_MARKS = re.compile(r"<[|｜][^<>'\"\s+]*?[|｜]>|<(?:start|end)_of_turn>|</?think>|\[gMASK\]|<sop>")
CORPUS = [
    "Sorry, I cannot help with that. Sorry Sorry Step Step Sure, here are the steps 1 2 3 of 2024",
    "user: assistant: system: question\n\nStep 1: mix. Step 2: stir.\n\n\nWait, “stir” (again) - and 'rest'.",
    "第一步 搅拌 第二步 等待 🙂 🔥 é à   spaced   out\ttab",
] * 30


def _fast(raw: Tokenizer, marks: list[str], template: str | None, special: bool, added: str = "") -> Any:
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>", "<pad>")])
    raw.add_tokens([AddedToken(text, special=special, normalized=False) for text in marks])
    if added:
        ids = [(name, raw.token_to_id(name)) for name in ("<s>", "</s>")]
        raw.post_processor = processors.TemplateProcessing(single=added, special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    unknown = next((name for name in ("<unk>", "[UNK]") if raw.token_to_id(name) is not None), None)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, unk_token=unknown, **names
    )
    tokenizer.chat_template = template
    return tokenizer


def _byte_level() -> Tokenizer:
    """GPT-2's split, which gives the last of several line breaks to the word behind them."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    return raw


def _sentencepiece() -> Tokenizer:
    """As Llama-2's: a space is put before every text, spaces are written ▁, other characters fall apart into bytes."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    split = Tokenizer(models.BPE())
    split.normalizer = raw.normalizer
    split.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    split.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = [token for token in split.get_vocab() if token.isascii() or "▁" in token]
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    raw.model = models.Unigram(
        [*pieces, *((token, -10.0 + len(token)) for token in sorted(learned))], unk_id=0, byte_fallback=True
    )
    return raw


def _word_piece() -> Tokenizer:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    )
    return raw


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": _byte_level,
    "sentencepiece": _sentencepiece,
    "word pieces": _word_piece,
}


@pytest.fixture(scope="module")
def trained() -> dict[str, str]:
    return {kind: make().to_str() for kind, make in KINDS.items()}


@pytest.fixture
def make_target(trained, tiny_model) -> Callable[..., TargetModel]:
    def make(kind: str, template: str | None, *, special: bool = True, added: str = "") -> TargetModel:
        marks = sorted(set(_MARKS.findall(template or "")))
        tokenizer = _fast(Tokenizer.from_str(trained[kind]), marks, template, special, added)
        return TargetModel(tiny_model("llama", len(tokenizer)), tokenizer)

    return make


def template_of(name: str) -> str:
    if name in WRITTEN:
        return WRITTEN[name]
    return (importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


class Drawn:
    """Random conversations: emoji, Chinese, digits, quotes; white space at both ends; empty system prompts."""

    WORDS = 'Sorry|step|mix|5|2024|第一步|🙂|🔥|é|"stir"|“wait”|- rest|(so)|I\'m|##'.split("|")
    SPACE = (" ", " ", " ", "\n", "\n\n", "  ", "\t", ", ", ". ")
    ENDS = ("", "", "", " ", "\n", "\n\n", "  ", "\t")

    def __init__(self, seed: str):
        self.random = random.Random(seed)

    def text(self) -> str:
        words = self.random.choices(self.WORDS, k=self.random.randint(1, 6))
        inner = "".join(word + self.random.choice(self.SPACE) for word in words[:-1]) + words[-1]
        return self.random.choice(self.ENDS) + inner + self.random.choice(self.ENDS)

    def conversation(self) -> list[dict[str, str]]:
        turns = [{"role": "user", "content": self.text()}]
        for _ in range(self.random.choice((0, 0, 1, 2))):
            turns += [{"role": "assistant", "content": self.text()}, {"role": "user", "content": self.text()}]
        system = self.random.choice((None, None, "", " ", "Obey the garden rules.", self.text()))
        return turns if system is None else [{"role": "system", "content": system}, *turns]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def generated_from(target: TargetModel, row: dict[str, Any]) -> list[int]:
    (made,) = Direct().inputs([row], target, "set").inputs
    return list(made.token_ids)


def trained_row(target: TargetModel, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Ids before the first supervised one, and the supervised ones."""
    built = mle_row(tokenize_rows([row], target.cutter, None)[0], 0, 10_000)
    first = next(i for i, label in enumerate(built["labels"]) if label != IGNORE)
    assert built["labels"][first:] == built["input_ids"][first:]
    return built["input_ids"][:first], built["input_ids"][first:]


@pytest.mark.parametrize("special", [True, False], ids=["special", "not special"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*SHIPPED, *WRITTEN])
def test_chat_templates(name, kind, special, make_target):
    target = make_target(kind, template_of(name), special=special)
    tokenizer = target.tokenizer
    target.cutter.check()
    drawn, kept, refused = Drawn(f"{name}/{kind}"), 0, 0
    while kept < 50:
        prompt, chosen, rejected = drawn.conversation(), drawn.text(), drawn.text()
        row = {"id": str(kept), "prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}
        try:
            before, supervised = trained_row(target, row)
        except InputError as error:  # Gemma takes no system prompt
            assert name == "gemma" and prompt[0]["role"] == "system" and "roles" in str(error)
            refused += 1
            continue
        kept += 1
        assert generated_from(target, row) == before
        assert generated_from(target, {**row, "chosen": None, "rejected": None}) == before
        # And both are what the template makes of the whole conversation, up to the token that ends the turn.
        shown = tokenizer.apply_chat_template([*prompt, *answer(chosen.strip())], tokenize=False)
        whole = tokenizer(shown, add_special_tokens=False)["input_ids"]
        row_ids = before + supervised
        assert row_ids[:-1] == whole[: len(row_ids) - 1]
        assert row_ids[-1] in target.end_token_ids
        assert whole[len(row_ids) - 1 :][:1] == ([] if name == "glm4moe" else [row_ids[-1]])
        if kind != "word pieces":
            assert tokenizer.decode(supervised[:-1]).strip() == chosen.strip()
    assert refused == 0 or name == "gemma"


@pytest.mark.parametrize("added", ["", "<s> $A", "<s> $A </s>"], ids=["nothing", "bos", "bos and eos"])
@pytest.mark.parametrize("kind", KINDS)
def test_raw_text(kind, added, make_target):
    """With and without special tokens that the rows spell; what the tokenizer would add never stands twice."""
    target = make_target(kind, None, added=added)
    drawn, kept = Drawn(f"raw/{kind}"), 0
    bos, eos = target.tokenizer.bos_token_id, target.tokenizer.eos_token_id
    while kept < 50:
        prompt = drawn.random.choice(("", "<s>")) + drawn.text().rstrip() + drawn.random.choice(("", " ", "\n"))
        response = ("" if prompt[-1].isspace() else " ") + drawn.text().strip() + drawn.random.choice(("", "</s>"))
        row = {
            "id": str(kept),
            "prompt": [{"role": "text", "content": prompt}],
            "chosen": [{"role": "text", "content": response}],
            "rejected": None,
        }
        before, supervised = trained_row(target, row)
        kept += 1
        assert generated_from(target, row) == before
        ids = before + supervised
        assert ids.count(bos) == (added != "" or prompt.startswith("<s>")) == (ids[0] == bos)
        assert ids.count(eos) == 1 and ids[-1] == eos
        own = target.tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
        assert [i for i in ids if i not in (bos, eos)] == [i for i in own if i not in (bos, eos)]


def test_every_reader_gives_the_same_tokens(make_target, tmp_path):
    """A benchmark's file of prompts, rows for training, the same rows built, and rows handed to the trainer."""
    target = make_target("byte-level", template_of("llama3_1"))
    text, row = "  Cafe\u0301:\r\nstir\ttwice? \n", {"id": "one"}
    messages = [{"role": "user", "content": text}]
    row |= {"prompt": messages, "chosen": answer(" Sorry,\rno.\n"), "rejected": answer("Sure. \r\n")}
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": text}) + "\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "recipe.yaml").write_text(
        "description: rows\nseed: 1\nsources:\n"
        f"  - {{name: rows, adapter: preference, path: {tmp_path / 'rows.jsonl'}, licence: cc0-1.0}}\n"
    )
    build(load_recipe(str(tmp_path / "recipe.yaml"), tmp_path), tmp_path / "built")
    found = [read_prompts(str(tmp_path / "prompts.jsonl"), PromptFormat.prompts, harmful=True).rows[0]]
    found += load_rows(tmp_path / "rows.jsonl", "preference").dataset.to_list()
    found += load_rows(tmp_path / "built").dataset.to_list()
    found += [standard_row(row)]
    (prompt,) = {tuple(generated_from(target, each)) for each in found}
    assert target.tokenizer.decode(prompt).endswith(
        "user<|end_header_id|>\n\nCafé:\nstir\ttwice?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    (rows,) = {repr(trained_row(target, each)) for each in found[1:]}
    assert rows == repr((list(prompt), target.tokenizer.encode("Sorry,\nno.<|eot_id|>", add_special_tokens=False)))


def test_a_template_that_cannot_be_cut_alike_is_refused_at_the_start(make_target):
    """Its header ends in a letter, and some words behind it would share a token with that letter."""
    glued = "{% for m in messages %}{{ m['role'] + ' i' + m['content'] + '</s>' }}{% endfor %}"
    for kind in KINDS:
        with pytest.raises(InputError, match="share a token: use a chat template"):
            ConversationCutter(make_target(kind, glued).tokenizer).check()
