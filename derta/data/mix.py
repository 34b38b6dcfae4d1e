"""From the rows of each source to one train and one hold-out list: duplicates, counts, shuffle, split.

Every random choice is a sort by sha256(seed, purpose, row id). So it depends neither on the order of the input nor on
the Python version, and a smaller count is always a subset of a larger one (3,000 triples lie inside the 6,000).
"""

import hashlib
from collections.abc import Iterable

from derta.data.convert import Dropped, Kept
from derta.data.schema import Row, duplicate_id, row_id
from derta.errors import InputError


def rank(seed: int, purpose: str, name: str) -> bytes:
    """The sort key of `name` in the random order that belongs to `seed` and `purpose`."""
    return hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogatepass")).digest()


def give_unique_ids(rows: Iterable[Kept], used: dict[str, Kept]) -> list[Kept]:
    """Rows whose ids are unique over all sources so far (`used` is extended).

    Rows that are equal in everything share the id made from their content; from the second on they get "-2", "-3", ...
    Raises InputError: two rows have the same id of their own, with both places."""
    problems, unique = [], []
    for kept in rows:
        name, first = kept.row["id"], used.get(kept.row["id"])
        if first is not None and (kept.has_own_id or first.has_own_id):
            ignore = f", or ignore them: columns: {{id: null}} (first: {first.place})"
            problems.append(duplicate_id(name).at(kept.place) + ignore)
            continue
        copies = 1
        while name in used:
            copies += 1
            name = f"{kept.row['id']}-{copies}"
        kept.row["id"] = name
        used[name] = kept
        unique.append(kept)
    if problems:
        raise InputError.listing("ids must be unique:", problems)
    return unique


def drop_duplicates(rows: Iterable[Kept], by: str, taken_prompts: set[str]) -> tuple[list[Kept], list[Dropped]]:
    """Keep the first row of each prompt (by="prompt") or of each set of equal rows (by="row").

    `taken_prompts` are those of earlier sources; they count as seen for by="prompt".
    """
    if by == "keep":
        return list(rows), []
    kept: list[Kept] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    for one in rows:
        row = one.row
        key = one.prompt_digest if by == "prompt" else row_id("", row["prompt"], row["chosen"], row["rejected"])
        if key in seen:
            dropped.append(Dropped("duplicates", f"same_{by}_in_source"))
        elif by == "prompt" and key in taken_prompts:
            dropped.append(Dropped("duplicates", "same_prompt_in_earlier_source"))
        else:
            seen.add(key)
            kept.append(one)
    return kept, dropped


def select(rows: list[Kept], count: int | None, how: str, seed: int) -> list[Kept]:
    """`count` of the rows in their order: the first ones or a seeded sample; all of them without a count."""
    if count is None or len(rows) <= count:
        return rows
    if how == "first":
        return rows[:count]
    sample = sorted(rows, key=lambda kept: rank(seed, "select", kept.row["id"]))[:count]
    names = {kept.row["id"] for kept in sample}
    return [kept for kept in rows if kept.row["id"] in names]


def shuffle_and_split(rows: list[Kept], holdout: float, seed: int, shuffle: bool = True) -> tuple[list[Row], list[Row]]:
    """Train rows and hold-out rows, both in random order, or in the order given with `shuffle=False`.

    A prompt goes to one side with all of its rows. `holdout` below 1 is a fraction of the rows, else a number of rows;
    it is not exceeded, so with several rows per prompt it can fall short by less than the rows of one prompt.
    Raises InputError: the hold-out would take every row, or none although one was asked for."""
    ordered = sorted(rows, key=lambda kept: rank(seed, "shuffle", kept.row["id"]))
    wanted = round(holdout * len(rows)) if holdout < 1 else int(holdout)
    if holdout and not 0 < wanted < len(rows):
        what = f"holdout: {holdout:g} of {len(rows)} rows is {wanted}, which leaves one side empty"
        raise InputError(f"{what}; fix: choose another holdout")
    by_prompt: dict[str, list[Kept]] = {}
    for kept in ordered:
        by_prompt.setdefault(kept.prompt_digest, []).append(kept)
    held: set[str] = set()
    for digest, group in by_prompt.items():
        if len(group) <= wanted:
            wanted -= len(group)
            held.add(digest)
    rows = ordered if shuffle else rows
    train = [kept.row for kept in rows if kept.prompt_digest not in held]
    return train, [kept.row for kept in rows if kept.prompt_digest in held]
