"""The pages of a person's own account. Their second factors are in `keyportal.teams.sign_in`."""

from typing import cast

from allauth.core import ratelimit
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.audit.models import Action, AuditEvent
from keyportal.http.addresses import is_loopback
from keyportal.profile import email_change, sessions
from keyportal.profile.forms import EmailForm, ProfileForm
from keyportal.profile.history import history_of
from keyportal.teams.models import User
from keyportal.teams.sign_in.reauthentication import confirmation_url, recently_authenticated
from keyportal.teams.views import too_many_writes


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
@recently_authenticated()
def email(request: HttpRequest) -> HttpResponse:
    """Send a link to a new e-mail address."""
    can_mail = bool(settings.PUBLIC_URL) or is_loopback(request.META["REMOTE_ADDR"])
    form = EmailForm(request.POST or None)
    if not (can_mail and form.is_valid()):
        context = {"form": form, "can_mail": can_mail}
        return render(request, "profile/email.html", context, status=422 if form.is_bound else 200)
    if not ratelimit.consume(request, action="new_email", user=request.user):
        return too_many_writes(request)
    email_change.send_link(_user(request), form.cleaned_data["email"])
    messages.success(request, "We sent a link to the new address. Open it to change yours.")
    return redirect("profile:profile")


@require_http_methods(["GET", "POST"])
@recently_authenticated()
def email_confirm(request: HttpRequest, token: str) -> HttpResponse:
    if request.method == "POST" and email_change.apply(token, _user(request)):
        messages.success(request, "Your e-mail address is changed.")
        return redirect("profile:profile")
    context = {"change": email_change.read(token, _user(request))}
    status = 200 if context["change"] else 404
    return render(request, "profile/email_confirm.html", context, status=status)


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
    return render(request, "profile/history.html", {"entries": history_of(_user(request))})
