"""The Health page: keys with findings, and the actions that fix them."""

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
MAX_NAMES = 3  # Of unused models or new networks; for the rest, only their number is shown.


class Tab(NamedTuple):
    value: str
    label: str
    size: int


class Issue(NamedTuple):
    """One finding of one key."""

    label: str
    detail: str
    actions: tuple[Action, ...]
    is_urgent: bool


class Row(NamedTuple):
    key: ApiKey
    issues: list[Issue]
    last_used_at: datetime | None


class HealthReport(NamedTuple):
    tabs: list[Tab]
    """All, the findings with at least one key, and the selected finding."""
    page: Page[tuple[int, ...]]
    rows: list[Row]


def health_report(
    team: Team, keys: ApiKeyQuerySet, selected: str, number: str | None
) -> HealthReport:
    """`keys` are keys of the team. `selected` is a finding, or empty for all.

    The number of queries does not depend on the number of keys.
    """
    findings = find_issues(team, keys)
    finding = Finding(selected) if selected in Finding.values else None
    counts = _counts(keys, findings)
    selection = keys.filter(findings.conditions[finding] if finding else findings.any)
    pages = Paginator(_most_urgent_first(selection, findings), ROWS)
    pages.count = counts[finding.value if finding else ""]
    page = pages.get_page(number)
    keys_by_pk = keys.for_display().in_bulk([row[0] for row in page])
    times = last_used_times(keys_by_pk.values())
    rows = [
        Row(
            keys_by_pk[pk],
            [*_issues(keys_by_pk[pk], flags, findings, team)],
            times.get(keys_by_pk[pk].public_id),
        )
        for pk, *flags in page
        if pk in keys_by_pk
    ]
    return HealthReport(_tabs(counts, selected), page, rows)


def _counts(keys: ApiKeyQuerySet, findings: Findings) -> dict[str, int]:
    conditions = {"": findings.any} | {one.value: q for one, q in findings.conditions.items()}
    columns = {f"of_{value}": Count("pk", filter=q) for value, q in conditions.items()}
    counts = keys.order_by().aggregate(**columns)
    return {name.removeprefix("of_"): count for name, count in counts.items()}


def _most_urgent_first(
    keys: ApiKeyQuerySet, findings: Findings
) -> QuerySet[ApiKey, tuple[int, ...]]:
    """Rows with the key's id, and for each finding whether the key has it."""
    conditions = findings.conditions.values()
    urgency = [When(q, then=Value(number)) for number, q in enumerate(conditions)]
    flags = {
        f"flag{number}": Case(When(q, then=True), default=False, output_field=BooleanField())
        for number, q in enumerate(conditions)
    }
    ordered = keys.order_by(
        Case(*urgency, default=len(urgency), output_field=IntegerField()), "-pk"
    )
    return ordered.annotate(**flags).values_list("pk", *flags)


def _tabs(counts: dict[str, int], selected: str) -> list[Tab]:
    labels = {"": "All"} | dict(Finding.choices)
    return [
        Tab(value, label, counts[value])
        for value, label in labels.items()
        if counts[value] or value in ("", selected)
    ]


def _issues(key: ApiKey, flags: list[int], findings: Findings, team: Team) -> Iterator[Issue]:
    # If the policy requires an expiry, a missing one is shown as a violation, and not twice.
    must_expire = team.policy.must_expire or team.policy.max_lifetime_days is not None
    for finding, flag in zip(Finding, flags, strict=True):
        if flag and not (finding is Finding.NEVER_EXPIRES and must_expire):
            detail = _detail(finding, key, findings, team)
            actions = ACTIONS.get(finding) or _policy_fixes(key, team)
            yield Issue(finding.label, detail, actions, finding.is_urgent)


def _policy_fixes(key: ApiKey, team: Team) -> tuple[Action, ...]:
    """In the order of `FIXES`, without duplicates."""
    fixes = [action for column, action in FIXES.items() if violations(team.policy, key, (column,))]
    return tuple(dict.fromkeys(fixes))


def _detail(finding: Finding, key: ApiKey, findings: Findings, team: Team) -> str:
    """What the label does not say."""
    match finding:
        case Finding.NEW_ADDRESS:
            networks = _shortened(findings.networks[key.public_id])
            return f"First used from {networks} within the last day."
        case Finding.TOO_WIDE:
            return f"Not called in 90 days: {_shortened(findings.unused[key.public_id])}."
        case Finding.BREAKS_POLICY:
            return " ".join(violations(team.policy, key))
        case _:
            return DETAILS.get(finding, "")


DETAILS = {
    Finding.REPORTED: "Rotate or delete it.",
    Finding.OWNER_LEFT: "The key is refused until it has a new owner and is enabled.",
    Finding.ROTATION_DUE: "Its secret is older than the policy advises.",
    Finding.IDLE: "Not used in 90 days.",
}


def _shortened(names: list[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


@require_safe
@team_view(Role.MEMBER)
def key_health(request: TeamRequest) -> HttpResponse:
    keys = ApiKey.objects.changeable_by(request.membership)
    selected = request.GET.get("finding", "")
    report = health_report(request.team, keys, selected, request.GET.get("page"))
    context = {"health": report, "page": report.page, "selected": selected}
    return render_htmx(request, "keys/health.html", "keys/_health.html", context)
