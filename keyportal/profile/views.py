"""The pages of a person's own account. Their second factors are in `keyportal.teams.sign_in`."""

from typing import cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.audit.models import Action, AuditEvent
from keyportal.profile import sessions
from keyportal.profile.forms import ProfileForm
from keyportal.profile.history import history_of
from keyportal.teams.models import User
from keyportal.teams.sign_in.reauthentication import confirmation_url, recently_authenticated


def _user(request: HttpRequest) -> User:
    return cast("User", request.user)


@require_http_methods(["GET", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    form = ProfileForm(request.POST or None, instance=User.objects.get(pk=_user(request).pk))
    if not form.is_valid():
        status = 422 if form.is_bound else 200
        return render(request, "profile/profile.html", {"form": form}, status=status)
    if form.changed_data:
        form.instance.save(update_fields=form.changed_data)
    messages.success(request, "Your profile is saved.")
    return redirect("profile:profile")


@require_http_methods(["GET", "POST"])
@recently_authenticated(to_read=False)
def session_list(request: HttpRequest) -> HttpResponse:
    """POST ends the session with the id `session`, or all others."""
    user = _user(request)
    if request.method != "POST":
        context = {
            "sessions": sessions.sessions_of(user, request.session),
            "confirmation_url": confirmation_url(request),
        }
        return render(request, "profile/sessions.html", context)
    count = sessions.end(user, request.session, request.POST.get("session", ""))
    if count:
        AuditEvent.objects.record(
            Action.USER_CHANGED,
            target=f"User {user.get_username()}: Sessions: {count} ended",
            actor=user,
            address=request.META["REMOTE_ADDR"],
        )
    messages.success(request, f"{count} session{'' if count == 1 else 's'} ended.")
    return redirect("profile:sessions")


@require_safe
def history(request: HttpRequest) -> HttpResponse:
    return render(request, "profile/history.html", {"events": history_of(_user(request))})
