"""The day that a chat template writes into its prompts (Llama 3.2 and 3.3 do), fixed once for a tokenizer.

It is kept with the tokenizer, where everyone who renders a conversation finds it; derta.models.run_date says which.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

from derta.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

KEY = "template_date"  # in identities, derta_config.json and ModelConfig
_NOW = "strftime_now("
_CALL = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template asks for today's date."""
    return bool(tokenizer.chat_template) and _NOW in tokenizer.get_chat_template()


def fix_date(tokenizer: PreTrainedTokenizerBase, day: str | None = None) -> str | None:
    """The day this tokenizer's template writes from now on: `day`, else the one fixed before, else today's.
    Returns the day as YYYY-MM-DD; None where the template writes none."""
    if not writes_date(tokenizer):
        return None
    known: str | None = day or vars(tokenizer).get(KEY)
    if known is None:
        known = date.today().isoformat()
        logger.info("the chat template writes today's date: it is %s throughout this run (model.%s)", known, KEY)
    vars(tokenizer)[KEY] = known
    return known


def fixed_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template with the fixed day written out; None where it asks for no date.
    Raises InputError: the template computes how the date is written."""
    day = fix_date(tokenizer)
    return None if day is None else _written_out(tokenizer.get_chat_template(), day)


@lru_cache(maxsize=8)
def _written_out(template: str, day: str) -> str:
    fixed = _CALL.sub(lambda call: json.dumps(date.fromisoformat(day).strftime(call[2])), template)
    if _NOW in fixed:
        raise InputError(
            "the chat template writes today's date in a form that it computes, so the date cannot be fixed and every "
            "day would have other prompts: write the form into the call, strftime_now('%Y-%m-%d'), or use another "
            "template (model.chat_template)"
        )
    return fixed
