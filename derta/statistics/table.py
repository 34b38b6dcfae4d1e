"""One engine for every table of runs x measures: reports, sweeps, diagnostics, comparisons and model cards.

    runs of an arm --Measure.of--> a value per run --combine--> Estimate      tabulate: measure -> arm -> Estimate
    a text per cell --markdown--> | ... |

Shares are from 0 to 1 in all numbers and in per cent in all texts; the others are in nats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

Cell = TypeVar("Cell")
Unit = Literal["%", "nats"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its standard deviation between runs and an interval; each null where it is not known. unit: in which
    it is shown."""

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    unit: Unit = field(default="%", kw_only=True)

    @property
    def off_zero(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self, *, spread: bool = True, interval: bool = True, sign: str = "") -> str:
        """In its unit, `25.0 ± 3.1 [20.2, 29.8]`; "-" where nothing is known. sign: "+" for differences."""
        if self.mean is None:
            return "-"
        scale, digits = (100, 1) if self.unit == "%" else (1, 3)
        parts = [f"{scale * self.mean:{sign}.{digits}f}"]
        if spread and self.sd is not None:
            parts.append(f"± {scale * self.sd:.{digits}f}")
        if interval and self.low is not None and self.high is not None:
            parts.append(f"[{scale * self.low:{sign}.{digits}f}, {scale * self.high:{sign}.{digits}f}]")
        return " ".join(parts)


class Measure(Protocol):
    """`of` gives its value for one run; None where the run has no such thing."""

    def of(self, run: Any, /) -> Any: ...


M = TypeVar("M", bound=Measure)


def tabulate(
    arms: Mapping[str, Sequence[Any]], measures: Iterable[M], combine: Callable[[list[Any]], Cell]
) -> dict[M, dict[str, Cell]]:
    """Measure -> arm -> what `combine` makes of the values of its runs."""
    return {
        measure: {arm: combine([measure.of(run) for run in runs]) for arm, runs in arms.items()} for measure in measures
    }


def markdown(lines: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table that also reads well in a terminal. The first line holds the titles, the first `left` columns
    names, the others numbers. What would end a cell is escaped, and a line break becomes a space."""
    rows = [[_escaped(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width if n < left else "-" * (width - 1) + ":" for n, width in enumerate(widths)])

    def line(cells: Sequence[str]) -> str:
        padded = (c.ljust(w) if n < left else c.rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, rows))


def _escaped(cell: Any) -> str:
    return " ".join(str(cell).splitlines()).replace("\\", "\\\\").replace("|", "\\|")
