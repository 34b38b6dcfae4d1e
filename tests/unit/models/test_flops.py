"""FLOPs of a step, counted by hand for a model small enough."""

import pytest
from peft import LoraConfig, get_peft_model

from derta.config.plan import Device
from derta.models.devices import GPUS, known_peak
from derta.models.flops import ModelFlops, device_peak

# The tiny Llama of the tests: hidden 32, MLP 48, 2 layers, 4 heads of 8, 2 key-value heads, norms of 32.
LAYER = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
BODY, HEAD = 2 * LAYER + 32, 32 * 400
ATTENTION = 12 * 2 * 32


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_counts_six_times(tied, tiny_model):
    """A tied embedding is looked up and multiplied: it counts as the head that it is."""
    flops = ModelFlops.of(tiny_model("llama", 400, tied=tied))
    assert flops == ModelFlops(per_token=6 * BODY, per_supervised=6 * HEAD, per_square=ATTENTION)
    assert flops.total(tokens=10, supervised=3, squares=52) == 60 * BODY + 18 * HEAD + 52 * ATTENTION


def test_frozen_weights_have_no_gradient_of_their_own(tiny_model):
    model = get_peft_model(tiny_model("llama", 400), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = 2 * (32 * 2 + 2 * 32)
    assert ModelFlops.of(model) == ModelFlops(4 * BODY + 6 * adapter, 4 * HEAD, ATTENTION)


def test_a_reference_goes_forward_only(tiny_model):
    """Two FLOPs per weight and token instead of six; with the policy's, eight."""
    model = tiny_model("llama", 400)
    reference = ModelFlops.of(model, forward_only=True)
    assert reference == ModelFlops(2 * BODY, 2 * HEAD, ATTENTION / 3)
    assert ModelFlops.of(model) + reference == ModelFlops(8 * BODY, 8 * HEAD, ATTENTION * 4 / 3)


def test_experts_count_as_far_as_a_token_meets_them(tiny_model):
    """Two of four experts."""
    model = tiny_model("mixtral", 400)
    experts = sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    others = sum(weight.numel() for weight in model.parameters()) - experts - 2 * HEAD
    assert experts == 2 * 4 * 3 * 32 * 48
    assert ModelFlops.of(model).per_token == 6 * (others + experts / 2)


def test_the_figure_of_a_device():
    assert device_peak(5e12, sixteen_bit=False) == 5e12, "what is configured counts everywhere"
    assert device_peak(None, sixteen_bit=False) is None, "the data sheets' figures are those of 16 bit"
    assert known_peak("NVIDIA H100 PCIe") < known_peak("NVIDIA H100 80GB HBM3") == known_peak("NVIDIA H200") == 989e12
    assert known_peak("NVIDIA GB200") > known_peak("NVIDIA B200") > known_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert known_peak("Some Other GPU") is None
    names = {
        Device.a100: "NVIDIA A100-SXM4-80GB", Device.h200: "NVIDIA H200", Device.b200: "NVIDIA B200",
        Device.l40s: "NVIDIA L40S", Device.rtx4090: "NVIDIA GeForce RTX 4090", Device.mi300x: "AMD Instinct MI300X",
    }  # fmt: skip
    for device, name in names.items():
        assert GPUS[device].peak == known_peak(name), "plans and mfu mean the same"
    assert GPUS.keys() == set(Device)
