"""What errors say, for messages of one line."""

import pytest

from derta.errors import InputError, first_line


@pytest.mark.parametrize(("said", "line"), [("one\ntwo", "one"), ("\n one \n", "one"), ("", "InputError")])
def test_the_first_line_of_an_error_is_its_kind_where_it_says_nothing(said: str, line: str) -> None:
    assert first_line(InputError(said)) == line
