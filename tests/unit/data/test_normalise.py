"""What changes in a text and what does not, and which prompts count as the same."""

import pytest

from derta.data.normalise import normalise_messages, normalise_text, prompt_key, units, weight


def user(text):
    return [{"role": "user", "content": text}]


def test_chat_text_alone_is_changed():
    """Raw text is left as it is, and so are malformed messages, for validation."""
    assert normalise_text("  cafe\u0301\r\nline two\rline  three \n") == "caf\u00e9\nline two\nline  three"
    raw = [{"role": "text", "content": " cafe\u0301 [INST] x \r\n"}]
    for value in (raw, None, "text", [1], [{"role": "user"}], [{"role": "user", "content": 3}]):
        assert normalise_messages(value) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How  do I,\nMAKE \uff34ea_pot?", "how do i make tea pot"),
        ("C++ and C#.", "c ++ and c #"),
        ("7 + 2, 7 - 2, 7-2, -5", "7 + 2 7 − 2 7 − 2 − 5"),
        ("a well-known covid-19 case - really", "a well known covid 19 case really"),
        ("3.5, 1,000km at 10:30.", "3.5 1,000km at 10:30"),
        ("x² is x^2, not x2; 2⁵", "x ^ 2 is x ^ 2 not x2 2 ^ 5"),
        ("a == b != c", "a == b != c"),
        ("कमल, कमला", "कमल कमला"),
        ("می\u200cخواهم co\u00adop", "میخواهم coop"),
        ("銀のりんごとサーバー", "銀 の り ん ご と サ ー バ ー"),
        ("ที่ tea", "ที่ tea"),
        ("안녕하세요 여러분", "안녕하세요 여러분"),
        ("----- I \u2764\ufe0f tea!", "i ❤ tea"),
    ],
)
def test_units(text, expected):
    assert units(text) == expected.split()


def test_weights_are_quarters_of_a_word():
    expected = {"tea": 4, "कमला": 4, "7": 4, "銀": 2, "の": 2, "ที่": 1, "ກ": 1, "++": 0, "❤": 0}
    assert {unit: weight(unit) for unit in expected} == expected


def test_prompt_key():
    assert prompt_key(user("Request 1!")) == prompt_key(user(" request   1 "))
    assert prompt_key(user("request 1")) != prompt_key(user("request 2"))
    assert prompt_key(user("request")) != prompt_key([{"role": "system", "content": "request"}])
    assert prompt_key(user("???")) != prompt_key(user("!!!"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is C++?", "What is C#?"),
        ("What is C?", "What is C++?"),
        ("What is 7 + 2?", "What is 7 - 2?"),
        ("What is 7 * 2?", "What is 7 / 2?"),
        ("What is 5?", "What is -5?"),
        ("Is 3.5 a number?", "Is 35 a number?"),
        ("Is x = 1?", "Is x != 1?"),
        ("How much is 2⁵?", "How much is 25?"),
        ("कमल क्या है?", "कमला क्या है?"),
        ("ما هو عَلَم", "ما هو عِلْم"),
        ("\U0001f600", "\U0001f622"),
    ],
)
def test_different_prompts_are_not_called_the_same(one, other):
    assert prompt_key(user(one)) != prompt_key(user(other))
    assert prompt_key(user(one)) == prompt_key(user(f" {one.upper() if one.isascii() else one} "))
