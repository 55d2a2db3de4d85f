"""Pages for strangers: how our keys look, and the place where a leaked one is reported."""

import json
import logging
from collections.abc import Callable

from allauth.core import ratelimit
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponsePermanentRedirect, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from keyportal.leaks import handling, reports, scanner_rules
from keyportal.leaks.github import NotGitHub

logger = logging.getLogger(__name__)
RETRY_AFTER_SECONDS = 60
# In this order where a client takes both: programs say nothing, or `*/*`.
RESPONSE_TYPES = ["application/json", "text/html"]

ACCEPTED = "Thank you. If this is a key of ours that works, it is ended now, and its owner is told."
NO_KEY = "There is no whole API key of this service in what was sent."
TOO_LARGE = "A report may have 64 KiB. Send several."
TOO_MANY = "Too many reports from here. Wait a minute, and send several keys in one."
FORGED = "This says that it comes from GitHub, and its signature does not. Nothing was done."
UNREADABLE = "This comes from GitHub, and is not in the published form. Nothing was done."


@never_cache
@login_not_required
@csrf_exempt  # Nobody is signed in here, so there is nobody in whose name it could be forged.
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters()
@sensitive_variables()
def report(request: HttpRequest) -> HttpResponse:
    """Whether a key exists is not told: a report of one that does gets the answer of any other.

    Over plain HTTP too: a key that has crossed the network in the clear should end all the more.
    """
    if request.method != "POST":
        return _https_redirect(request) or render(request, "leaks/report.html")
    if _content_length(request) > reports.MAX_BYTES:
        return _respond(request, 413, TOO_LARGE)
    try:
        said = reports.parse_report(request.body, request.headers)
    except NotGitHub as error:
        return _reject_forged_report(request, error)
    except reports.UnreadableReport:
        return _respond(request, 400, UNREADABLE)
    if said.reporter != reports.GITHUB:
        if not _may_report(request):
            return _respond(request, 429, TOO_MANY)
        if not said.found:
            return _respond(request, 400, NO_KEY)
    handling.handle_report(said, address=request.META["REMOTE_ADDR"])
    return _respond(request, 202, ACCEPTED)


@login_not_required
@require_safe
def key_format(request: HttpRequest) -> HttpResponse:
    return render(request, "leaks/format.html", {"format": scanner_rules.description()})


def _public_file(
    make: Callable[[], str], content_type: str
) -> Callable[[HttpRequest], HttpResponse]:
    """A file without secrets, made anew for each request, that anybody may keep for an hour."""

    @login_not_required
    @require_safe
    @cache_control(public=True, max_age=3600)
    def view(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - everybody gets the same
        return HttpResponse(make(), content_type=f"{content_type}; charset=utf-8")

    return view


description = _public_file(lambda: json.dumps(scanner_rules.description()), "application/json")
gitleaks = _public_file(scanner_rules.gitleaks, "application/toml")
trufflehog = _public_file(scanner_rules.trufflehog, "application/yaml")
checker = _public_file(scanner_rules.checker, "text/x-python")


def _https_redirect(request: HttpRequest) -> HttpResponse | None:
    """A browser sends a form the way that its page came, so that one is sent on to https."""
    if request.is_secure() or not settings.SECURE_SSL_REDIRECT:
        return None
    return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")


def _content_length(request: HttpRequest) -> int:
    """As declared: the server gives us no more, and the rest is left unread."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    is_number = length.isascii() and length.isdigit() and len(length) < 20
    return int(length) if is_number else reports.MAX_BYTES + 1


def _may_report(request: HttpRequest) -> bool:
    """The limiter is that of passwords: it counts in the database, over all workers, and an IPv6
    network as one address."""
    return bool(ratelimit.consume(request, action="report_leak"))


def _reject_forged_report(request: HttpRequest, error: NotGitHub) -> HttpResponse:
    """As a whole, before any key is looked at: the answer follows from the signature alone.

    Whoever holds the keys in it loses nothing: they may report them in their own name.
    """
    if not _may_report(request):
        return _respond(request, 429, TOO_MANY)
    logger.warning("A report in GitHub's name was refused: %s.", error)
    return _respond(request, 403, FORGED)


def _respond(request: HttpRequest, status: int, sentence: str) -> HttpResponse:
    """A page for a browser's form, and JSON for everything else."""
    if request.get_preferred_type(RESPONSE_TYPES) == "text/html":
        context = {"sentence": sentence, "is_accepted": status == 202}
        response = render(request, "leaks/report.html", context, status=status)
    else:
        response = JsonResponse({"detail": sentence}, status=status)
    if status == 429:
        response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
