import pytest
from django.http import QueryDict

from keyportal.keys.forms.list import ListForm

pytestmark = pytest.mark.any_database


@pytest.mark.parametrize(
    ("query", "sorting"),
    [("", "-created"), ("sort=name", "name"), ("sort=-owner", "-owner"), ("sort=id", "-created")],
)
def test_sorting_is_one_of_ours_or_newest_first(query: str, sorting: str) -> None:
    assert ListForm(QueryDict(query)).sorting == sorting


def test_a_click_on_a_heading_turns_the_order_around() -> None:
    columns = {column.name: column for column in ListForm(QueryDict("sort=-created")).columns}
    assert (columns["created"].direction, columns["created"].sort) == ("descending", "created")
    assert (columns["name"].direction, columns["name"].sort) == ("", "name")
    assert (columns["last_used"].direction, columns["last_used"].sort) == ("", "-last_used")
