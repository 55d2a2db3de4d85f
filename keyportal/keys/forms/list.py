"""Search and sorting of the list of keys."""

from dataclasses import dataclass

from django import forms

SORTS = ("name", "created", "owner", "last_used")
NEWEST_FIRST = "-created"


@dataclass(frozen=True)
class Column:
    """The heading of a column. `sort` is the sorting after a click on it."""

    label: str
    name: str
    sort: str
    direction: str  # The value of `aria-sort`; empty if the list is not sorted by this column.


class ListForm(forms.Form):
    q = forms.CharField(max_length=64, required=False)
    sort = forms.ChoiceField(
        choices=[(sign + name, name) for name in SORTS for sign in ("", "-")], required=False
    )

    def value(self, name: str) -> str:
        """The value of a field, or an empty one if it is invalid: the list is always shown."""
        self.is_valid()
        return str(self.cleaned_data.get(name, ""))

    @property
    def sorting(self) -> str:
        return self.value("sort") or NEWEST_FIRST

    def column(self, label: str, name: str, first_sign: str = "") -> Column:
        """`first_sign` is "-" if the first click sorts in descending order."""
        if self.sorting.lstrip("-") != name:
            return Column(label, name, first_sign + name, "")
        if self.sorting.startswith("-"):
            return Column(label, name, name, "descending")
        return Column(label, name, f"-{name}", "ascending")

    @property
    def columns(self) -> list[Column]:
        return [
            self.column("Name", "name"),
            Column("API Key", "", "", ""),
            self.column("Created", "created", "-"),
            self.column("Owner", "owner"),
            self.column("Last used", "last_used", "-"),
        ]
