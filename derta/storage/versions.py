"""Versions of the packages that a number depends on."""

import importlib.metadata
from collections.abc import Iterable

from derta import __version__

PACKAGES = (
    "derta",
    *"torch transformers trl peft deepspeed bitsandbytes torch-optimi datasets wandb hydra-core".split(),
)


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    versions = {}
    for name in packages:
        if name == "derta":  # also when it runs from a checkout
            versions[name] = __version__
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
