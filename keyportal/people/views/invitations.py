"""Invite people, send an invitation again, revoke it."""

from collections.abc import Sequence

from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from keyportal.catalog.examples import public_url
from keyportal.people.emails import is_mail_set_up
from keyportal.people.forms import InviteForm
from keyportal.people.invitations import TooManyInvitations, invite, resend, revoke
from keyportal.people.links import url_for
from keyportal.people.models import Invitation
from keyportal.people.views.responses import CHANGED, is_powerful, members_changed
from keyportal.teams.access import TeamRequest, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_dialog
from keyportal.teams.sign_in.reauthentication import recently_authenticated


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def invite_people(request: TeamRequest) -> HttpResponse:
    posted = request.POST if request.method == "POST" else None
    form = InviteForm(posted, role=request.membership.role)
    if not form.is_valid():
        return _form(request, form)
    send = _invite_confirmed if is_powerful(form.cleaned_data["role"]) else _invite
    return send(request, form)


def _invite(request: TeamRequest, form: InviteForm) -> HttpResponse:
    chosen = form.cleaned_data
    try:
        invitations = invite(
            request.team,
            chosen["emails"],
            Role(chosen["role"]),
            note=chosen["note"],
            actor=request.user,
            address=request.META["REMOTE_ADDR"],
        )
    except TooManyInvitations as refusal:
        form.add_error("emails", str(refusal))
        return _form(request, form, status=429)
    return _invited(request, invitations)


_invite_confirmed = recently_authenticated(to_read=False)(_invite)


def _form(request: TeamRequest, form: InviteForm, status: int = 422) -> HttpResponse:
    context = {"form": form, "is_mailed": is_mail_set_up()}
    return render_dialog(
        request,
        "people/_invite.html",
        context,
        title="Invite",
        status=status if form.is_bound else 200,
    )


def _invited(request: TeamRequest, invitations: Sequence[Invitation]) -> HttpResponse:
    """Without mail, the links are shown once, in no session or message, where they would stay."""
    if is_mail_set_up():
        emails = [invitation.email for invitation in invitations]
        text = emails[0] if len(emails) == 1 else f"{len(emails)} people"
        return members_changed(request, f"An invitation is on its way to {text}.")
    origin = public_url(request)
    links = [(each, url_for(each, is_mailed=False, origin=origin)) for each in invitations]
    response = render_dialog(request, "people/_links.html", {"links": links}, title="Invited")
    response["HX-Trigger"] = CHANGED
    return response


def _invitation(request: TeamRequest, invitation_id: int) -> Invitation:
    """Raises `Http404`, also for one of another team."""
    rows = Invitation.objects.for_team(request.team).select_related("team", "invited_by")
    invitation = rows.filter(pk=invitation_id).first()
    if invitation is None:
        raise Http404
    return invitation


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def invitation_resend(request: TeamRequest, invitation_id: int) -> HttpResponse:
    invitation = _invitation(request, invitation_id)
    if request.method != "POST":  # After a confirmation of who it is.
        return redirect("people:members", request.team.slug)
    send = _resend_confirmed if is_powerful(invitation.role) else _resend
    return send(request, invitation)


def _resend(request: TeamRequest, invitation: Invitation) -> HttpResponse:
    try:
        sent = resend(invitation, actor=request.user, address=request.META["REMOTE_ADDR"])
    except Invitation.DoesNotExist:
        raise Http404 from None
    except TooManyInvitations as refusal:
        context = {"refusal": str(refusal)}
        return render_dialog(request, "people/_refused.html", context, title="Invite", status=429)
    return _invited(request, [sent])


_resend_confirmed = recently_authenticated(to_read=False)(_resend)


@require_http_methods(["GET", "POST"])
@team_view(Role.ADMIN)
def invitation_revoke(request: TeamRequest, invitation_id: int) -> HttpResponse:
    invitation = _invitation(request, invitation_id)
    if request.method != "POST":
        context = {"invitation": invitation}
        return render_dialog(request, "people/_revoke.html", context, title="Revoke invitation")
    try:
        revoke(invitation, actor=request.user, address=request.META["REMOTE_ADDR"])
    except Invitation.DoesNotExist:
        raise Http404 from None
    return members_changed(request, f"The invitation of {invitation.email} is revoked.")
