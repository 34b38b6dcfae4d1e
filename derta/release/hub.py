"""The finished model on the Hugging Face hub: only where it is asked for, and private unless that is said, too.

sent      weights or adapter, their configuration, tokenizer, template, derta_config.json, README.md (the card)
not sent  rows, metrics.jsonl, W&B's files, checkpoints, config.yaml with its paths: whatever else a run holds
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from derta.config import TrainRunConfig
from derta.config.failures import is_main_rank
from derta.config.training import TrainerConfig
from derta.errors import InputError, first_line
from derta.release.card_section import find_evaluation, write_evaluation
from derta.storage.atomic import write_json_atomically
from derta.training.run import run_training

logger = logging.getLogger(__name__)

PUSHED_FILE = "pushed.json"
_SENT = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*",
    "additional_chat_templates/*", "derta_config.json", "README.md",
)  # fmt: skip


def train_and_push(config: TrainRunConfig) -> Path:
    """The training command: `run_training`, and the model on the hub where that is asked for. A repository that cannot
    be used is refused before the model is read; a finished run that is not there yet is sent alone."""
    wanted = config.trainer.push_to_hub and is_main_rank()
    repositories: list[str] = []

    def prepare() -> None:
        if wanted and not is_pushed(config.trainer, Path(config.output_dir)):
            repositories.append(prepare_repository(config.trainer, Path(config.output_dir)))

    output_dir = run_training(config, before_the_model=prepare)
    for repository in repositories:
        push_model(output_dir, repository)
    return output_dir


def sent_files(output_dir: Path) -> list[str]:
    """What would be sent of a finished run, relative to it."""
    found = {path for pattern in _SENT for path in output_dir.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(output_dir).as_posix() for path in found)


def is_pushed(trainer: TrainerConfig, output_dir: Path) -> bool:
    """Whether the model is already where `trainer` wants it; names without an account are those of one's own."""
    try:
        repository = json.loads((output_dir / PUSHED_FILE).read_text(encoding="utf-8"))["repository"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return trainer.hub_model_id in (None, repository, repository.rpartition("/")[2])


def prepare_repository(trainer: TrainerConfig, output_dir: Path) -> str:
    """The full id of the repository, made if it is not there: before training, so that what is wrong shows now. Raises
    InputError: no account, no connection, no right to write; a public repository where a private one is wanted."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise InputError(
            "trainer.push_to_hub=true needs an account: hf auth login, or HF_TOKEN in the environment; or leave it out"
        )
    name = trainer.hub_model_id or output_dir.resolve().name
    with _refusals_named(f"trainer.push_to_hub=true: {name} cannot be made"):
        made = HfApi().create_repo(name, private=trainer.hub_private_repo, exist_ok=True).repo_id
        if not trainer.hub_private_repo or HfApi().model_info(made).private:
            return made
    raise InputError(
        f"{made} is on the hub already and public: name another one (trainer.hub_model_id), or say that it is "
        "meant to be (trainer.hub_private_repo=false)"
    )


def push_model(output_dir: Path, repo_id: str) -> None:
    """Send the finished model as one commit, its evaluation in the card if there is one, and note it in the run. Raises
    InputError: the hub does not take it; the run is finished all the same."""
    from huggingface_hub import HfApi

    if (run := find_evaluation(output_dir)) is not None:
        write_evaluation(output_dir / "README.md", run)
    files, about = sent_files(output_dir), "Model trained with derta"
    with _refusals_named(f"the model is complete in {output_dir}, but {repo_id} does not take it"):
        sent = HfApi().upload_folder(
            repo_id=repo_id, folder_path=output_dir, allow_patterns=files, commit_message=about
        )
    write_json_atomically(output_dir / PUSHED_FILE, {"repository": repo_id, "commit": sent.oid, "files": files})
    logger.info("%d files are in %s on the hub", len(files), repo_id)


@contextlib.contextmanager
def _refusals_named(what: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # What HfHubHTTPError is made of: OSError, and the errors of the HTTP client that this version of the hub uses.
    refusals: tuple[type[Exception], ...] = (HFValidationError, *HfHubHTTPError.__bases__)
    try:
        yield
    except refusals as error:
        raise InputError(f"{what} ({first_line(error)}); the same command again tries again") from error
