"""Calls in flight on all workers and hosts, and the request of an admin to end one."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.http import Http404

from keyportal.audit.key_names import KeyName, key_names
from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import Team, User
from keyportal.usage.models import EndRequest, RunningCalls


@dataclass
class RunningCall:
    """A call in flight, as the page of running calls displays it."""

    id: str
    key: KeyName
    model: str
    endpoint: str
    since: datetime
    tokens: int
    address: str
    is_ending: bool
    seconds: int
    """Until it was written down, at most a few seconds ago."""


def running_calls(team: Team) -> list[RunningCall]:
    calls = RunningCalls.objects.for_team(team).calls()
    names = key_names(team, {call["public_id"] for call in calls})
    requests = EndRequest.objects.filter(
        team_slug=team.history_slug, call_id__in=[call["id"] for call in calls]
    )
    ending = set(requests.values_list("call_id", flat=True))
    return [_running_call(call, names[call["public_id"]], ending) for call in calls]


def request_call_end(team: Team, call_id: str, *, actor: User, address: str | None) -> None:
    """Ask the worker that serves this call to end it. A second request changes nothing.

    Raises `Http404` if the team has no such call.
    """
    call = next(
        (call for call in RunningCalls.objects.for_team(team).calls() if call["id"] == call_id),
        None,
    )
    if call is None:
        raise Http404
    name = key_names(team, [call["public_id"]])[call["public_id"]].name
    with transaction.atomic():
        _, is_new = EndRequest.objects.get_or_create(call_id=call_id, team_slug=team.history_slug)
        if is_new:
            AuditEvent.objects.record_changes(
                Action.CALL_ENDED,
                target=f"{name} ({call['public_id']})",
                changes=[call["model"] or call["endpoint"]],
                actor=actor,
                team=team,
                address=address,
            )


def _running_call(call: dict[str, Any], key: KeyName, ending: set[str]) -> RunningCall:
    return RunningCall(
        id=call["id"],
        key=key,
        model=call["model"],
        endpoint=call["endpoint"],
        since=call["since"],
        tokens=call["tokens"],
        address=call["address"] or "",
        is_ending=call["id"] in ending,
        seconds=int(call["seconds"]),
    )
