"""Which rank a job waits for, told from what the ranks say."""

from derta.training.hangs import verdict


def at(step: int, phase: int) -> dict[str, object]:
    return {"place": f"step {step}, phase {phase}", "order": (step, phase), "still": 30}


def test_the_rank_that_is_behind_or_gives_no_answer() -> None:
    said = verdict({0: at(4, 1), 1: at(3, 3), 2: at(4, 1)}, 3)
    assert said.startswith("the job hangs: the others wait for rank 1 (distributed.timeout_minutes)")
    assert "  rank 1: step 3, phase 3, for 30 s" in said
    said = verdict({0: at(4, 1), 1: at(3, 3)}, 3)  # a silent one comes before one that is behind
    assert said.startswith("the job hangs: the others wait for rank 2")
    assert "  rank 2: no answer (stopped, or its machine is gone)" in said
    assert verdict({0: at(4, 1), 1: at(4, 1)}, 2).startswith("the job hangs, all ranks at the same place")
