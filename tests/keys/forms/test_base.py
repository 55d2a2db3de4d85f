import pytest
from django.http import QueryDict

from keyportal.keys.forms.list import ListForm

pytestmark = pytest.mark.any_database


@pytest.mark.parametrize(
    ("query", "sorting"),
    [("", "-created"), ("sort=name", "name"), ("sort=-owner", "-owner"), ("sort=id", "-created")],
)
def test_unknown_sorting_means_newest_first(query: str, sorting: str) -> None:
    assert ListForm(QueryDict(query)).sorting == sorting


def test_clicking_a_heading_reverses_the_order() -> None:
    columns = {column.name: column for column in ListForm(QueryDict("sort=-created")).columns}
    assert (columns["created"].direction, columns["created"].sort) == ("descending", "created")
    assert (columns["name"].direction, columns["name"].sort) == ("", "name")
    assert (columns["last_used"].direction, columns["last_used"].sort) == ("", "-last_used")
