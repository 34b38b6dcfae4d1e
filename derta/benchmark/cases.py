"""(a, j) Training steps, ours and TRL's, on the same rows in turn: small models, a model directory, or a GPU's sizes.

    a process of its own   ours                      first pass: every shape is new
                           ours, TRL, ours, TRL ..   same rows, labels, order, dtype, attention, kernels and batches
                           ours, TRL, ours, TRL ..   TRL at its best: packed rows; FlashAttention and Liger if installed

All passes take the same rows; the first round with a peer is not counted. MFU as in derta/models/flops.py: without
padding and without what checkpointing computes again. A case holds two models at a time.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.benchmark.head_memory import head
from derta.benchmark.measure import Line, compared, use_clock, with_peak
from derta.benchmark.training import (
    our_trainer,
    rows_of_epoch,
    share_of_logging,
    share_of_probe,
    step_seconds,
    trl_trainer,
)
from derta.benchmark.workload import MAX_LENGTH, PAPER_LENGTH, llama, miniature_rows, paper_mix, tokenizer
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.precision import resolve_dtype

if TYPE_CHECKING:
    from derta.benchmark.suites import BenchmarkRunConfig

GIB = 2**30
_1B = {
    "vocabulary": 128_256, "hidden": 2048, "layers": 16, "intermediate_size": 8192, "num_attention_heads": 32,
    "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
_8B = {**_1B, "hidden": 4096, "layers": 32, "intermediate_size": 14_336, "tie_word_embeddings": False}
_TINY = {"vocabulary": 1280, "hidden": 64, "layers": 2}
_TRL_7244 = (8192, 151_936, 4096)  # tokens, vocabulary, hidden size


@dataclass
class Case:
    """What is trained. model: arguments of `llama`, or a directory. scale: of the paper's row lengths; 0: rows of the
    miniature. packed: tokens of a packed row of TRL's. goal: ours over TRL's step time."""

    suite: str
    name: str
    model: Any
    lora: bool = False
    flattened: bool = False
    checkpointing: bool = False
    sixteen_bit: bool = False
    micro: int = 8
    accumulation: int = 1
    steps: int = 4
    rounds: int = 3
    scale: float = 0.0
    packed: int = 512
    goal: float = 1.02
    peak_flops: float | None = None
    clock: str = "wall"
    threads: int = 1
    kernels: str = ""


def training(config: BenchmarkRunConfig) -> Iterator[Line]:
    """(a) Padded and flattened steps; then the share of logging and probe. With model=DIR, that model alone."""
    small = config.size != "full"
    for flattened in (False, True):
        name = "flattened" if flattened else "padded"
        case = Case("a", name, {"vocabulary": len(tokenizer())}, flattened=flattened, threads=config.threads)
        case.steps, case.rounds, case.clock = (4, 3, config.clock) if small else (20, 8, config.clock)
        if config.model is not None:
            case.model, case.name = config.model, f"{Path(config.model).name}, {name}"
            case.sixteen_bit = resolve_dtype(ModelConfig(name_or_path=config.model)) == "bfloat16"
            if small:
                case.steps, case.rounds = 2, 2
            yield from _in_own_process(case, config)
        else:
            yield from measure(case)
    if config.model is None:
        rows = miniature_rows((case.steps + 1) * case.micro)
        with tempfile.TemporaryDirectory() as folder:
            ours = our_trainer(llama(len(tokenizer())), rows, folder, case.steps, padding_free=False)
            yield from (share_of_logging(ours), share_of_probe(ours))


def gpu(config: BenchmarkRunConfig) -> Iterator[Line]:
    """(j) 1B full and 8B LoRA (r = 96) with random weights, padded and flattened, and the head; `size=tiny` does the
    same on any machine with models of 100k parameters. Raises InputError: no GPU, and another size."""
    import torch

    tiny = config.size == "tiny"
    if not tiny and not torch.cuda.is_available():
        raise InputError("suite=[gpu] needs a GPU, and there is none: size=tiny runs the same code on a CPU")
    usual: dict[str, Any]
    if tiny:
        usual = {"micro": 4, "accumulation": 2, "steps": 2, "rounds": 1, "scale": 0.05, "packed": 128, "goal": 0.95}
        usual["peak_flops"] = 1e12
        full, lora = Case("j", "1B full", _TINY, **usual), Case("j", "8B LoRA", _TINY, lora=True, **usual)
    else:  # rows of 480 tokens or so: 64 a step and 16 in a micro-batch
        usual = {"sixteen_bit": True, "scale": 1.0, "packed": 2048, "goal": 0.95, "micro": 16}
        full = Case("j", "1B full", _1B, accumulation=4, steps=3, **usual)
        lora = Case("j", "8B LoRA", _8B, lora=True, checkpointing=True, steps=4, rounds=2, **usual)
    for case in (full, lora):
        for flattened in (False, True):
            name = f"{case.name}, {'flattened' if flattened else 'padded'}"
            yield from _in_own_process(Case(**{**asdict(case), "name": name, "flattened": flattened}), config)
    yield from head("j", *((64, 1000, 32) if tiny else _TRL_7244))


def _in_own_process(case: Case, config: BenchmarkRunConfig) -> Iterator[Line]:
    """The lines of a case, each as soon as it is measured."""
    if config.kernels:
        case.kernels = str(Path(config.output) / f"kernels, {case.name}.txt")
    command = [sys.executable, "-m", "derta.benchmark.cases", json.dumps(asdict(case))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            if text.startswith("{"):
                yield Line(**json.loads(text))
    if process.returncode:
        yield Line(case.suite, case.name, "", None, note=f"ended with exit code {process.returncode}")


def measure(case: Case) -> Iterator[Line]:
    """All lines of a case, in the order in which they are measured."""
    import torch

    device, reads, lora, attention = _device(), tokenizer(), None, "varlen" if case.flattened else "sdpa"
    if isinstance(case.model, str):
        from transformers import AutoTokenizer

        reads = AutoTokenizer.from_pretrained(case.model)
    if case.lora:
        import peft

        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = peft.LoraConfig(r=96, lora_alpha=16, lora_dropout=0.05, target_modules=names, task_type="CAUSAL_LM")
    batch = case.micro * case.accumulation
    count = batch * case.steps
    rows = paper_mix(count, case.scale) if case.scale else miniature_rows(count)
    longest = round(case.scale * PAPER_LENGTH) or MAX_LENGTH
    shared = {
        "per_device_train_batch_size": case.micro, "gradient_accumulation_steps": case.accumulation, "reads": reads,
        "bf16": case.sixteen_bit, "activation_checkpointing": case.checkpointing, "lora": lora,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = _model(case, attention, device)
        ours = our_trainer(
            model, rows, folder, case.steps, max_length=longest, padding_free=case.flattened, **shared,
            pad_to_multiple_of=None if case.flattened or device == "cpu" else 16,
        )  # fmt: skip
        ready = rows_of_epoch(ours)[:count]
        mine = step_seconds(ours, skipped=0)
        first, peak = with_peak(mine, held=0)
        yield Line(
            case.suite, f"{case.name}: first pass", "s/step", first, peer=(second := mine()), peer_name="second pass",
            ratio=first / second, goal=1.05 if case.suite == "j" else None,
        )  # fmt: skip
        peak, plan = peak / 2**10, _planned(case, ours, longest)
        ratio = peak / plan if device == "cuda" else None  # a process on a CPU has more in its memory
        yield Line(case.suite, f"{case.name}: peak memory", "GiB", peak, plan, "planned", ratio=ratio)
        yield from _rates(case, ours, ready, second)
        if case.kernels:
            _write_kernels(case, mine)
        padded = {"padding_free": case.flattened, "pad_to_multiple_of": ours.args.pad_to_multiple_of, **shared}
        best, best_attention = _best_of_trl(case)
        for name, changes, kind in (
            ("TRL", padded, attention),
            ("TRL at its best", {**shared, **best}, best_attention),
        ):
            held = torch.cuda.memory_allocated() if device == "cuda" else 0
            steps = -1 if changes.get("packing") else case.steps  # one pass in either case
            theirs = trl_trainer(_model(case, kind, device), ready, folder, steps, num_train_epochs=1, **changes)
            yield from _against(case, name, ours, mine, theirs, len(ready), held)
            del theirs
            gc.collect()
            torch.cuda.empty_cache()


def _against(case: Case, name: str, ours: Any, mine: Any, theirs: Any, rows: int, held: int) -> Iterator[Line]:
    """Time per row of a pass and peak memory, in turn with a peer that is held beside ours."""
    peer, peaks = step_seconds(theirs, skipped=0), []
    samples: list[tuple[float, float]] = []
    for _ in range(case.rounds + 1):
        took = mine() * case.steps / rows
        theirs_took, peak = with_peak(peer, held)
        samples.append((1e3 * took, 1e3 * theirs_took * theirs.state.global_step / rows))
        peaks.append(peak / 2**10)
    a, b = zip(*samples[1:], strict=True)
    what = f"{case.name}: training, against {name}"
    yield compared(case.suite, what, "ms/row", list(a), list(b), peer_name=name, goal=case.goal)
    yield Line(case.suite, f"{case.name}: peak memory of {name}", "GiB", max(peaks))


def _rates(case: Case, trainer: Any, rows: list[dict[str, list[int]]], second: float) -> Iterator[Line]:
    """Tokens per second without padding, and MFU where the device's peak is known, of the second pass."""
    from derta.models.flops import ModelFlops, device_peak

    lengths = [len(row["input_ids"]) for row in rows]
    supervised = sum(label != -100 for row in rows for label in row["labels"][1:])
    took = second * case.steps
    yield Line(case.suite, f"{case.name}: rate", "tokens/s", sum(lengths) / took)
    if (peak := device_peak(case.peak_flops, sixteen_bit=case.sixteen_bit)) is not None:
        squares = sum(length * length for length in lengths)
        done = ModelFlops.of(trainer.model).total(tokens=sum(lengths), supervised=supervised, squares=squares)
        yield Line(case.suite, f"{case.name}: MFU", "", done / (took * peak), goal=0.4, at_least=True)


