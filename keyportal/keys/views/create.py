"""Create a key, and the guide."""

from functools import partial

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.catalog.examples import examples_for
from keyportal.keys.exceptions import KeyActionError, KeyLimitReached, NonceAlreadyUsed
from keyportal.keys.forms.create import CreateForm
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.policy import ownership_violations
from keyportal.keys.views.list import count_keys
from keyportal.keys.views.responses import key_already_created, key_created
from keyportal.teams.access import TeamRequest, creator_role, require_role, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_dialog


@sensitive_post_parameters("nonce")
@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
@sensitive_variables("key_string")
def key_create(request: TeamRequest) -> HttpResponse:
    require_role(request.membership, creator_role(request.team))
    form = CreateForm(
        request.POST if request.method == "POST" else None,
        team=request.team,
        creator=request.membership,
    )
    if not form.is_valid():
        return _create_form(request, form)
    try:
        key, key_string = ApiKey.objects.issue(
            team=request.team,
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
            **form.issue_arguments,
        )
    except NonceAlreadyUsed:
        return key_already_created(request)
    except KeyActionError as error:
        form.add_error("name", str(error))
        return _create_form(request, form)
    return key_created(request, key, key_string)


@require_safe
@team_view(Role.VIEWER)
def guide(request: TeamRequest) -> HttpResponse:
    context = {"examples": examples_for(request, request.team), "key_count": count_keys(request)}
    return render(request, "keys/guide.html", context)


def _create_form(request: TeamRequest, form: CreateForm) -> HttpResponse:
    key_count = count_keys(request)
    context = {
        "form": form,
        "key_count": key_count,
        "blocked_reason": _blocked_reason(request, form, key_count),
    }
    status = 422 if form.is_bound else 200
    return render_dialog(
        request, "keys/_create.html", context, title="Create API key", status=status
    )


def _blocked_reason(request: TeamRequest, form: CreateForm, key_count: int) -> str:
    """Why this user can create no key at all; empty if they can."""
    if key_count >= request.team.max_keys:
        return str(KeyLimitReached(request.team.max_keys, key_count))
    if form.has_owners:
        return ""
    if request.team.policy.service_accounts_only:
        return (
            "Only service accounts may own keys in this team, and it has none. Create one first, "
            "under Members."
        )
    owned_count = partial(ApiKey.objects.count_owned, request.team, request.user.pk)
    return " ".join(ownership_violations(request.team.policy, None, owned_count))
