"""What training says of the rows it is given."""

from datasets import Dataset

from derta.training.dataset import tokenize_table

STRINGS = {"prompt": "How do I brew it?", "chosen": "Warm the kettle."}
MESSAGES = {
    "prompt": [{"role": "user", "content": "How do I brew it?"}],
    "chosen": [{"role": "assistant", "content": "Warm the kettle."}],
}
RAW = {name: [{"role": "text", "content": text}] for name, text in STRINGS.items()}  # raw text by design


def test_plain_strings_are_said_to_be_raw_text_where_there_is_a_template(llama3_tokenizer, caplog):
    for rows in ([MESSAGES], [RAW]):
        tokenize_table(Dataset.from_list(rows), llama3_tokenizer, None)
    assert not caplog.records
    tokenize_table(Dataset.from_list([STRINGS]), llama3_tokenizer, None)
    assert "the rows are plain strings, so they are raw text" in caplog.text and "write messages" in caplog.text
