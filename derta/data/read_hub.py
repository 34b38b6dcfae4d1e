"""Hub datasets to records, at one exact commit.

A branch name such as `main` moves, so a hub source is pinned: either `revision` is a full commit hash, or
`pin_on_build: true` lets the builder resolve the name once and write the hash it found into the manifest. No code from
the hub is ever run.
"""

import errno
import re
from collections.abc import Iterator
from typing import Any

from derta.errors import InputError
from derta.storage.places import Place, Record

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether `revision` is a full commit hash (40 hex digits)."""
    return _COMMIT.fullmatch(revision) is not None


def resolve_revision(hub_id: str, revision: str) -> str:
    """The commit hash that `revision` names now; a hash is returned as it is, without a network access.
    Raises InputError: the hub cannot be reached, or has no such dataset or revision."""
    if is_commit(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(hub_id, revision=revision).sha
    except Exception as error:
        raise _as_input_error(error, hub_id, revision) from error
    if commit is None:
        raise InputError(f"hub dataset {hub_id}: no commit is known for revision '{revision}'; fix: give a commit hash")
    return commit


def read_hub(hub_id: str, config: str | None, revision: str, split: str) -> Iterator[Record]:
    """The records of one split in order.
    Raises InputError: no such dataset, revision, config or split, no access, or no network; names id and revision."""
    import datasets

    try:
        rows = datasets.load_dataset(hub_id, name=config, revision=revision, split=split)
    except Exception as error:
        raise _as_input_error(error, hub_id, revision, split) from error
    for number, values in enumerate(rows, start=1):
        yield Record(Place(f"{hub_id}@{revision[:8]}:{split}", number, "row"), values)


def _as_input_error(error: Exception, hub_id: str, revision: str, split: str | None = None) -> InputError:
    """Says which is wrong: id, revision, split, access or network; any other cause is named by its type."""
    from huggingface_hub import errors

    names = f"hub dataset {hub_id} at revision '{revision}'"
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(map(str, causes))

    def caused_by(*kinds: Any) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    if caused_by(errors.RevisionNotFoundError):
        history = f"https://huggingface.co/datasets/{hub_id}/commits"
        what = f"this revision does not exist; fix: give a commit hash from the dataset's history ({history})"
    elif caused_by(errors.GatedRepoError) or "gated" in text:
        what = "access is gated; fix: accept its terms on its page and log in with: hf auth login"
    elif caused_by(errors.RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        what = "no such dataset, or it is private; fix: correct the id, or log in with: hf auth login"
    elif split is not None and "split" in text.lower() and caused_by(ValueError):
        what = f"it has no split '{split}'; fix: correct split: in the recipe"
    elif any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in causes):
        what = "no space left in the cache; fix: free space, or set HF_HOME to another disk"
    elif caused_by(ConnectionError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError):
        fix = "connect, or download the data and use path: instead of hub: in the recipe"
        what = f"the hub could not be reached and there is no copy in the cache; fix: {fix}"
    else:
        fix = f"look at the cause with datasets.load_dataset('{hub_id}', revision='{revision}')"
        what = f"could not be loaded ({type(error).__name__}); fix: {fix}"
    return InputError(f"{names}: {what}")
