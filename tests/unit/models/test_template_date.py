"""Chat templates that write today's date: one day for a piece of work, whatever the clock says when it goes on."""

import copy
import importlib.resources
import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from derta.config.evaluation import JudgeRunConfig
from derta.config.judging import JudgingConfig
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models import run_date, template_date
from derta.models.conversation import ConversationCutter
from derta.models.load import load_tokenizer
from derta.models.run_date import settle_dates, taught_date
from derta.models.template_date import fix_date

ASKED = [{"role": "user", "content": "question"}]
LLAMA = (importlib.resources.files("trl") / "chat_templates" / "llama3_2.jinja").read_text(encoding="utf-8")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """clock(day): what day it is from now on."""

    def turn(day: str) -> None:
        class Day(date):
            @classmethod
            def today(cls) -> date:
                return date.fromisoformat(day)

        for module in (run_date, template_date):
            monkeypatch.setattr(module, "date", Day)

    return turn


@pytest.fixture
def dated(llama3_tokenizer: Any) -> Any:
    tokenizer = copy.deepcopy(llama3_tokenizer)
    tokenizer.chat_template = LLAMA
    return tokenizer


@pytest.fixture
def model(dated: Any, tiny_model: Any, tmp_path: Path) -> ModelConfig:
    tiny_model("llama", len(dated)).save_pretrained(tmp_path / "model")
    dated.save_pretrained(tmp_path / "model")
    return ModelConfig(name_or_path=str(tmp_path / "model"))


def test_the_first_day_stays(dated, clock, caplog):
    clock("2026-02-27")
    with caplog.at_level(logging.INFO):
        before = ConversationCutter(dated).prompt_text(ASKED)
    assert "Today Date: 27 Feb 2026" in before
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template writes today's date: it is 2026-02-27 throughout this run (model.template_date)"
    ]
    clock("2026-02-28")
    assert ConversationCutter(dated).prompt_text(ASKED) == before
    assert ConversationCutter(dated).cut(ASKED, [{"role": "assistant", "content": "Sure."}]).prompt == (
        ConversationCutter(dated).prompt_ids(ASKED)
    )
    assert dated.chat_template == LLAMA, "what is saved with the model still asks for the day"


def test_a_day_can_be_chosen(model):
    model.template_date = "2024-07-26"
    assert "26 Jul 2024" in ConversationCutter(load_tokenizer(model)).prompt_text(ASKED)
    (problem,) = ModelConfig(name_or_path="x", template_date="26 Jul").problems("model")
    assert problem.startswith("model.template_date=") and "a day as YYYY-MM-DD" in problem


def test_a_day_for_a_template_without_one_is_said_to_do_nothing(model, caplog):
    Path(model.name_or_path, "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    model.template_date = "2024-07-26"
    load_tokenizer(model)
    assert "the chat template writes no date" in caplog.text
    assert settle_dates(model) == {} and fix_date(load_tokenizer(model)) is None


def test_a_date_in_a_form_that_is_computed_is_refused(dated):
    dated.chat_template = "{% set form = '%Y' + '-%m' %}{{ strftime_now(form) }}{{ messages[0]['content'] }}"
    with pytest.raises(InputError, match="write the form into the call"):
        ConversationCutter(dated).prompt_text(ASKED)


def test_which_day_it_is(model, clock, tmp_path):
    """Chosen, else recorded by the work's own file, else what the model was taught with, else today."""
    folder = Path(model.name_or_path)
    clock("2026-02-27")
    assert settle_dates(ModelConfig(name_or_path=str(folder))) == {"template_date": "2026-02-27"}
    (folder / "derta_config.json").write_text(json.dumps({"template_date": "2026-02-20"}))
    assert settle_dates(ModelConfig(name_or_path=str(folder))) == {"template_date": "2026-02-20"}
    (tmp_path / "made.json").write_text(json.dumps({"identity": {"template_date": "2026-02-21"}}))
    config = JudgeRunConfig(judging=JudgingConfig(model=ModelConfig(name_or_path=str(folder))))
    assert settle_dates(config, tmp_path / "made.json") == {"template_date": "2026-02-21"}
    assert config.judging.model.template_date == "2026-02-21"
    chosen = ModelConfig(name_or_path=str(folder), template_date="2026-02-22")
    assert settle_dates(chosen, tmp_path / "made.json") == {"template_date": "2026-02-22"}
    assert settle_dates(chosen, recorded="2026-02-21") == {"template_date": "2026-02-22"}


def test_the_day_of_checkpoints(tmp_path):
    assert taught_date(tmp_path) is None
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "derta_config.json").write_text(json.dumps({"template_date": "2026-02-20"}))
    assert taught_date(tmp_path) == "2026-02-20"
