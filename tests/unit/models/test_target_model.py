import json
import shutil

import pytest
import torch

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attack
from derta.models.fingerprint import adapter_base, fingerprint
from derta.models.generation import generate
from derta.models.target import load_target


@pytest.fixture(scope="module")
def adapter_dir(model_dir, tmp_path_factory):
    """A LoRA adapter whose B matrices are not zero, so that it changes what the model says."""
    from peft import LoraConfig, get_peft_model

    model = load_target(ModelConfig(name_or_path=str(model_dir)), device="cpu").model
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    path = tmp_path_factory.mktemp("adapters") / "lora"
    adapted.save_pretrained(path)
    return path


def load(path, **settings):
    return load_target(ModelConfig(name_or_path=str(path), **settings), device="cpu")


def test_adapter_is_loaded_on_its_base_with_its_tokenizer(adapter_dir, model_dir, harmful_rows):
    from peft import PeftModel

    adapter, base = load(adapter_dir), load(model_dir)
    assert isinstance(adapter.model, PeftModel)
    item = build_attack("direct").inputs(harmful_rows[:1], adapter, "harmful").inputs[0]
    ids = torch.tensor([list(item.token_ids)])
    with torch.inference_mode():
        peft_model = PeftModel.from_pretrained(load(model_dir).model, str(adapter_dir))
        merged = peft_model.merge_and_unload()(input_ids=ids).logits
        logits = adapter.model(input_ids=ids).logits
        assert not torch.allclose(logits, base.model(input_ids=ids).logits, atol=1e-3)
    torch.testing.assert_close(logits, merged, atol=1e-4, rtol=1e-4)
    assert len(generate(adapter, [item], max_new_tokens=4)[0].token_ids) == 4


def test_adapter_without_its_base_names_both(adapter_dir, tmp_path):
    copy = shutil.copytree(adapter_dir, tmp_path / "lora")
    config = json.loads((copy / "adapter_config.json").read_text())
    for base, expected in (("runs/gone/base", "runs/gone/base, which is not here"), (None, "names no base_model")):
        (copy / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(InputError, match=expected):
            load(copy)


def test_a_base_that_was_a_directory_is_never_asked_of_the_hub(adapter_dir, tmp_path, monkeypatch):
    """The same name may be somebody's on the hub: from another working directory it is another model."""
    copy = shutil.copytree(adapter_dir, tmp_path / "lora")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "models/base"}))
    monkeypatch.chdir(tmp_path)
    assert adapter_base(copy) == "models/base", "of an adapter of others it may be a hub id"
    (copy / "derta_config.json").write_text(json.dumps({"base_was_directory": True}))
    with pytest.raises(InputError, match="models/base, which is not here"):
        adapter_base(copy)


def test_a_directory_that_is_no_model_is_refused(tmp_path, model_dir):
    with pytest.raises(InputError, match="no such directory"):
        load(tmp_path / "gone")
    with pytest.raises(InputError, match="neither config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no weights"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(InputError, match="only pickled weights"):
        load(tmp_path)


def test_fingerprint_changes_with_weights_tokenizer_and_base_and_not_with_the_place(model_dir, adapter_dir, tmp_path):
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    before = fingerprint(str(model_dir))
    assert fingerprint(str(copy)) == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = fingerprint(str(copy))
    assert changed != before
    (copy / "chat_template.jinja").write_text("other")
    assert fingerprint(str(copy)) not in (before, changed)

    adapter = shutil.copytree(adapter_dir, tmp_path / "lora")
    config = json.loads((adapter / "adapter_config.json").read_text())
    prints = set()
    for base in (model_dir, copy):
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
        prints.add(fingerprint(str(adapter)))
    assert len(prints) == 2


def test_large_weight_files_are_sampled_from_start_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr("derta.models.fingerprint._WHOLE_FILE", 1000)
    monkeypatch.setattr("derta.models.fingerprint._SAMPLE", 10)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    content = bytearray(5000)
    prints = set()
    for place in (None, 0, 4999):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        weights.write_bytes(changed)
        prints.add(fingerprint(str(tmp_path)))
    assert len(prints) == 3
