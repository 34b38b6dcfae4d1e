"""Two nodes, one rank each, that find one another by torchrun's rendezvous; ZeRO-3 checkpoints as plain directories."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_cases import ENVIRONMENT, TRAIN, metrics, says_text

from derta.config import Dtype
from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.release.export import export


@pytest.fixture(scope="module")
def two_nodes(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `torchrun --nnodes 2`, started twice, as on two machines."""
    place = tmp_path_factory.mktemp("nodes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
        "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "derta", "--local_addr", "127.0.0.1",
        str(TRAIN),
        *arguments(place / "run", "distributed=zero3", "trainer.save_steps=2", "trainer.micro_batch_size=2"),
    ]  # fmt: skip
    logs = [(place / f"node{i}.log").open("wb") for i in range(2)]
    nodes = [subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT) for log in logs]
    codes = [node.wait(timeout=300) for node in nodes]
    outputs = [(place / f"node{i}.log").read_text() for i in range(2)]
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    assert not any(says_text(output) for output in outputs)
    return place / "run"


def test_both_nodes_train_one_model(two_nodes: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    """The same losses as one process: a rank that had trained alone would count half the tokens."""
    alone = train(tmp_path / "alone")
    for one, two in zip(metrics(alone)[:3], metrics(two_nodes)[:3], strict=True):
        assert (one["mle_tokens"], one["rto_tokens"]) == (two["mle_tokens"], two["rto_tokens"])
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert (two_nodes / "finished.json").is_file()


def test_zero_state_becomes_a_plain_directory(two_nodes, tmp_path, caplog):
    """As where stage3_gather_16bit_weights_on_model_save is off: only DeepSpeed's shards hold the weights."""
    run = tmp_path / "run"
    shutil.copytree(two_nodes, run)
    checkpoint = run / "checkpoint-2"
    gathered = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    result = export(ExportConfig(source=str(checkpoint), output=str(tmp_path / "full"), dtype=Dtype.float32))
    assert result.kind == "weights from ZeRO state" and result.difference == 0.0
    assert "DeepSpeed's pickles" in caplog.text
    plain = load_file(tmp_path / "full" / "model.safetensors")
    assert plain.keys() == gathered.keys()
    assert all(torch.equal(plain[name], gathered[name]) for name in gathered)
    kept = export(ExportConfig(source=str(checkpoint), output=str(tmp_path / "kept")))
    assert kept.dtype == json.loads((checkpoint / "derta_config.json").read_text())["dtype"] == "float32"
    half = export(ExportConfig(source=str(checkpoint), output=str(tmp_path / "half"), dtype=Dtype.bfloat16))
    assert half.dtype == "bfloat16" and half.difference <= half.tolerance
    shutil.move(checkpoint, tmp_path / "checkpoint-2")
    with pytest.raises(InputError, match=r"only from a complete checkpoint inside a run"):
        export(ExportConfig(source=str(tmp_path / "checkpoint-2"), output=str(tmp_path / "foreign")))
