"""Compiled layers and adapters without float32 compute what the plain path computes; what a machine cannot run is
refused before a model is read."""

from typing import Any

import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from derta.config import DataConfig, ModelConfig, TrainerConfig, TrainRunConfig
from derta.errors import InputError
from derta.training.kernels import COMPILED, CompiledLayers, check_kernels, fuse, leave_inputs

STEPS = 5


class Lines(TrainerCallback):
    """What the callbacks behind others are told of each log line."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
        self.seen.append(dict(logs))


def curves(trainer: Any) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step."""
    trainer.train()
    return [(line["loss"], line["grad_norm"]) for line in trainer.state.log_history if "loss" in line]


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "max_steps": STEPS, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "change"),
    [
        ("aot_eager", {}),  # all of the compiler but the code it writes
        pytest.param("aot_eager", {"activation_checkpointing": True, "padding_free": True}, marks=pytest.mark.slow),
        pytest.param("inductor", {}, marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_compute_the_same(backend, change, tiny_trainer, tmp_path):
    """Two layers share their graphs, and new lengths take none; a run that goes on in the middle is equal to the last
    bit; and the names of the weights are those of the model."""
    plain = curves(tiny_trainer(**settings(**change)))
    arguments = settings(**change, save_strategy="steps", save_steps=2)
    lines = Lines()
    trainer = tiny_trainer(**arguments, more={"callbacks": [CompiledLayers(backend), lines]})
    names = list(trainer.model.state_dict())
    compiled = curves(trainer)
    assert compiled == [pytest.approx(step, rel=1e-5) for step in plain]
    graphs = [line[COMPILED] for line in lines.seen if "loss" in line]
    assert len(graphs) == STEPS and 1 <= graphs[0] <= graphs[-1] <= 4
    assert list(trainer.model.state_dict()) == names

    again = tiny_trainer(**arguments, more={"callbacks": [CompiledLayers(backend)]})
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


class Copies(TorchDispatchMode):
    """Counts casts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


def test_adapters_leave_their_input_as_it_is(tiny_model):
    """Below a bfloat16 autocast: the same loss and gradients to the last bit, and at least two casts fewer (to
    float32 and back) for each of 14 adapted layers. Without one, as in `generate`, they are cast."""
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(tiny_model("llama", 300).to(torch.bfloat16), lora)
    ids = torch.arange(120).reshape(3, 40)
    found = []
    for leave in (False, True):
        if leave:
            leave_inputs(model)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), Copies() as copies:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        found.append((loss.detach(), gradients, copies.count))
    (loss, gradients, before), (same_loss, same_gradients, after) = found
    assert torch.equal(loss, same_loss) and len(gradients) == len(same_gradients) == 28
    assert all(map(torch.equal, gradients, same_gradients))
    assert before - after >= 2 * 14
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_what_this_machine_cannot_run_is_refused(monkeypatch, tiny_model):
    check_kernels(TrainerConfig())
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="trainer.liger=true: .* there is none: set it to false"):
            check_kernels(TrainerConfig(liger=True))
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(InputError, match=r"trainer.compile=true needs a C\+\+ compiler"):
            check_kernels(TrainerConfig(compile=True))
    config = TrainRunConfig(model=ModelConfig(name_or_path="base"), data=DataConfig(path="data"), output_dir="run")
    config.trainer.compile, config.objective.ablation.probability, config.distributed.fsdp2 = True, 0.5, True
    ablated, sharded = config.problems()
    assert "compiled layers would not see the ablation" in ablated and "not tried with FSDP2: turn" in sharded
    model = tiny_model("llama", 50)
    model._no_split_modules = None
    with pytest.raises(InputError, match="LlamaForCausalLM does not name its layers"):
        CompiledLayers().on_train_begin(model=model)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
def test_ligers_kernels_compute_the_same(family, tiny_trainer, tiny_model):
    pytest.importorskip("liger_kernel")
    plain, fused = (tiny_trainer(family=family, **settings(use_cpu=False)) for _ in range(2))
    with pytest.raises(InputError, match="Liger has no kernels for models of type 'opt'"):
        fuse(tiny_model("opt", 50))
    expected = curves(plain)  # first: Liger's rotary embedding is that of the whole process
    fuse(fused.model)
    assert curves(fused) == [pytest.approx(step, rel=1e-3) for step in expected]
