import pytest
from django.http import QueryDict

from keyportal.keys.forms import CreateForm, ListForm


def test_each_form_carries_a_mark_of_its_own() -> None:
    marks = {CreateForm()["nonce"].value() for _ in range(3)}
    assert len(marks) == 3
    assert all(len(mark) >= 20 for mark in marks)


def test_a_missing_mark_is_accepted() -> None:
    form = CreateForm({"name": " test-key "})
    assert form.is_valid()
    assert form.cleaned_data == {"name": "test-key", "nonce": ""}


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
