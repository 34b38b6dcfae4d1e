"""Rows -> tokenised examples -> the table of training rows the sampler draws from.

The table holds an example once per view (MLE row, RTO row, further MLE copies); the row itself is built in the
collator, anew in every epoch. The file is long because the library and the commands share every step from a row to the
table, and each counts what it leaves out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from derta.data.normalise import normalise_messages
from derta.data.schema import row_id
from derta.errors import InputError, errors_named, first_of
from derta.models.conversation import TEXT_ROLE, ConversationCutter, Cut, Passage, check_tokenizer, is_raw_text
from derta.objective.refusal_token import RefusalToken, without_space
from derta.objective.rows import RowSettings, TokenizedExample, View, longest_prefix, rto_positions
from derta.storage.places import describe

logger = logging.getLogger(__name__)

TOKEN_COLUMNS = ("id", "prompt_ids", "chosen_ids", "chosen_continued_ids", "rejected_ids", "rto_first_id")
_TOKEN_FEATURES = Features(
    {name: List(Value("int64")) if name.endswith("_ids") else Value("string") for name in TOKEN_COLUMNS}
    | {"rto_first_id": Value("int64")}
)
TABLE_COLUMNS = (*TOKEN_COLUMNS, "view", "copy")

_TOGETHER = 64  # rows whose texts are tokenised in one call; their character offsets are held until they are cut


@dataclass(frozen=True)
class RowReport:
    """What became of the examples. RTO rows are those of the harmful response, also where it is unlearned. Truncated
    rows lose the end of their response (and its end token)."""

    examples: int
    mle_rows: int
    rto_rows: int
    truncated_rows: int
    dropped_examples: int

    def shares(self) -> dict[str, float]:
        """For a line of the log."""
        rows = self.mle_rows + self.rto_rows
        return {"truncated_share": self.truncated_rows / rows, "dropped_share": self.dropped_examples / self.examples}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows": self.mle_rows + self.rto_rows}

    def __str__(self) -> str:
        return (
            f"{self.mle_rows} MLE, {self.rto_rows} RTO; {self.truncated_rows} truncated, "
            f"{self.dropped_examples} examples dropped"
        )


def standard_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in any of TRL's formats (preference, prompt-completion, messages; plain or conversational) in derta's.

    Plain strings are raw text, as everywhere in TRL: no chat template is applied to them. Messages are normalised as in
    a build (derta/data/normalise.py).
    """
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen", row.get("completion")), row.get("rejected")
    if isinstance(row.get("messages"), list) and row["messages"]:
        *prompt, last = row["messages"]
        chosen = [last]
    elif prompt is None and isinstance(chosen, list) and chosen:  # TRL's implicit prompt
        prompt, chosen = chosen[:-1], chosen[-1:]
        rejected = rejected[-1:] if rejected else None
    if not prompt and not isinstance(prompt, str) or not (chosen or rejected):
        raise InputError(
            f"the columns {sorted(row)} hold no prompt or no response: expected TRL preference rows (prompt, chosen, "
            "rejected), prompt-completion rows or messages"
        )
    standard = {
        name: normalise_messages(_as_messages(name, value))
        for name, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected))
    }
    kind = TEXT_ROLE if is_raw_text(standard["prompt"] or []) else "assistant"
    for name in ("chosen", "rejected"):
        roles = [message["role"] for message in standard[name] or []]
        if roles and roles != [kind]:
            expected = "text, as the prompt is" if kind == TEXT_ROLE else "one message of the assistant"
            raise InputError(f"{name} holds the roles {roles}: expected {expected}")
    return {"id": str(row.get("id") or row_id(str(row.get("source") or "row"), **standard)), **standard}


def _as_messages(name: str, value: Any) -> list[dict[str, str]] | None:
    if isinstance(value, str):
        return [{"role": TEXT_ROLE, "content": value}]
    if not value:
        return None
    try:
        messages = [{"role": message["role"], "content": message["content"]} for message in value]
    except (TypeError, KeyError):
        messages = []
    if not messages or not all(isinstance(text, str) for message in messages for text in message.values()):
        raise InputError(f"{name} is neither text nor a list of messages with role and content")
    return messages


