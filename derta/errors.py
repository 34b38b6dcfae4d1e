"""What ends a run on purpose: input the user can fix, a signal, a number that is not finite, a rank that is gone.

Launch scripts print these without a traceback and leave with the exit code of the class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

MAX_LISTED_PROBLEMS = 10


class InputError(ValueError):
    """Something the user gave (file, field, setting) cannot be used; the message says where and how to fix it.

    Messages name rows by id and files by path and line, never by their text: data may be harmful.
    """

    @classmethod
    def listing(cls, heading: str, problems: Iterable[str]) -> InputError:
        """One error for several problems: the first ten in full, then how many more there are."""
        found = list(problems)
        lines = [f"  - {problem}" for problem in found[:MAX_LISTED_PROBLEMS]]
        if len(found) > MAX_LISTED_PROBLEMS:
            lines.append(f"  ... and {len(found) - MAX_LISTED_PROBLEMS} more")
        return cls("\n".join([heading, *lines]))


@contextmanager
def errors_named(place: str = "", keys: Mapping[str, str] | None = None) -> Iterator[None]:
    """InputErrors of the body begin with the place where they are found, and name other keys: those of their reader.

    Args:
        keys: words of the body's message, and what stands for them.
    """
    try:
        yield
    except InputError as error:
        text = str(error)
        for word, named in (keys or {}).items():
            text = text.replace(word, named)
        raise InputError(f"{place}: {text}" if place else text) from error


def first_of(names: Sequence[object], shown: int = 5) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class RunStopped(RuntimeError):
    """A run that ended before its last step, on purpose; what is on disk can be resumed."""

    exit_code = 1


class Preempted(RunStopped):
    """A signal ended the run at a step boundary, after a checkpoint. 75 is EX_TEMPFAIL: try again later."""

    exit_code = 75


class NonFiniteStep(RunStopped):
    """A loss or gradient that is not finite; no weight was changed by it. 65 is EX_DATAERR: again would not help."""

    exit_code = 65


class RankLost(RunStopped):
    """This rank could not go on because another one was gone; the other one says why. 71 is EX_OSERR."""

    exit_code = 71
