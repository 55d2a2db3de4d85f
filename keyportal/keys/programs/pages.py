"""The pages on which a person types a program's code, and lets it in or not.

Attack (RFC 8628, 5.4): somebody begins a sign-in and sends the code to a person, who lets the
sender's program in. So the page says what asks and from where, and that the person must have begun
it; and a link that contains the code doesn't spare them the question.
"""

from typing import Any, cast

from allauth.core import ratelimit
from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from keyportal.database.clock import database_now
from keyportal.http.addresses import client_network
from keyportal.keys.models import ApiKey, ProgramSignIn
from keyportal.keys.programs import device_flow
from keyportal.keys.rules.policy import (
    PlannedKey,
    ownership_violations,
    violations,
)
from keyportal.teams.access import creator_role, last_team
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.sign_in.requirement import require_second_factor

UNKNOWN = "This code is wrong, was used, or is older than ten minutes. Ask the program for another."
TOO_MANY = "Too many wrong codes. Wait five minutes."


class ApproveForm(forms.Form):
    team = forms.ModelChoiceField(
        queryset=Team.objects.none(), to_field_name="slug", empty_label=None
    )

    def __init__(self, request: HttpRequest) -> None:
        self.user = cast("User", request.user)
        data = request.POST if "team" in request.POST else None
        super().__init__(data, initial={"team": last_team(request)}, auto_id="program-%s")
        team: Any = self.fields["team"]
        team.queryset = Team.objects.for_user(self.user).filter(is_active=True)

    def clean_team(self) -> Team:
        """`ApiKey.objects.issue` judges it again; here the person can choose another team."""
        team: Team = self.cleaned_data["team"]
        role = Role(Membership.objects.get(team=team, user=self.user).role)
        if role.rank < creator_role(team).rank:
            raise forms.ValidationError("You can't create keys in this team.")
        now = database_now()
        key = PlannedKey(now, expires_at=now + device_flow.KEY_LIFETIME, has_service_account=False)

        def count_keys() -> int:
            return ApiKey.objects.count_owned(team, self.user.pk)

        broken = [
            *ownership_violations(team.policy, role, count_keys),
            *violations(team.policy, key, ("expires_at", "owner")),
        ]
        if broken:
            raise forms.ValidationError(" ".join(broken))
        return team


@never_cache
@require_http_methods(["GET", "POST"])
def enter(request: HttpRequest) -> HttpResponse:
    """Ask for the code, and then whether the program shall come in."""
    if request.method == "GET":
        return _ask_code(request, request.GET.get("code", ""))
    sign_in, error = _find(request)
    if sign_in is None:
        return _ask_code(request, "", error)
    return _ask(request, sign_in, ApproveForm(request))


@never_cache
@require_POST
def approve(request: HttpRequest) -> HttpResponse:
    sign_in, error = _find(request)
    if sign_in is None:
        return _ask_code(request, "", error)
    form = ApproveForm(request)
    if not form.is_valid():
        return _ask(request, sign_in, form, status=422)
    team = form.cleaned_data["team"]
    # Attack: a person without the factor that the team requires gets a key here, in no page of it.
    refusal = require_second_factor(request, team.policy.second_factor_days)
    if refusal is not None:
        return refusal
    session_key = request.session.session_key or ""
    if not device_flow.approve(sign_in, form.user, team, session_key):
        return _ask_code(request, "", UNKNOWN)
    return render(request, "programs/done.html", {"client": sign_in.client, "is_approved": True})


@never_cache
@require_POST
def deny(request: HttpRequest) -> HttpResponse:
    sign_in, error = _find(request)
    if sign_in is None or not device_flow.deny(sign_in):
        return _ask_code(request, "", error or UNKNOWN)
    return render(request, "programs/done.html", {"client": sign_in.client})


def _find(request: HttpRequest) -> tuple[ProgramSignIn | None, str]:
    """Attack: someone tries codes, to let the program of somebody else in to their own account."""

    def count(*, dry_run: bool) -> bool:
        usage = ratelimit.consume(request, action="device_code", user=request.user, dry_run=dry_run)
        return bool(usage)

    if not count(dry_run=True):
        return None, TOO_MANY
    sign_in = device_flow.find_undecided(request.POST.get("code", "")[:40])
    if sign_in is None:
        count(dry_run=False)
    return sign_in, UNKNOWN


def _ask_code(request: HttpRequest, code: str, error: str = "") -> HttpResponse:
    context = {"code": code[:40], "error": error}
    return render(request, "programs/enter.html", context, status=422 if error else 200)


def _ask(
    request: HttpRequest, sign_in: ProgramSignIn, form: ApproveForm, status: int = 200
) -> HttpResponse:
    own = request.META.get("REMOTE_ADDR")
    context = {
        "sign_in": sign_in,
        "form": form,
        "code": request.POST.get("code", ""),
        "own_address": own,
        "is_elsewhere": client_network(own) != client_network(sign_in.address),
    }
    return render(request, "programs/ask.html", context, status=status)
