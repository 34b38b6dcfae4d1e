"""The benchmark compares like with like: its peers compute the same loss, and its table says what was measured.
Nothing here is timed."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from derta.benchmark.cases import Case, gpu, measure
from derta.benchmark.measure import Line, in_turn, with_peak
from derta.benchmark.suites import SUITES, BenchmarkRunConfig, as_table, write
from derta.benchmark.training import our_trainer, rows_of_epoch, trl_trainer
from derta.benchmark.workload import llama, miniature_rows, paper_mix, tokenizer
from derta.config.command import Command
from derta.errors import InputError


def test_the_ratio_is_that_of_neighbours_and_the_first_round_is_not_counted() -> None:
    """As slow again from round to round: of medians the ratio would be 2 / 5, of neighbours it is 1 / 2."""
    mine, theirs = iter([100.0, 1.0, 2.0, 4.0]), iter([1.0, 2.0, 5.0, 8.0])
    line = in_turn("a", "step", "ms", lambda: next(mine), lambda: next(theirs), 3, goal=0.5)
    assert line.samples == {"ours": [1.0, 2.0, 4.0], "peer": [2.0, 5.0, 8.0]}
    assert (line.ours, line.peer, line.ratio, line.met) == (2.0, 5.0, 0.5, True)


@pytest.mark.parametrize(
    ("ratio", "at_least", "met"), [(1.0, False, True), (1.1, False, False), (1.1, True, True), (None, True, None)]
)
def test_goals(ratio: float | None, at_least: bool, met: bool | None) -> None:
    assert Line("a", "x", "s", 1.0, 1.0, ratio=ratio, goal=1.05, at_least=at_least).met is met


def test_peak_memory_sees_what_was_freed_again() -> None:
    assert 120 < with_peak(lambda: torch.ones(32 << 20).sum())[1] < 200  # 128 MiB


def test_table_and_files(tmp_path: Path) -> None:
    lines = [Line("b", "rows", "rows/s", 1234.4, 500.0, "naive loop", 2.4688, 2.0, at_least=True, note="lengths x 1")]
    row = "| b | rows (lengths x 1) | 1,234 rows/s | 500 (naive loop) | 2.47 | >= 2 | met |"
    assert row in re.sub(" +", " ", as_table(lines))
    write(lines, {"torch": "2"}, "python launch/benchmark.py", tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert stored["lines"][0]["met"] is True and stored["machine"] == {"torch": "2"}
    assert row in re.sub(" +", " ", (tmp_path / "out" / "benchmark.md").read_text())


def test_suites_exist() -> None:
    assert BenchmarkRunConfig().suites == [name for name in SUITES if name != "gpu"]
    assert BenchmarkRunConfig(suite=["memory"]).suites == ["memory"]
    [problem] = BenchmarkRunConfig(suite=["training", "nothing"]).problems()
    assert problem.startswith("suite=[training,nothing]: expected [all], or some of [training,memory,")
    for place in SUITES.values():
        module, function = place.split(".")
        assert callable(getattr(importlib.import_module(f"derta.benchmark.{module}"), function))
    for wrong in ({"size": "tiny"}, {"suite": ["gpu"], "model": "some/model"}):
        assert len(BenchmarkRunConfig(**wrong).problems()) == 1


def test_words_without_a_value_are_refused() -> None:
    with pytest.raises(InputError, match="gpu"):
        Command("benchmark", BenchmarkRunConfig).answer(["gpu"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_suite_of_a_gpu_needs_one() -> None:
    with pytest.raises(InputError, match="size=tiny runs the same code on a CPU"):
        list(gpu(BenchmarkRunConfig(suite=["gpu"])))


def test_a_case_of_the_suite_of_a_gpu(tmp_path: Path) -> None:
    """What runs there with 8B parameters, with 100k on any machine: every line, and the table of kernels."""
    tiny = {"vocabulary": 1280, "hidden": 32, "layers": 1}
    case = Case("j", "LoRA", tiny, lora=True, flattened=True, micro=4, steps=3, rounds=1, scale=0.05, packed=128)
    case.peak_flops, case.kernels = 1e12, str(tmp_path / "kernels" / "LoRA.txt")
    lines = {line.what.removeprefix("LoRA: "): line for line in measure(case)}
    assert list(lines) == [
        "first pass", "peak memory", "rate", "MFU", "training, against TRL", "peak memory of TRL",
        "training, against TRL at its best", "peak memory of TRL at its best",
    ]  # fmt: skip
    assert "aten::mm" in Path(case.kernels).read_text() and 0 < lines["MFU"].ours < 1
    assert 0 < lines["peak memory"].peer < 1 and lines["training, against TRL"].ratio > 0  # GiB, planned


def naive_loss(model: Any, rows: list[dict[str, list[int]]]) -> Any:
    """Mean nll over the supervised tokens of one micro-batch, row by row."""
    losses = []
    for row in rows:
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])[1:]
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100])
    return torch.cat(losses).mean()


def test_peers_train_on_the_same_batch(tmp_path: Path) -> None:
    """Loss of one step: DeRTaTrainer, TRL's trainer on the rows made ready, and the naive loop."""
    rows = miniature_rows(8)
    ours = our_trainer(llama(len(tokenizer())), rows, str(tmp_path / "ours"), 1, logging_steps=1)
    ready = rows_of_epoch(ours)
    theirs = trl_trainer(llama(len(tokenizer())), ready, str(tmp_path / "trl"), 1, logging_steps=1)
    naive = float(naive_loss(llama(len(tokenizer())), ready[:8]).detach())
    losses = [trainer.train().training_loss for trainer in (ours, theirs)]
    assert losses == pytest.approx([naive, naive], rel=1e-5)


def test_the_papers_mix_has_its_share_of_triples() -> None:
    rows = paper_mix(63, scale=0.05)
    assert sum(row["rejected"] is not None for row in rows) == 3
    assert rows == paper_mix(63, scale=0.05)