def _model(case: Case, attention: str, device: str) -> Any:
    """As launch/train.py holds it: float32 weights, a LoRA base in the precision of the run."""
    import torch

    import derta.models.varlen  # noqa: F401  (registers an attention implementation)

    dtype = "bfloat16" if case.lora and case.sixteen_bit else "float32"
    if isinstance(case.model, str):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(case.model, dtype=getattr(torch, dtype), use_safetensors=True)
    else:
        with torch.device(device):
            model = llama(**case.model, dtype=dtype)
    model.set_attn_implementation(attention)
    return model


def _best_of_trl(case: Case) -> tuple[dict[str, Any], str]:
    """Packed rows, about as many tokens as a micro-batch of ours; the attention that keeps them apart; Liger."""
    from transformers.utils import is_flash_attn_2_available, is_liger_kernel_available

    mean = PAPER_LENGTH * case.scale / 2 or MAX_LENGTH / 2
    count = max(1, round(case.micro * mean / case.packed))
    best = {"packing": True, "max_length": case.packed, "per_device_train_batch_size": count}
    on_gpu = _device() == "cuda"
    if on_gpu and is_liger_kernel_available():
        best["use_liger_kernel"] = True
    return best, "flash_attention_2" if on_gpu and is_flash_attn_2_available() else "varlen"


