"""Ends that people and programs enter."""

import pytest

from keyportal.teams.dates import parse_end

pytestmark = pytest.mark.any_database


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2099-01-31", "2099-01-31 23:59:59+00:00"),
        ("2099-01-31T18:00", "2099-01-31 18:00:00+00:00"),
        ("2099-01-31 18:00:05Z", "2099-01-31 18:00:05+00:00"),
        ("2099-01-31T18:00-10:00", "2099-02-01 04:00:00+00:00"),
        ("9999-12-31", "9999-12-31 23:59:59+00:00"),
    ],
)
def test_date_without_a_time_is_the_end_of_that_day(text: str, end: str) -> None:
    assert str(parse_end(text)) == end


@pytest.mark.parametrize("text", ["", "soon", "2099-02-30", "9999-12-31T23:59-10:00", "30d"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_end(text)
