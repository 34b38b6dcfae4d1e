import shlex
from pathlib import Path

from derta.evaluation.provenance import shown_command, shown_path


def test_commands_lose_absolute_paths_and_keep_everything_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = Path(tmp_path.anchor) / "data" / "me" / "models" / "base"
    arguments = [str(tmp_path / "launch" / "evaluate.py"), f"model.name_or_path={outside}", "eval.batch_size=64"]
    arguments += [f"runs=[{outside},{tmp_path}/b]", "hub=owner/name", "output_dir=runs/a"]
    assert shown_command(arguments) == (
        "launch/evaluate.py model.name_or_path=base eval.batch_size=64 'runs=[base,b]' hub=owner/name output_dir=runs/a"
    )
    # A shell takes a recorded command back.
    arguments = [
        "launch/evaluate.py",
        "eval.judging.endpoint.url=http://127.0.0.1:8000/v1",
        'label="a, b"',
        "x='$HOME|y'",
    ]
    assert shlex.split(shown_command(arguments)) == arguments
    models = f"models={{a:{tmp_path}/runs/a,b:[/somewhere/else/b]}}"
    assert shlex.split(shown_command(["x.py", models]))[1] == "models={a:runs/a,b:[b]}"
    assert shown_path(str(tmp_path / "runs" / "a")) == "runs/a"
    assert shown_path("owner/name") == "owner/name"
    assert shown_path(str(tmp_path.parent / "elsewhere" / "model")) == "model"
