"""What a team used in a period: in all, by key or model, and step by step.

Three queries, whatever the number of keys. One sums by key, owner and model, for ranks and for what
can be chosen; one sums all by step; one sums the greatest by step. The rest is the difference:
sorting every row into one of nine series would cost the database more than both.
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

MAX_SERIES = 8  # More colours than that can't be told apart.
MAX_TABLE_ROWS = 50  # Keys or models with a row of their own in the table.
MAX_OPTIONS = 200  # What a menu can hold; the busiest are offered.
COLUMNS = ("public_id", "owner_id", "model")
NO_MODEL = "no model"
Group = tuple[Sequence[Any], Totals]
"""Values of `COLUMNS`, and what was used under them."""


class Selection(NamedTuple):
    """What the usage is of, in the order of `COLUMNS`; empty or 0 for all."""

    key: str = ""
    member: int = 0
    """A user's id."""
    model: str = ""

    @property
    def filters(self) -> dict[str, str | int]:
        chosen: zip[tuple[str, str | int]] = zip(COLUMNS, self, strict=True)
        return {column: value for column, value in chosen if value}

    def match(self, values: Sequence[Any], but: int = -1) -> bool:
        """Whether a group is meant, whatever it has in column `but`."""
        return all(
            not selection or selection == value or number == but
            for number, (selection, value) in enumerate(zip(self, values, strict=True))
        )


@dataclass
class Part:
    """What one key or model used, or all that are left together (`value` is None)."""

    value: str | None
    name: str
    used: Totals
    is_deleted: bool = False
    steps: list[Totals] | None = None


class Option(NamedTuple):
    value: str | int
    label: str


class Menus(NamedTuple):
    """What can be chosen, each with the rest of the filter as it is."""

    keys: list[Option]
    members: list[Option]
    models: list[Option]


@dataclass
class Report:
    period: Period
    by: str
    selection: Selection
    used: Totals
    steps: list[Totals]
    parts: list[Part]
    """The greatest first, and what is left over as one; a row each."""
    series: list[Part]
    """The same with `steps`, and fewer: what is drawn."""
    menus: Menus


def report(
    team: Team, period: Period, selection: Selection, by: str, most: int = MAX_SERIES
) -> Report:
    """`by` is key or model; `most` of them get a series."""
    place = 0 if by == "key" else 2
    usage = period.step.table.objects.for_team(team).within(period.start, period.end).order_by()
    groups = _groups(usage)
    ranked = _ranked([group for group in groups if selection.match(group[0])], place)
    wanted = usage.filter(**selection.filters)
    steps = totals_by_step(wanted, period)
    offered = _all_options(groups, selection)
    told = ranked[: max(MAX_TABLE_ROWS, most)]
    names = key_names(team, {*offered[0], *(value for value, _ in told if by == "key")})
    parts = [_part(value, used, names, by) for value, used in told]
    drawn = parts[:most]
    _add_steps(drawn, wanted, COLUMNS[place], period)
    used = total(steps)
    return Report(
        period=period,
        by=by,
        selection=selection,
        used=used,
        steps=steps,
        parts=[*parts, *_rest(used, steps, parts, len(ranked))],
        series=[*drawn, *_rest(used, steps, drawn, len(ranked))],
        menus=_menus(offered, names),
    )


def menus(team: Team, period: Period, selection: Selection) -> Menus:
    """What can be chosen in lists of what was called in this period."""
    usage = period.step.table.objects.for_team(team).within(period.start, period.end).order_by()
    offered = _all_options(_groups(usage), selection)
    return _menus(offered, key_names(team, offered[0]))


def _groups(usage: UsageQuerySet) -> list[Group]:
    rows = usage.values_list(*COLUMNS).annotate(*(Sum(name) for name in COUNTS))
    return [(row[:3], Totals.from_sums(row[3:])) for row in rows]


def _ranked(groups: list[Group], place: int) -> list[tuple[Any, Totals]]:
    sums: dict[Any, Totals] = defaultdict(Totals)
    for values, used in groups:
        sums[values[place]].add(used)
    return sorted(sums.items(), key=lambda pair: (-pair[1].requests, pair[0]))


def _options(groups: list[Group], selection: Selection, place: int) -> list[Any]:
    """What can be chosen in one menu with the others as they are; what is chosen, in any case."""
    fitting = [group for group in groups if group[0][place] and selection.match(group[0], place)]
    values = [value for value, _ in _ranked(fitting, place)[:MAX_OPTIONS]]
    chosen = selection[place]
    return values if not chosen or chosen in values else [*values, chosen]


def _all_options(groups: list[Group], selection: Selection) -> list[list[Any]]:
    return [_options(groups, selection, place) for place in range(len(COLUMNS))]


def _menus(offered: list[list[Any]], names: dict[str, KeyName]) -> Menus:
    keys, members, models = offered
    people = user_names(members)
    return Menus(
        sorted((Option(key, str(names[key])) for key in keys), key=_by_label),
        sorted((Option(member, people[member]) for member in members), key=_by_label),
        [Option(model, model) for model in sorted(models)],
    )


def totals_by_step(usage: UsageQuerySet, period: Period) -> list[Totals]:
    """One for each moment of the period, in one query."""
    rows = usage.values_list("start").annotate(*_all_sums())
    found = {row[0]: Totals.from_sums(row[1:]) for row in rows}
    return [found.get(moment) or Totals() for moment in period.moments]


def _add_steps(parts: list[Part], usage: UsageQuerySet, column: str, period: Period) -> None:
    of_these = usage.filter(**{f"{column}__in": [part.value for part in parts]})
    rows = of_these.values_list(column, "start").annotate(*_all_sums())
    found = {row[:2]: Totals.from_sums(row[2:]) for row in rows}
    for part in parts:
        part.steps = [found.get((part.value, at)) or Totals() for at in period.moments]


def _all_sums() -> list[Sum]:
    return [Sum(name) for name in (*COUNTS, *LATENCY_COLUMNS)]


def _part(value: str, used: Totals, names: dict[str, KeyName], by: str) -> Part:
    if by == "model":
        return Part(value, value or NO_MODEL, used)
    return Part(value, names[value].name, used, names[value].is_deleted)


def _rest(used: Totals, steps: list[Totals], parts: list[Part], of: int) -> list[Part]:
    if of <= len(parts):
        return []
    left = used.without(part.used for part in parts)
    by_step = [
        step.without(part.steps[number] for part in parts if part.steps)
        for number, step in enumerate(steps)
    ]
    count = of - len(parts)
    return [Part(None, f"{count} other{'s' * (count > 1)}", left, steps=by_step)]


def _by_label(option: Option) -> str:
    return option.label.casefold()
