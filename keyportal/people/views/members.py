"""The members page: list, change a role, remove, leave."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.keys.exceptions import KeyActionError
from keyportal.people.emails import is_mail_set_up
from keyportal.people.forms import RemoveForm, RoleForm
from keyportal.people.models import Invitation
from keyportal.people.removal import key_rows, keys_of, possible_owners, remove_member
from keyportal.people.views.responses import is_powerful, members_changed
from keyportal.teams.access import (
    TeamRequest,
    grantable_roles,
    lock_membership,
    lock_team,
    team_view,
)
from keyportal.teams.forms import Conflict
from keyportal.teams.membership.changes import Refused, change_role, last_owners
from keyportal.teams.models import Membership, Role
from keyportal.teams.openid.providers import sources
from keyportal.teams.shortcuts import render_dialog, render_htmx
from keyportal.teams.sign_in.reauthentication import recently_authenticated
from keyportal.usage.impact import impact

View = Callable[[TeamRequest, Membership], HttpResponse]


@require_safe
@team_view(Role.VIEWER)
def member_list(request: TeamRequest) -> HttpResponse:
    granted = grantable_roles(Role(request.membership.role))
    invitations = Invitation.objects.for_team(request.team).for_display()
    members = list(Membership.objects.for_team(request.team).for_display())
    context = {
        "members": members,
        "invitations": invitations if granted else (),
        "is_mailed": is_mail_set_up(),
        "granted": granted,
        "sources": sources() if any(each.granted_by for each in members) else (),
    }
    return render_htmx(request, "people/members.html", "people/_members.html", context)


def _member_view(view: View) -> Callable[..., HttpResponse]:
    """For admins. The view gets the membership of the person in the URL; 404 if there is none."""

    @team_view(Role.ADMIN)
    @wraps(view)
    def opened(request: TeamRequest, user_id: int) -> HttpResponse:
        members = Membership.objects.for_team(request.team).select_related("user", "team")
        member = members.filter(user=user_id).first()
        if member is None or member.user.is_service_account:
            raise Http404
        if member.role not in grantable_roles(Role(request.membership.role)):
            raise PermissionDenied("Only an owner makes, changes and removes owners.")
        return view(request, member)

    return opened


@require_http_methods(["GET", "POST"])
@_member_view
def member_role(request: TeamRequest, member: Membership) -> HttpResponse:
    role = request.membership.role
    form = RoleForm(_posted(request), member=member, role=role)
    if not form.is_valid():
        return _role_dialog(request, member, form)
    is_power = is_powerful(form.cleaned_data["role"]) or member.role == Role.OWNER
    change = _confirmed_change if is_power else _change
    return change(request, member, form)


def _change(request: TeamRequest, member: Membership, form: RoleForm) -> HttpResponse:
    chosen, role = Role(form.cleaned_data["role"]), request.membership.role
    try:
        with lock_team(request.team, actor=request.user, role=Role.ADMIN) as team:
            form.require_current(lock_membership(team, member.user, may_be_inactive=True))
            change_role(team, member.user, chosen, actor=request.user)
    except Conflict as conflict:
        member.refresh_from_db(fields=["role"])
        form = RoleForm(member=member, role=role, conflict=str(conflict))
    except Refused as refusal:
        form.add_error("role", refusal)
    else:
        name = member.user.get_username()
        return members_changed(request, f"{name} is now {chosen.label} of {request.team}.")
    return _role_dialog(request, member, form)


_confirmed_change = recently_authenticated(to_read=False)(_change)


def _role_dialog(request: TeamRequest, member: Membership, form: RoleForm) -> HttpResponse:
    context = {"member": member, "form": form}
    return render_dialog(
        request, "people/_role.html", context, title="Change role", status=form.status
    )


@require_http_methods(["GET", "POST"])
@_member_view
def member_remove(request: TeamRequest, member: Membership) -> HttpResponse:
    return (
        _confirmed_removal(request, member)
        if is_powerful(member.role)
        else _remove(request, member)
    )


@require_http_methods(["GET", "POST"])
@team_view(Role.VIEWER)
def member_leave(request: TeamRequest) -> HttpResponse:
    return _remove(request, request.membership)


def _remove(request: TeamRequest, member: Membership) -> HttpResponse:
    form = _remove_form(request, member, _posted(request))
    if not form.is_valid():
        return _remove_dialog(request, member, form)
    try:
        with lock_team(request.team, actor=request.user, role=Role.VIEWER) as team:
            form.require_current(lock_membership(team, member.user, may_be_inactive=True))
            remove_member(
                team,
                member.user,
                actor=request.user,
                address=request.META["REMOTE_ADDR"],
                to=form.to_owner,
                by_key=form.by_key,
            )
    except Conflict as conflict:
        member.refresh_from_db(fields=["role"])
        form = _remove_form(request, member, conflict=str(conflict))
        return _remove_dialog(request, member, form)
    except (Refused, KeyActionError) as refusal:
        form.add_error(None, getattr(refusal, "message", str(refusal)))
        return _remove_dialog(request, member, form)
    if member.user_id == request.user.pk:
        return _left(request)
    return members_changed(request, f"{member.user.get_username()} is no longer in {request.team}.")


_confirmed_removal = recently_authenticated(to_read=False)(_remove)


def _remove_form(
    request: TeamRequest, member: Membership, data: Any = None, conflict: str = ""
) -> RemoveForm:
    # A viewer who leaves may end keys, but not hand them over.
    may_hand_over = request.membership.is_at_least(Role.MEMBER)
    owners = possible_owners(member) if may_hand_over else []
    return RemoveForm(data, member=member, rows=key_rows(member), owners=owners, conflict=conflict)


def _remove_dialog(request: TeamRequest, member: Membership, form: RemoveForm) -> HttpResponse:
    is_self = member.user_id == request.user.pk
    context = {
        "member": member,
        "form": form,
        "is_self": is_self,
        "is_last_owner": last_owners(Membership.objects.filter(pk=member.pk)),
        "key_count": keys_of(member).count(),
        "impact": impact(request.team, [row.key.public_id for row in form.rows]),
    }
    title = "Leave team" if is_self else "Remove member"
    return render_dialog(request, "people/_remove.html", context, title=title, status=form.status)


def _left(request: TeamRequest) -> HttpResponse:
    """All sessions of somebody who goes have ended. They left in this one, so it continues."""
    request.session.cycle_key()
    messages.success(request, f"You are no longer in {request.team}.")
    if request.htmx:
        return HttpResponse(status=204, headers={"HX-Redirect": reverse("home")})
    return redirect("home")


def _posted(request: TeamRequest) -> Any:
    return request.POST if request.method == "POST" else None
