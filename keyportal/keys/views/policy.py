"""The policy page: members read the policy, admins change it."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from keyportal.keys.forms.policy import PolicyForm
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.policy import set_policy, violations
from keyportal.keys.rules.violations import breaks_policy, is_working, owners_over_limit
from keyportal.teams.access import TeamRequest, lock_team, require_role, team_view
from keyportal.teams.forms import Conflict
from keyportal.teams.models import Role
from keyportal.teams.sign_in.reauthentication import confirmation_url, recently_authenticated

MAX_LISTED = 5


@require_http_methods(["GET", "POST"])
@team_view(Role.MEMBER)
def team_policy(request: TeamRequest) -> HttpResponse:
    if request.method == "POST":
        require_role(request.membership, Role.ADMIN)
    return _change(request)


@recently_authenticated(to_read=False)
def _change(request: TeamRequest) -> HttpResponse:
    form = PolicyForm(
        request.POST if request.method == "POST" else None, policy=request.team.policy
    )
    if not form.is_valid():
        return _page(request, form)
    audit_fields = {"actor": request.user, "address": request.META["REMOTE_ADDR"]}
    try:
        with lock_team(request.team, actor=request.user, role=Role.ADMIN) as team:
            form.require_current(team.policy)
            set_policy(team, form.policy, **audit_fields)
    except Conflict as conflict:
        request.team.policy = team.policy
        return _page(request, PolicyForm(policy=team.policy, conflict=str(conflict)))
    messages.success(request, "The policy is changed.")
    return redirect("keys:policy", request.team.slug)


def _page(request: TeamRequest, form: PolicyForm) -> HttpResponse:
    policy = request.team.policy
    keys = ApiKey.objects.changeable_by(request.membership)
    violating = keys.filter(is_working(), breaks_policy(policy, keys))
    listed = violating.with_read_at().select_related("owner").order_by("name")[:MAX_LISTED]
    context = {
        "form": form,
        "rules": policy.describe(),
        "count": violating.count(),
        "owners_over_limit": owners_over_limit(policy, keys),
        "confirmation_url": confirmation_url(request),
        "violating_keys": [(key, violations(policy, key)) for key in listed],
    }
    return render(request, "keys/policy.html", context, status=form.status)
