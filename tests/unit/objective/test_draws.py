"""Draws: their distribution, and that they depend on (seed, epoch, id, copy) and on nothing else."""

import subprocess
import sys

import numpy as np
import pytest

from derta.objective.draws import kept_positions, prefix_length

# Upper 0.1 % points of chi-square (degrees of freedom -> quantile): a right sampler fails one time in a thousand, and
# the draws here are fixed, so the outcome never changes.
CHI_SQUARE_999 = {7: 24.32, 12: 32.91, 40: 73.40}
DRAWS = 20_000


def chi_square(observed: list[int], expected: list[float]) -> float:
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))


@pytest.mark.parametrize("longest", [7, 12, 40])
@pytest.mark.parametrize("vary", ["id", "epoch", "seed"])
def test_k_is_uniform_over_zero_to_longest(longest, vary):
    def draw(i: int) -> int:
        names = {"seed": 3, "epoch": 0, "example_id": "row"}
        names["example_id" if vary == "id" else vary] = f"row-{i}" if vary == "id" else i
        return prefix_length(longest, **names)

    observed = np.bincount([draw(i) for i in range(DRAWS)], minlength=longest + 1).tolist()
    assert len(observed) == longest + 1
    assert chi_square(observed, [DRAWS / (longest + 1)] * (longest + 1)) < CHI_SQUARE_999[longest]


def test_zero_fraction_is_mixed_into_the_uniform_draw():
    """P(k = 0) = 1/3 + 2/3 * 1/8 = 10/24 and P(k) = 2/3 * 1/8 = 2/24 for k = 1..7."""
    drawn = [prefix_length(7, seed=3, epoch=0, example_id=str(i), zero_fraction=1 / 3) for i in range(DRAWS)]
    observed = np.bincount(drawn, minlength=8).tolist()
    assert chi_square(observed, [DRAWS * 10 / 24] + [DRAWS * 2 / 24] * 7) < CHI_SQUARE_999[7]


def test_ends_of_the_zero_fraction():
    names = {"seed": 1, "epoch": 2}
    assert {prefix_length(5, example_id=str(i), zero_fraction=1.0, **names) for i in range(500)} == {0}
    assert {prefix_length(5, example_id=str(i), zero_fraction=0.0, **names) for i in range(500)} == set(range(6))
    assert {prefix_length(0, example_id=str(i), **names) for i in range(50)} == {0}


@pytest.mark.parametrize("changed", [{"seed": 4}, {"epoch": 1}, {"example_id": "other"}, {"copy": 1}])
def test_every_name_matters_and_nothing_else_does(changed):
    names = {"seed": 3, "epoch": 0, "example_id": "row", "copy": 0}
    longest = 10**6
    first = prefix_length(longest, **names)
    np.random.seed(0)  # global generators have no say
    assert prefix_length(longest, **names) == first
    assert prefix_length(longest, **{**names, **changed}) != first
    kept = kept_positions(200, dropout=0.5, **names)
    assert (kept_positions(200, dropout=0.5, **names) == kept).all()
    assert (kept_positions(200, dropout=0.5, **{**names, **changed}) != kept).any()
    # Names are separated in the hash: epoch 1 of "12" is not epoch 11 of "2", run together.
    first = prefix_length(10**9, seed=1, epoch=1, example_id="12")
    assert first != prefix_length(10**9, seed=1, epoch=11, example_id="2")


def test_same_in_another_process():
    """Python's own hash() is salted per process; these draws are not."""
    code = (
        "from derta.objective.draws import prefix_length, kept_positions as kept\n"
        "print(prefix_length(10**6, seed=3, epoch=2, example_id='é-1'), "
        "kept(8, dropout=0.5, seed=3, epoch=2, example_id='é-1').tolist())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    here = prefix_length(10**6, seed=3, epoch=2, example_id="é-1")
    kept = kept_positions(8, dropout=0.5, seed=3, epoch=2, example_id="é-1").tolist()
    assert runs == [f"{here} {kept}"] * 2


def test_kept_positions_without_dropout_are_all_and_none_are_no_error():
    assert kept_positions(7, dropout=0.0, seed=1, epoch=1, example_id="a").tolist() == [True] * 7
    assert kept_positions(0, dropout=0.5, seed=1, epoch=0, example_id="a").shape == (0,)


def test_kept_positions_have_the_right_rate():
    """Of 100 x 400 positions each is kept with 0.05: standard deviation sqrt(.05 * .95 / 40000) = 0.0011."""
    kept = [kept_positions(400, dropout=0.95, seed=1, epoch=0, example_id=str(i)) for i in range(100)]
    assert abs(np.mean(kept) - 0.05) < 4 * 0.0011
    by_position = np.sum(kept, axis=0)
    assert by_position[:200].sum() > 0.8 * by_position[200:].sum() > 0.6 * by_position[:200].sum()


@pytest.mark.parametrize("length", [1, 2, 9])
def test_never_zero_positions(length):
    """With dropout 0.999 nearly every row would lose all; the one that is kept is uniform too."""
    kept = [kept_positions(length, dropout=0.999, seed=1, epoch=0, example_id=str(i)) for i in range(2000)]
    assert all(row.any() for row in kept)
    assert all(count > 2000 / length / 2 for count in np.sum(kept, axis=0))
