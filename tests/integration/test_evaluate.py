"""launch/evaluate.py and launch/report.py on a real (untrained) miniature model: resume, ranks, bad input."""

import json
import os
import random
import re
import shutil
import signal
from html import unescape
from pathlib import Path

import pytest
from training_cases import REPOSITORY, wait_until

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, JudgeName, PromptSetConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat
from derta.data.build import build
from derta.data.recipe import load_recipe
from derta.errors import InputError
from derta.evaluation.measures import measures
from derta.evaluation.ranks import Ranks
from derta.evaluation.suite import evaluate
from derta.evaluation.summary import read_summary
from derta.miniature.model import write_fresh_model
from derta.miniature.rows import generate

ATTACKS = ["direct", "prefill_5", "prefill_40", "completion", "code", "role_play", "cipher"]
LINES = 6 * len(ATTACKS) + 6 * 2 + 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with model, other_model and data (6 rows of each prompt set)."""
    place = tmp_path_factory.mktemp("evaluate")
    write_fresh_model(place / "model", seed=0)
    write_fresh_model(place / "other_model", seed=1)
    build(load_recipe("miniature_eval", REPOSITORY / "data_recipes"), place / "data", limit=6)
    return place


def make_config(place: Path, output: str, model: str = "model", **eval_settings) -> EvaluateRunConfig:
    sets = {
        "harmful": PromptSetConfig(source="eval_harmful", harmful=True, attacks=ATTACKS),
        "benign": PromptSetConfig(source="eval_benign", attacks=["direct", "code"]),
        "borderline": PromptSetConfig(source="eval_borderline"),
    }
    settings = dict(path=str(place / "data"), judge=JudgeName.miniature, sets=sets, batch_size=4, max_new_tokens=24)
    return EvaluateRunConfig(
        model=ModelConfig(name_or_path=str(place / model)),
        eval=EvaluationConfig(**(settings | eval_settings)),
        output_dir=str(place / output),
    )


def command_line(output: str, **overrides) -> list[str]:
    """The same evaluation for the command line, to be run in `place`."""
    settings = {
        "model.name_or_path": "model", "output_dir": output, "eval.path": "data", "eval.batch_size": 4,
        "eval.max_new_tokens": 24, "eval.sets.harmful.attacks": f"[{','.join(ATTACKS)}]",
        "eval.sets.benign.attacks": "[direct,code]",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in (settings | overrides).items()]


def read_results(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    for found in summary["sets"].values():
        found.pop("log_likelihood")  # see `means`
    return {key: summary[key] for key in ("identity", "sets", "separation")}


def means(folder: Path) -> dict:
    """The log-likelihoods, which other batches round otherwise."""
    found = json.loads((folder / "summary.json").read_text())["sets"]["harmful"]["log_likelihood"]
    return pytest.approx({depth + key: value for depth, mean in found.items() for key, value in mean.items()}, rel=1e-5)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """An evaluation that nothing interrupted."""
    evaluate(make_config(place, "whole"), Ranks())
    return place / "whole"


def test_results_hold_every_prompt_and_attack_once_in_order(whole):
    results = read_results(whole)
    assert len(results) == LINES
    assert [line["attack"] for line in results[: 6 * len(ATTACKS) : 6]] == ATTACKS
    assert len({(line["prompt_set"], line["attack"], line["id"]) for line in results}) == LINES
    answers = {row["id"]: row["rejected"][0]["content"] for row in generate("eval_harmful", 6, seed=42)}
    for line in (line for line in results if line["attack"] == "prefill_40"):
        assert line["prefill_tokens"] == 40
        assert os.path.commonprefix([line["response"], answers[line["id"]]]).count(" ") >= 30  # words of 40 tokens
    assert {file.name for file in whole.iterdir()} == {
        "evaluation.json", "results.jsonl", "summary.json", "probability.json"
    }  # fmt: skip
    summary = numbers(whole)
    for name, prompts in summary["sets"].items():
        for attack, cell in prompts["attacks"].items():
            lines = [line for line in results if (line["prompt_set"], line["attack"]) == (name, attack)]
            assert cell["n"] + cell["outcomes"]["unscored"] == len(lines) == 6
            assert cell["complied"]["count"] == sum(line["outcome"] == "complied" for line in lines)
            assert cell["refused"]["count"] == sum("refus" in line["outcome"] for line in lines)
    curves = json.loads((whole / "probability.json").read_text())["sets"]
    assert {name: curve["rows"] for name, curve in curves.items()} == {"harmful": 6, "benign": 6, "borderline": 6}
    assert curves["harmful"]["count"][0] == 6 and 0 < curves["harmful"]["mean"][0] < 1


def test_the_same_evaluation_again_does_no_work(place, whole):
    """It may be given another label."""
    before = {file: file.stat().st_mtime_ns for file in whole.iterdir()}
    summary = evaluate(make_config(place, "whole"), Ranks())
    assert summary == read_summary(whole)
    with pytest.raises(InputError, match="another evaluation") as error:
        evaluate(make_config(place, "whole", model="other_model"), Ranks())
    assert "model.sha256" in str(error.value)
    assert {file: file.stat().st_mtime_ns for file in whole.iterdir()} == before
    shutil.copytree(whole, place / "relabelled")
    config = make_config(place, "relabelled")
    config.label = "vanilla"
    assert evaluate(config, Ranks()).label == "vanilla"
    assert numbers(place / "relabelled") == numbers(whole)


def test_evaluation_killed_three_times_ends_with_the_same_results(place, whole, launch):
    """At random numbers of finished lines, a line torn in the middle each time; a new process each time, forked."""
    partial = place / "killed" / "results.partial-0.jsonl"
    kept = 0
    for at in sorted(random.Random(7).sample(range(4, LINES - 12), 3)):
        process = launch(command_line("killed"), script="evaluate", cwd=place)
        wait_until(lambda at=at: partial.exists() and partial.read_bytes().count(b"\n") >= at, log=process.log)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        content = partial.read_bytes()
        assert kept < content.count(b"\n") < LINES and not (place / "killed" / "summary.json").exists()
        partial.write_bytes(content[:-20])
        kept = content.count(b"\n") - 1

    evaluate(make_config(place, "killed"), Ranks())
    assert (place / "killed" / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert numbers(place / "killed") == numbers(whole)


def test_two_ranks_give_the_same_results_and_show_no_response(place, whole, launch_two):
    ranks = launch_two(command_line("ranks"), script="evaluate", cwd=place)
    assert ranks.wait() == [0, 0], ranks.output
    assert (place / "ranks" / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    assert numbers(place / "ranks") == numbers(whole)
    assert means(place / "ranks").expected == means(whole)
    assert "| attack success, prefill 40" in ranks.output
    page = (place / "ranks" / "report.html").read_text()
    for line in read_results(whole):
        if len(line["response"]) > 20:
            assert line["response"][:20] not in ranks.output + page
    for text in ((place / "ranks" / "summary.json").read_text(), page):
        assert str(place) not in text and str(REPOSITORY) not in text


def test_a_model_cut_across_two_processes_gives_the_same_results(place, whole, launch_two):
    """Tensor parallel: each process holds half of every layer, and both do all of the prompts together."""
    words = command_line("cut", **{"eval.placement": "tensor_parallel"})
    ranks = launch_two(words, script="evaluate", cwd=place)
    assert ranks.wait() == [0, 0], ranks.output
    assert (place / "cut" / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()
    cut, alone = numbers(place / "cut"), numbers(whole)
    assert cut["sets"] == alone["sets"]
    assert means(place / "cut").expected == means(whole)
    assert cut["separation"]["all"]["auroc"] == pytest.approx(alone["separation"]["all"]["auroc"], abs=1e-3)


def test_a_model_laid_out_by_device_map_gives_the_same_results(place, whole):
    """On a CPU there is one device to lay it out on; the way there is the same."""
    evaluate(make_config(place, "laid_out", placement="device_map"), Ranks())
    assert (place / "laid_out" / "results.jsonl").read_bytes() == (whole / "results.jsonl").read_bytes()


def test_a_placement_that_cannot_be_is_refused(place, monkeypatch):
    with pytest.raises(InputError, match="there is one: start it with torchrun"):
        evaluate(make_config(place, "refused", placement="tensor_parallel"), Ranks())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process, and torchrun started 2"):
        evaluate(make_config(place, "refused", placement="device_map"), Ranks())
    assert not (place / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sets": {"harmful": PromptSetConfig(source="gone")}}, "no rows in .*source=gone; its sources are: eval_"),
        ({"sets": {"harmful": PromptSetConfig(attacks=["gone"])}}, "attack 'gone' does not exist"),
        ({"sets": {"harmful": PromptSetConfig(attacks=["prefill_900"])}}, "can use none of the rows"),
        ({"max_new_tokens": 4000}, "do not fit into the context of 512"),
        ({"refusal_token_ids": [3, 99999]}, r"eval.refusal_token_ids=\[3, 99999\]: expected one id"),
        ({"path": "nowhere"}, "nowhere"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing_behind(place, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(make_config(place, "refused", **settings), Ranks())
    (place / "empty.jsonl").write_text("")
    prompts = PromptSetConfig(path=str(place / "empty.jsonl"), format=PromptFormat.preference)
    with pytest.raises(InputError, match="empty.jsonl"):
        evaluate(make_config(place, "refused", sets={"harmful": prompts}), Ranks())
    assert not (place / "refused").exists()


def test_a_refusal_text_that_cannot_be_used_ends_nothing(place, caplog):
    sets = {"benign": PromptSetConfig(source="eval_benign")}
    summary = evaluate(make_config(place, "unmeasured", refusal_text="I am afraid", sets=sets), Ranks())
    (said,) = [record.getMessage() for record in caplog.records if "P(refusal)" in record.getMessage()]
    assert said.startswith("P(refusal) is not measured: eval.refusal_text='I am afraid' starts with 'I'")
    assert (summary.separation, summary.identity.refusal_text, summary.identity.refusal_ids) == (None, None, None)
    assert not (place / "unmeasured" / "probability.json").exists()
    assert not any("AUROC" in str(line) for line in measures([summary]))


def test_command_line_reports_every_mistake_at_once_and_exits_with_2(command):
    words = command_line("refused", **{"eval.batch_size": 0, "eval.sets.benign.attacks": "[]", "label": "x"})
    done = command(REPOSITORY / "launch" / "evaluate.py", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("eval.batch_size=0", "eval.sets.benign.attacks=[]: expected a list of attacks"):
        assert part in done.stderr


def test_report_of_two_models_from_the_command_line(place, whole, command):
    evaluate(make_config(place, "other", model="other_model"), Ranks())
    runs = f"runs=[{place / 'whole'},{place / 'other'}]"
    done = command(REPOSITORY / "launch" / "report.py", runs, f"output={place / 'report'}", "responses=true")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("| %") and " model |" in done.stdout and "other_model |" in done.stdout
    assert {file.name for file in (place / "report").iterdir()} == {
        "report.html", "report.md", "trade_off.png", "refusal_positions.png", "refusal_probability.png"
    }  # fmt: skip
    page = (place / "report" / "report.html").read_text()
    texts = [line["response"] for line in read_results(whole)]
    shown = [unescape(re.sub("<.*?>", "", found)) for found in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    assert set(texts) <= set(shown)
    assert "holds the texts of the responses" in done.stdout


def test_an_evaluation_that_goes_on_on_another_day(place, tmp_path, monkeypatch):
    """With a template that writes today's date: the first day stands in the identity and is used again."""
    from datetime import date

    from derta.models import run_date

    dated = tmp_path / "model"
    shutil.copytree(place / "model", dated)
    template = dated / "chat_template.jinja"
    template.write_text("{{ '<|system|>' + strftime_now('%B') }}" + template.read_text())

    def config(output: str, **model) -> EvaluateRunConfig:
        made = make_config(place, output, sets={"benign": PromptSetConfig(source="eval_benign")})
        made.model = ModelConfig(name_or_path=str(dated), **model)
        return made

    first = evaluate(config("first_day"), Ranks())
    assert first.identity.template_date == date.today().isoformat()

    class NextMonth(date):
        @classmethod
        def today(cls) -> date:
            return date.fromordinal(date.today().toordinal() + 31)

    monkeypatch.setattr(run_date, "date", NextMonth)
    for name in ("summary.json", "results.jsonl"):
        (place / "first_day" / name).unlink()
    again = evaluate(config("first_day"), Ranks())
    assert (again.identity, again.sets, again.separation) == (first.identity, first.sets, first.separation)
    other = evaluate(config("next_month"), Ranks())
    assert other.identity.template_date == NextMonth.today().isoformat()
    with pytest.raises(InputError, match="template_date"):
        evaluate(config("first_day", template_date="2020-01-01"), Ranks())