def unique_ids(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """One id per row, and whether any row is a conversation. Equal rows without ids are told apart by "-2", "-3", ...

    Draws depend on the id: rows with the same one would get the same harmful prefixes.

    Raises:
        InputError: ids of the rows' own that occur twice (all listed), or a row of no known format.
    """
    uses: dict[str, list[int]] = {}
    own, has_chats = set(), False
    for index, row in enumerate(rows):
        with errors_named(f"row {index} of the data"):
            standard = standard_row(row)
        has_chats = has_chats or not is_raw_text(standard["prompt"])
        uses.setdefault(standard["id"], []).append(index)
        if row.get("id"):
            own.add(standard["id"])
    names = [""] * len(rows)
    for name, places in uses.items():
        for copy, place in enumerate(places, start=1):
            names[place] = name if copy == 1 else f"{name}-{copy}"
    twice = {name: places for name, places in uses.items() if name in own and len(places) > 1}
    if twice:
        raise InputError.listing(
            "rows with the same id would get the same random draws: make ids unique, or leave the column id out "
            "(they then follow from what the rows say):",
            (f"id {describe(name, is_name=True)}: rows {first_of(places)}" for name, places in twice.items()),
        )
    return names, has_chats


def tokenize_rows(
    rows: Sequence[Mapping[str, Any]], cutter: ConversationCutter, refusal: RefusalToken | None
) -> list[TokenizedExample]:
    """Token ids of rows (as `standard_row` gives them); all their texts go through the tokenizer in one call.

    Raises:
        InputError: no honest cut exists (see ConversationCutter); the message names the row.
    """
    placed = []
    for row in rows:
        with errors_named(f"row {row['id']}"):
            placed.append(_passages(row, cutter))
    encoded = iter(cutter.encode([passage for passages in placed for passage in passages.values()]))
    examples = []
    for row, passages in zip(rows, placed, strict=True):
        with errors_named(f"row {row['id']}"):
            prompt_ids = cutter.opened(passages.pop("prompt_ids"), *next(encoded))[0]
            cuts = {column: cutter.cut_passage(passage, *next(encoded)) for column, passage in passages.items()}
            examples.append(_example(row, prompt_ids, cuts, refusal, cutter.tokenizer))
    return examples


def _passages(row: Mapping[str, Any], cutter: ConversationCutter) -> dict[str, Passage]:
    """The texts of a row by the column their ids go into, the prompt's first."""
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    passages = {"prompt_ids": cutter.place_prompt(prompt)}
    if chosen:
        passages["chosen_ids"] = cutter.place(prompt, chosen)
    if rejected:
        passages["rejected_ids"] = cutter.place(prompt, rejected)
    if chosen and rejected:
        passages["chosen_continued_ids"] = cutter.place_continued(prompt, chosen)
    return passages


def _example(
    row: Mapping[str, Any],
    prompt_ids: list[int],
    cuts: Mapping[str, Cut],
    refusal: RefusalToken | None,
    tokenizer: PreTrainedTokenizerBase,
) -> TokenizedExample:
    ids: dict[str, list[int]] = {"chosen_ids": [], "chosen_continued_ids": [], "rejected_ids": []}
    ids |= {column: [*cut.response, cut.end] for column, cut in cuts.items()}
    if refusal and refusal.space_apart:
        for column in ("chosen_ids", "chosen_continued_ids"):
            ids[column] = without_space(tokenizer, ids[column])
    if refusal and refusal.is_reset:
        if any(refusal.continued_id in some for some in ids.values()):
            raise InputError(f"a response spells the reset token {refusal.continued_text}: take it out of the row")
        if "chosen_continued_ids" in cuts:
            ids["chosen_continued_ids"] = [refusal.continued_id, *ids["chosen_ids"]]
    if any(cuts[column].prompt != prompt_ids for column in ("chosen_ids", "rejected_ids") if column in cuts):
        raise ConversationCutter.unequal_prompts("a response of this row")
    rto_first_id = None if refusal is None else refusal.start_id
    # raw text may start with a space of its own
    if refusal and row["rejected"] and is_raw_text(row["prompt"]) and row["rejected"][0]["content"][:1].isspace():
        rto_first_id = refusal.start_id if refusal.is_reset else refusal.continued_id
    return {"id": row["id"], "prompt_ids": prompt_ids, **ids, "rto_first_id": rto_first_id}  # type: ignore[typeddict-item]


def tokenize_table(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, refusal: RefusalToken | None, num_proc: int | None = None
) -> Dataset:
    """`tokenize_rows` of all rows, in their order: a table with TOKEN_COLUMNS.

    Raises:
        InputError: no rows, ids that occur twice, a tokenizer or chat template that cannot be trained with.
    """
    if len(rows) == 0:
        raise InputError("the training data hold no rows: nothing to train on")
    names, has_chats = unique_ids(rows)
    check_tokenizer(tokenizer, needs_chat_template=has_chats)
    cutter = ConversationCutter(tokenizer)
    if tokenizer.chat_template and isinstance(rows[0].get("prompt"), str):
        logger.warning(
            "the rows are plain strings, so they are raw text (TRL's rule) and the chat template is not applied to "
            "them; write messages, [{'role': ..., 'content': ...}], to have it applied"
        )
    if has_chats:
        cutter.check()
        if not cutter.writes_its_ends:
            logger.warning(
                "the chat template writes no token behind a response: rows end in %r, which stands in no prompt with "
                "several turns",
                tokenizer.eos_token,
            )

    def tokenise(columns: dict[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        given = zip(*columns.values(), strict=True)
        some = [dict(zip(columns, v, strict=True)) | {"id": names[i]} for v, i in zip(given, places, strict=True)]
        found = tokenize_rows([standard_row(row) for row in some], cutter, refusal)
        return {name: [example[name] for example in found] for name in TOKEN_COLUMNS}  # type: ignore[literal-required]

    return rows.map(
        tokenise,
        with_indices=True,
        batched=True,
        batch_size=_TOGETHER,
        remove_columns=rows.column_names,
        features=_TOKEN_FEATURES,  # in a batch without triples the types could not be told from the values
        num_proc=num_proc,
        desc="Tokenising",
    )


def build_row_table(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    refusal: RefusalToken | None,
    settings: RowSettings,
    *,
    num_proc: int | None = None,
    for_training: bool = True,
) -> tuple[Dataset, RowReport]:
    """Tokenise rows and lay out the table of training rows.

    Args:
        for_training: an arm with RTO must find something to supervise; an evaluation set may be all helpful rows.

    Returns:
        The table, with TABLE_COLUMNS and `length` (tokens of the longest row this entry can become), and a report.

    Raises:
        InputError: no rows; prompts that fill `max_length` (unless they are to be dropped); an arm with RTO and no
            position left to supervise.
    """
    examples = tokenize_table(rows, tokenizer, refusal, num_proc)
    kept = without_long_prompts(examples, settings.max_length, drop=settings.drop_long_prompts)
    arm, lengths = settings.objective.name, _lengths(examples)
    harmful = sum(map(bool, lengths["rejected_ids"]))
    if for_training and arm.rows.harmful and harmful and not any(_lengths(kept)["rejected_ids"]):
        raise InputError(
            f"data.max_length={settings.max_length} with data.long_prompts=drop leaves out all {harmful} rows "
            f"with a harmful response (longest prompt: {max(lengths['prompt_ids'])} tokens), so "
            f"objective={arm.value} has no position to supervise: raise data.max_length"
        )
    return _lay_out(kept, settings, dropped=len(examples) - len(kept), needs_rto=for_training)


def without_long_prompts(examples: Dataset, max_length: int, *, drop: bool) -> Dataset:
    """The examples whose prompt leaves room for a response.

    Raises:
        InputError: there are others, and they are not to be dropped, or would be all.
    """
    lengths = token_lengths(examples, ("prompt_ids",))["prompt_ids"]
    fitting = [i for i, length in enumerate(lengths) if length < max_length]
    if len(fitting) == len(examples) or (drop and fitting):
        return examples if len(fitting) == len(examples) else examples.select(fitting)
    first = next(i for i, length in enumerate(lengths) if length >= max_length)
    raise InputError(
        f"{len(examples) - len(fitting)} of {len(examples)} prompts fill data.max_length={max_length} tokens and leave "
        f"no room for a response (first: row {examples[first]['id']}; longest: {max(lengths)} tokens): raise "
        "data.max_length, or set data.long_prompts=drop to leave such rows out"
    )


def fill_up(table: Dataset, multiple: int) -> Dataset:
    """The table with as many rows of View.FILLER behind it as make a multiple.

    accelerate gives every rank equally many batches by repeating the first rows, which would then count twice.
    """
    missing = -len(table) % multiple
    if not missing:
        return table
    first = table[0]
    ids = (first["prompt_ids"] + first["chosen_ids"] + first["rejected_ids"])[:2]
    filler = {name: [] if isinstance(value, list) else value for name, value in first.items()}
    filler.update(id="", prompt_ids=(ids * 2)[:2], view=int(View.FILLER), length=2)
    return concatenate_datasets([table, Dataset.from_list([filler] * missing, features=table.features)])


def _lengths(examples: Dataset) -> dict[str, list[int]]:
    return token_lengths(examples, ("prompt_ids", "chosen_ids", "chosen_continued_ids", "rejected_ids"))


def token_lengths(examples: Dataset, columns: Sequence[str]) -> dict[str, list[int]]:
    """Tokens per example and column, read from the Arrow offsets without building lists."""
    table = examples.with_format("arrow")[:]
    return {name: pc.list_value_length(table[name]).to_pylist() for name in columns}


def _lay_out(examples: Dataset, settings: RowSettings, dropped: int, *, needs_rto: bool) -> tuple[Dataset, RowReport]:
    objective, arm, max_length = settings.objective, settings.objective.name, settings.max_length
    mle_copies, tokens, with_rto = objective.mle_copies, objective.transition_tokens, arm.rows.harmful
    lengths = _lengths(examples)
    entries: list[tuple[int, int, int, int]] = []  # example, view, copy, length
    truncated = 0

    def add(example: int, view: View, copies: range, prompt: int, response: int, prefix: int = 0) -> None:
        nonlocal truncated
        length = min(max_length, prompt + response + prefix)
        entries.extend((example, view, copy, length) for copy in copies)
        truncated += len(copies) * (prompt + response > max_length)

    for i, (prompt, chosen, continued, rejected) in enumerate(zip(*lengths.values(), strict=True)):
        is_triple = chosen > 0 and rejected > 0
        if chosen:
            with_prefix = is_triple and arm.rows.prefix
            view = View.MLE_WITH_PREFIX if with_prefix else View.MLE
            room = longest_prefix(prompt, continued, rejected, max_length) if with_prefix else 0
            add(i, view, range(mle_copies if is_triple else 1), prompt, chosen, room)
        if is_triple:  # numbered behind the MLE rows, so that their prefixes are others
            turns = range(mle_copies, mle_copies + objective.transition_copies)
            room = longest_prefix(prompt, min(tokens, continued), rejected, max_length)
            add(i, View.TRANSITION, turns, prompt, min(tokens, max(chosen, continued)), room)
        if rejected and with_rto:
            add(i, View.RTO, range(1), prompt, rejected)
    rto_rows = sum(view == View.RTO for _, view, _, _ in entries)
    responses = zip(lengths["chosen_ids"], lengths["rejected_ids"], strict=True)
    unused = 0 if with_rto else sum(rejected > 0 and not chosen for chosen, rejected in responses)
    if unused:
        raise InputError(
            f"objective={arm.value} has no use for {unused} rows that hold a harmful response alone (already expanded "
            "RTO rows): use objective=derta, or leave these rows out of the data"
        )
    needs_rto = needs_rto and with_rto
    if needs_rto and rto_rows == 0:
        raise InputError(
            f"objective={arm.value} needs rows with a harmful response (rejected), and the data hold none: "
            "train on triples, or use objective=vanilla"
        )
    if not entries:
        raise InputError(f"objective={arm.value} finds nothing to train on: none of the rows holds a response it uses")
    if needs_rto and not any(
        rto_positions(prompt, rejected, max_length, at_end=objective.rto_at_end)
        for prompt, rejected in zip(lengths["prompt_ids"], lengths["rejected_ids"], strict=True)
        if rejected
    ):
        raise InputError(
            f"data.max_length={max_length} leaves no position of any harmful response to supervise: raise it"
        )
    index, *columns = zip(*entries, strict=True)
    table = examples.select(index)
    for name, values in zip(("view", "copy", "length"), columns, strict=True):
        table = table.add_column(name, [int(value) for value in values])
    report = RowReport(
        examples=len(examples) + dropped,
        mle_rows=len(entries) - rto_rows,
        rto_rows=rto_rows,
        truncated_rows=truncated,
        dropped_examples=dropped,
    )
    return table, report
