"""A page of the keys that want looking at, each with what was found and what can be done."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from django.core.paginator import Page, Paginator
from django.db.models import BooleanField, Case, Count, IntegerField, QuerySet, Value, When
from django.http import HttpResponse
from django.views.decorators.http import require_safe

from keyportal.keys.health import ACTIONS, FIXES, Action, Finding, Findings, find_issues
from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import ApiKey, ApiKeyQuerySet
from keyportal.keys.rules.policy import violations
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role, Team
from keyportal.teams.shortcuts import render_htmx

ROWS = 25
MAX_NAMES = 3  # Of unused models, or new networks; the rest is a number.


class Tab(NamedTuple):
    value: str
    label: str
    size: int


class Issue(NamedTuple):
    """One finding of one key."""

    label: str
    detail: str
    acts: tuple[Action, ...]
    is_urgent: bool


class Row(NamedTuple):
    key: ApiKey
    told: list[Issue]
    used_at: datetime | None


class HealthReport(NamedTuple):
    tabs: list[Tab]
    """All, and each finding that there is; what was asked for in any case."""
    page: Page[tuple[int, ...]]
    rows: list[Row]


def health_report(team: Team, keys: ApiKeyQuerySet, asked: str, number: str | None) -> HealthReport:
    """`keys` are of that team; `asked` is a finding, or empty for all.

    A constant number of queries, for a thousand keys or a hundred thousand.
    """
    looked = find_issues(team, keys)
    finding = Finding(asked) if asked in Finding.values else None
    counts = _counts(keys, looked)
    wanted = keys.filter(looked.conditions[finding] if finding else looked.any)
    pages = Paginator(_most_urgent_first(wanted, looked), ROWS)
    pages.count = counts[finding.value if finding else ""]
    page = pages.get_page(number)
    shown = keys.for_display().in_bulk([row[0] for row in page])
    used = last_used_times(shown.values())
    rows = [
        Row(shown[pk], [*_issues(shown[pk], flags, looked, team)], used.get(shown[pk].public_id))
        for pk, *flags in page
        if pk in shown
    ]
    return HealthReport(_tabs(counts, asked), page, rows)


def _counts(keys: ApiKeyQuerySet, looked: Findings) -> dict[str, int]:
    conditions = {"": looked.any} | {one.value: q for one, q in looked.conditions.items()}
    columns = {f"of_{value}": Count("pk", filter=q) for value, q in conditions.items()}
    found = keys.order_by().aggregate(**columns)
    return {name.removeprefix("of_"): count for name, count in found.items()}


def _most_urgent_first(keys: ApiKeyQuerySet, looked: Findings) -> QuerySet[ApiKey, tuple[int, ...]]:
    """Rows of the key's id, and whether it has each of the findings."""
    conditions = looked.conditions.values()
    urgency = [When(q, then=Value(number)) for number, q in enumerate(conditions)]
    flags = {
        f"flag{number}": Case(When(q, then=True), default=False, output_field=BooleanField())
        for number, q in enumerate(conditions)
    }
    ordered = keys.order_by(
        Case(*urgency, default=len(urgency), output_field=IntegerField()), "-pk"
    )
    return ordered.annotate(**flags).values_list("pk", *flags)


def _tabs(counts: dict[str, int], asked: str) -> list[Tab]:
    labels = {"": "All"} | dict(Finding.choices)
    return [
        Tab(value, label, counts[value])
        for value, label in labels.items()
        if counts[value] or value in ("", asked)
    ]


def _issues(key: ApiKey, flags: list[int], looked: Findings, team: Team) -> Iterator[Issue]:
    # What the policy asks for is told as its breach, and then not once more.
    must_expire = team.policy.must_expire or team.policy.longest_days is not None
    for finding, flag in zip(Finding, flags, strict=True):
        if flag and not (finding is Finding.NEVER_EXPIRES and must_expire):
            detail = _detail(finding, key, looked, team)
            acts = ACTIONS.get(finding) or _policy_fixes(key, team)
            yield Issue(finding.label, detail, acts, finding.is_urgent)


def _policy_fixes(key: ApiKey, team: Team) -> tuple[Action, ...]:
    """In a fixed order, each once."""
    found = [act for column, act in FIXES.items() if violations(team.policy, key, (column,))]
    return tuple(dict.fromkeys(found))


def _detail(finding: Finding, key: ApiKey, looked: Findings, team: Team) -> str:
    """What the label doesn't say."""
    match finding:
        case Finding.NEW_ADDRESS:
            networks = _shortened(looked.networks[key.public_id])
            return f"First used from {networks} within the last day."
        case Finding.TOO_WIDE:
            return f"Not called in 90 days: {_shortened(looked.unused[key.public_id])}."
        case Finding.BREAKS_POLICY:
            return " ".join(violations(team.policy, key))
        case _:
            return DETAILS.get(finding, "")


DETAILS = {
    Finding.REPORTED: "Give it a new secret, or delete it.",
    Finding.OWNER_LEFT: "The key is refused until somebody else owns it.",
    Finding.ROTATION_DUE: "Its secret is older than the policy advises.",
    Finding.IDLE: "Nothing was called with it in 90 days.",
}


def _shortened(names: list[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


@require_safe
@team_view(Role.MEMBER)
def key_health(request: TeamRequest) -> HttpResponse:
    keys = ApiKey.objects.changeable_by(request.membership)
    asked = request.GET.get("finding", "")
    found = health_report(request.team, keys, asked, request.GET.get("page"))
    context = {"health": found, "page": found.page, "asked": asked}
    return render_htmx(request, "keys/health.html", "keys/_health.html", context)