def _planned(case: Case, trainer: Any, longest: int) -> float:
    """GiB at the peak by launch/plan.py."""
    from derta.config.shipped import command_of

    with tempfile.TemporaryDirectory() as folder:
        config = trainer.model.config
        config.save_pretrained(folder)
        words = [
            f"model.name_or_path={folder}", f"peft={'lora' if case.lora else 'none'}", "world_size=1", "device=h200",
            f"trainer.micro_batch_size={case.micro}", f"trainer.global_batch_size={case.micro * case.accumulation}",
            f"trainer.gradient_checkpointing={str(case.checkpointing).lower()}", f"data.max_length={longest}",
            f"trainer.padding_free={str(case.flattened).lower()}", f"output={folder}/plan.json", "propose=false",
            f"model.attn_implementation={config._attn_implementation}", "distributed=none",
        ]  # fmt: skip
        subprocess.run([sys.executable, *command_of("plan"), *words], check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(folder, "plan.json").read_text())["rank_bytes"]["peak"] / GIB


def _write_kernels(case: Case, run: Any) -> None:
    from torch.profiler import profile

    with profile() as profiled:
        run()
    order = "self_cuda_time_total" if _device() == "cuda" else "self_cpu_time_total"
    Path(case.kernels).parent.mkdir(parents=True, exist_ok=True)
    table = profiled.key_averages().table(sort_by=order, row_limit=40)
    Path(case.kernels).write_text(table, encoding="utf-8")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    from derta.benchmark.suites import be_quiet

    given = Case(**json.loads(sys.argv[1]))
    be_quiet(given.threads)
    use_clock(given.clock)
    for line in measure(given):
        print(json.dumps(asdict(line)), flush=True)
