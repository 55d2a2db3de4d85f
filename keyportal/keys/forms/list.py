"""The list's filter and its sortable columns."""

from dataclasses import dataclass

from django import forms

SORTS = ("name", "created", "owner", "last_used")


NEWEST_FIRST = "-created"


@dataclass(frozen=True)
class Column:
    """A column's heading: `sort` is what a click on it asks for."""

    label: str
    name: str
    sort: str
    direction: str  # As `aria-sort` says it; empty when the list is not sorted by this column.


class ListForm(forms.Form):
    q = forms.CharField(max_length=64, required=False)
    sort = forms.ChoiceField(
        choices=[(sign + name, name) for name in SORTS for sign in ("", "-")], required=False
    )

    def value(self, name: str) -> str:
        """What was asked for, or nothing where that makes no sense: a list is always shown."""
        self.is_valid()
        return str(self.cleaned_data.get(name, ""))

    @property
    def sorting(self) -> str:
        return self.value("sort") or NEWEST_FIRST

    def column(self, label: str, name: str, first: str = "") -> Column:
        """`first` is "-" where people look for the greatest first, such as the newest."""
        if self.sorting.lstrip("-") != name:
            return Column(label, name, first + name, "")
        falling = self.sorting.startswith("-")
        return Column(
            label, name, name if falling else f"-{name}", "descending" if falling else "ascending"
        )

    @property
    def columns(self) -> list[Column]:
        return [
            self.column("Name", "name"),
            Column("API Key", "", "", ""),
            self.column("Created", "created", "-"),
            self.column("Owner", "owner"),
            self.column("Last used", "last_used", "-"),
        ]
