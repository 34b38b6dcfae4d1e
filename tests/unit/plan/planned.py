"""Configurations of launch/plan.py as a user composes them, and what one rank needs."""

from derta.config.compose import read
from derta.config.plan import PlanRunConfig
from derta.plan.memory import RankMemory, rank_memory
from derta.plan.settings import Settings
from derta.plan.shape import ModelShape

FULL, LORA = "+experiment=llama3_8b_full", "+experiment=llama3_70b_lora"


def composed(*overrides: str) -> PlanRunConfig:
    return read("plan", PlanRunConfig, overrides)[0]


def settings(shape: ModelShape, *overrides: str) -> Settings:
    return Settings.of(composed(*overrides), shape)


def memory(shape: ModelShape, *overrides: str) -> RankMemory:
    return rank_memory(shape, settings(shape, *overrides))
