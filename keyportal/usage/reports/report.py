"""The usage of a team in a period: total, by key or model, and by step.

Three queries, for any number of keys. One sums by key, owner and model, for the ranking and the
menus; one sums everything by step; one sums the largest groups by step. The rest is the difference:
grouping every row into one of nine series would cost the database more than both queries.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.db.models import Sum

from keyportal.audit.key_names import KeyName, key_names, user_names
from keyportal.teams.models import Team
from keyportal.usage.models import LATENCY_COLUMNS, UsageQuerySet
from keyportal.usage.reports.periods import Period
from keyportal.usage.reports.totals import COUNTS, Totals, total

MAX_SERIES = 8  # People can't distinguish more colours.
MAX_TABLE_ROWS = 50  # Keys or models with a row of their own in the table.
MAX_OPTIONS = 200  # In one menu; the busiest are offered.
COLUMNS = ("public_id", "owner_id", "model")
NO_MODEL = "no model"
SummedRow = tuple[Sequence[Any], Totals]
"""Values of `COLUMNS`, and their usage."""


class Selection(NamedTuple):
    """The filter of a report, in the order of `COLUMNS`; empty or 0 for all."""

    key: str = ""
    member: int = 0
    """A user id."""
    model: str = ""

    @property
    def filters(self) -> dict[str, str | int]:
        chosen: zip[tuple[str, str | int]] = zip(COLUMNS, self, strict=True)
        return {column: value for column, value in chosen if value}

    def matches(self, values: Sequence[Any], ignored: int = -1) -> bool:
        """Whether `values`, in the order of `COLUMNS`, match; column `ignored` is not checked."""
        return all(
            not selected or selected == value or index == ignored
            for index, (selected, value) in enumerate(zip(self, values, strict=True))
        )


@dataclass
class Group:
    """The usage of one key or model, or of all the remaining ones together (`value` is None)."""

    value: str | None
    name: str
    used: Totals
    is_deleted: bool = False
    steps: list[Totals] | None = None


class Option(NamedTuple):
    value: str | int
    label: str


class Menus(NamedTuple):
    """The choices of each filter, given the other filters."""

    keys: list[Option]
    members: list[Option]
    models: list[Option]


@dataclass
class Report:
    """A usage report. `group_by` is `key` or `model`."""

    period: Period
    group_by: str
    selection: Selection
    used: Totals
    steps: list[Totals]
    groups: list[Group]
    """The rows of the table: the largest first, and last the rest as one group."""
    series: list[Group]
    """The series of the charts: the same with `steps`, and fewer of them."""
    menus: Menus


def report(
    team: Team, period: Period, selection: Selection, group_by: str, max_series: int = MAX_SERIES
) -> Report:
    """`group_by` is `key` or `model`; at most `max_series` of them get a series of their own."""
    column_index = 0 if group_by == "key" else 2
    usage = period.step.table.objects.for_team(team).within(period.start, period.end).order_by()
    rows = _summed_rows(usage)
    ranked = _ranked([row for row in rows if selection.matches(row[0])], column_index)
    selected = usage.filter(**selection.filters)
    steps = totals_by_step(selected, period)
    options = _all_options(rows, selection)
    largest = ranked[: max(MAX_TABLE_ROWS, max_series)]
    names = key_names(team, {*options[0], *(value for value, _ in largest if group_by == "key")})
    groups = [_group(value, used, names, group_by) for value, used in largest]
    series = groups[:max_series]
    _add_steps(series, selected, COLUMNS[column_index], period)
    used = total(steps)
    return Report(
        period=period,
        group_by=group_by,
        selection=selection,
        used=used,
        steps=steps,
        groups=[*groups, *_rest(used, steps, groups, len(ranked))],
        series=[*series, *_rest(used, steps, series, len(ranked))],
        menus=_menus(options, names),
    )


def menus(team: Team, period: Period, selection: Selection) -> Menus:
    """The menus for a list of calls in this period."""
    usage = period.step.table.objects.for_team(team).within(period.start, period.end).order_by()
    options = _all_options(_summed_rows(usage), selection)
    return _menus(options, key_names(team, options[0]))


def _summed_rows(usage: UsageQuerySet) -> list[SummedRow]:
    rows = usage.values_list(*COLUMNS).annotate(*(Sum(name) for name in COUNTS))
    return [(row[:3], Totals.from_sums(row[3:])) for row in rows]


def _ranked(rows: list[SummedRow], column_index: int) -> list[tuple[Any, Totals]]:
    sums: dict[Any, Totals] = defaultdict(Totals)
    for values, used in rows:
        sums[values[column_index]].add(used)
    return sorted(sums.items(), key=lambda pair: (-pair[1].requests, pair[0]))


def _options(rows: list[SummedRow], selection: Selection, column_index: int) -> list[Any]:
    """The choices of one menu, given the other filters; always with the selected value."""
    matching = [
        row for row in rows if row[0][column_index] and selection.matches(row[0], column_index)
    ]
    values = [value for value, _ in _ranked(matching, column_index)[:MAX_OPTIONS]]
    chosen = selection[column_index]
    return values if not chosen or chosen in values else [*values, chosen]


def _all_options(rows: list[SummedRow], selection: Selection) -> list[list[Any]]:
    return [_options(rows, selection, index) for index in range(len(COLUMNS))]


def _menus(options: list[list[Any]], names: dict[str, KeyName]) -> Menus:
    keys, members, models = options
    users = user_names(members)
    return Menus(
        sorted((Option(key, str(names[key])) for key in keys), key=_by_label),
        sorted((Option(member, users[member]) for member in members), key=_by_label),
        [Option(model, model) for model in sorted(models)],
    )


def totals_by_step(usage: UsageQuerySet, period: Period) -> list[Totals]:
    """Totals for each step of the period, in one query."""
    rows = usage.values_list("start").annotate(*_all_sums())
    totals = {row[0]: Totals.from_sums(row[1:]) for row in rows}
    return [totals.get(moment) or Totals() for moment in period.moments]


def _add_steps(groups: list[Group], usage: UsageQuerySet, column: str, period: Period) -> None:
    in_groups = usage.filter(**{f"{column}__in": [group.value for group in groups]})
    rows = in_groups.values_list(column, "start").annotate(*_all_sums())
    totals = {row[:2]: Totals.from_sums(row[2:]) for row in rows}
    for group in groups:
        group.steps = [totals.get((group.value, moment)) or Totals() for moment in period.moments]


def _all_sums() -> list[Sum]:
    return [Sum(name) for name in (*COUNTS, *LATENCY_COLUMNS)]


def _group(value: str, used: Totals, names: dict[str, KeyName], group_by: str) -> Group:
    if group_by == "model":
        return Group(value, value or NO_MODEL, used)
    return Group(value, names[value].name, used, names[value].is_deleted)


def _rest(used: Totals, steps: list[Totals], groups: list[Group], count: int) -> list[Group]:
    """What is left of all `count` keys or models without `groups`, as one group, if any is left."""
    if count <= len(groups):
        return []
    remaining = used.without(group.used for group in groups)
    remaining_steps = [
        step.without(group.steps[index] for group in groups if group.steps)
        for index, step in enumerate(steps)
    ]
    others = count - len(groups)
    return [Group(None, f"{others} other{'s' * (others > 1)}", remaining, steps=remaining_steps)]


def _by_label(option: Option) -> str:
    return option.label.casefold()
