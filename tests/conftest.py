"""Small real things for the tests of the training core: tokenizers trained on the fly and models with random weights.

Nothing is downloaded. Texts are placeholders: no row holds anything harmful.
"""

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

# A few words so frequent that BPE makes them one token, at the start of a text and behind a space.
CORPUS = [
    "Sorry, I cannot help with that. Sorry Sorry Step Step Sure, here are the steps",
    "Sorry\nSorry\n\nSorry. I cannot. Sure\nStep 1: mix. Step 2: stir. Step 3: wait and stir again.",
    "harmful request harmful steps helpful answer question about the garden user assistant model system",
] * 40
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?'()[]/\\<>|_-\n"

# The public split pattern of Llama-3's (and, but for the digits, Qwen's) byte-level BPE.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@pytest.fixture(scope="session", autouse=True)
def no_collection_of_imports() -> None:
    """Every start of training collects garbage; looking through all imports each time would take most of a second."""
    gc.freeze()


def _finish(
    raw: Tokenizer, specials: tuple[str, ...], template: str | None, bos: str | None, eos: str, pad: str
) -> Any:
    raw.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (*specials, pad)])
    if bos:
        raw.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


def _byte_level(
    specials: tuple[str, ...],
    template: str | None,
    *,
    bos: str | None,
    eos: str,
    pad: str = "<|pad|>",
    nfc: bool = False,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in Llama-3 and Qwen; special tokens get the highest ids, as there."""
    raw = Tokenizer(models.BPE())
    if nfc:
        raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    return _finish(raw, specials, template, bos, eos, pad)


def _metaspace(
    specials: tuple[str, ...], template: str | None, *, bos: str, eos: str, pad: str = "<pad>", prepend: str = "never"
) -> PreTrainedTokenizerFast:
    """BPE on text whose spaces are written as U+2581, with byte fallback, as in SentencePiece models."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Punctuation(),
        ]
    )
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=200, initial_alphabet=list(_LETTERS), show_progress=False)
    )
    # Trained on words, then set up as the real ones are: whole texts, and bytes for what the vocabulary lacks.
    bpe = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *bpe["vocab"]]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(merge) for merge in bpe["merges"]]
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(raw, specials, template, bos, eos, pad)


@pytest.fixture(scope="session")
def byte_level() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes a byte-level BPE tokenizer: byte_level(special tokens, chat template, bos=, eos=)."""
    return _byte_level


@pytest.fixture(scope="session")
def metaspace() -> Callable[..., PreTrainedTokenizerFast]:
    """Makes a SentencePiece-like tokenizer: metaspace(special tokens, chat template, bos=, eos=)."""
    return _metaspace


@pytest.fixture(scope="session")
def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """Turns end in <|eot_id|>, texts in <|end_of_text|> (the EOS token), as in Llama-3."""
    return _byte_level(LLAMA3_SPECIALS, LLAMA3_TEMPLATE, bos="<|begin_of_text|>", eos="<|end_of_text|>")


def _tiny_model(family: str, vocab_size: int, *, tied: bool = False, seed: int = 0) -> Any:
    """float32, two layers, random weights large enough that predictions are far from uniform; no dropout."""
    import torch
    import transformers as hf

    common = {
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    configs: dict[str, Callable[[], Any]] = {
        "llama": lambda: hf.LlamaConfig(**common, **shape),
        "wide_heads": lambda: hf.LlamaConfig(**common, **shape, head_dim=16),  # FlexAttention takes no narrower ones
        "mistral": lambda: hf.MistralConfig(**common, **shape, sliding_window=16),
        "mixtral": lambda: hf.MixtralConfig(
            **common, **shape, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.1
        ),
        "qwen2": lambda: hf.Qwen2Config(**common, **shape),
        "qwen3": lambda: hf.Qwen3Config(**common, **shape, head_dim=8),
        "gemma": lambda: hf.GemmaConfig(**common, **shape, head_dim=8),
        "gemma2": lambda: hf.Gemma2Config(**common, **shape, head_dim=8, sliding_window=16),
        "gpt2": lambda: hf.GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, n_positions=256, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        ),
        # Two whose flattened rows see one another: a mask without position ids, and a recurrent state.
        "opt": lambda: hf.OPTConfig(
            **common, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
            max_position_embeddings=256, dropout=0.0,
        ),
        "mamba": lambda: hf.MambaConfig(**common, hidden_size=32, num_hidden_layers=2, state_size=8),
    }  # fmt: skip
    torch.manual_seed(seed)
    return hf.AutoModelForCausalLM.from_config(configs[family](), dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Makes a model: tiny_model(family, vocab_size, tied=False, seed=0)."""
    return _tiny_model


@pytest.fixture(scope="session")
def mixed_rows() -> list[dict[str, Any]]:
    """Four triples and four helpful rows of different lengths, alternating."""
    rows: list[dict[str, Any]] = []
    for i in range(4):
        steps = " ".join(f"Step {j + 1}: stir." for j in range(i + 1))
        rows.append(
            {
                "id": f"triple-{i}",
                "prompt": [{"role": "user", "content": f"harmful request {i}"}],
                "chosen": [{"role": "assistant", "content": "Sorry, I cannot help with that." + " Sorry." * (i % 2)}],
                "rejected": [{"role": "assistant", "content": f"Sure, harmful steps {i}. {steps}"}],
            }
        )
        rows.append(
            {
                "id": f"helpful-{i}",
                "prompt": [{"role": "user", "content": f"question {i} about the garden"}],
                "chosen": [{"role": "assistant", "content": "helpful answer " * (i + 1) + str(i)}],
                "rejected": None,
            }
        )
    return rows


@pytest.fixture
def tiny_trainer(
    derta_args: Callable[..., Any], tiny_model: Callable[..., Any], llama3_tokenizer: Any, mixed_rows: list
) -> Callable[..., Any]:
    """tiny_trainer(**arguments): DeRTaTrainer of a tiny Llama on `mixed_rows`; kind: a subclass of it, rows: others,
    family and attention: of the model, more: what the trainer itself is given."""
    from datasets import Dataset

    from derta.training.trainer import DeRTaTrainer

    def make(
        *, kind: type = DeRTaTrainer, family: str = "llama", tied: bool = False, rows: list | None = None,
        attention: str | None = None, tokenizer: Any = llama3_tokenizer, more: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> Any:  # fmt: skip
        model = tiny_model(family, len(tokenizer), tied=tied)
        if attention is not None:
            model.config._attn_implementation = attention
        return kind(
            model,
            args=derta_args(**arguments),
            train_dataset=Dataset.from_list(mixed_rows if rows is None else rows),
            processing_class=tokenizer,
            **(more or {}),
        )

    return make


@pytest.fixture
def derta_args(tmp_path: Any) -> Callable[..., Any]:
    """Makes DeRTaConfig for a quiet CPU run of one rank in the test's directory."""
    from derta.training.config import DeRTaConfig

    def make(**changes: Any) -> Any:
        quiet = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
            "max_length": 256,
            "dataloader_pin_memory": False,
        }
        return DeRTaConfig(**{**quiet, **changes})

    return make
