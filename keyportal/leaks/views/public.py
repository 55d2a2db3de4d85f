"""Public pages: the format of keys, and the report of a leaked key."""

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
# JSON first, for programs: they accept everything, `*/*`.
RESPONSE_TYPES = ["application/json", "text/html"]

# True for every report: a team gets no mail about more than a few reports an hour.
ACCEPTED = "Thank you. If the key was live, it no longer works, and its team sees this report."
NO_KEY = "The report contains no complete key of this service."
TOO_LARGE = "A report may have at most 64 KiB. Split it into several reports."
TOO_MANY = "Too many reports from your network. Wait a minute; a report can contain several keys."
FORGED = "The report claims to come from GitHub, but its signature is wrong. Nothing was changed."
UNREADABLE = "GitHub signed this report, but its format is unknown. Nothing was changed."


@never_cache
@login_not_required
@csrf_exempt  # The view ignores sessions, so there is no user whose request could be forged.
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters()
@sensitive_variables()
def report(request: HttpRequest) -> HttpResponse:
    """Report leaked keys. The response is the same whether a key exists or not.

    Attack: a stranger reports guessed keys to learn which exist. Reports over plain HTTP are
    accepted: a key that was sent unencrypted should stop working, too.
    """
    if request.method != "POST":
        return _https_redirect(request) or render(request, "leaks/report.html")
    if _content_length(request) > reports.MAX_BYTES:
        return _respond(request, 413, TOO_LARGE)
    try:
        contents = reports.parse_report(request.body, request.headers)
    except NotGitHub as error:
        return _reject_forged_report(request, error)
    except reports.UnreadableReport:
        return _respond(request, 400, UNREADABLE)
    if contents.reporter != reports.GITHUB:
        if not _may_report(request):
            return _respond(request, 429, TOO_MANY)
        if not contents.keys:
            return _respond(request, 400, NO_KEY)
    handling.handle_report(contents, address=request.META["REMOTE_ADDR"])
    return _respond(request, 202, ACCEPTED)


@login_not_required
@require_safe
def key_format(request: HttpRequest) -> HttpResponse:
    return render(request, "leaks/format.html", {"format": scanner_rules.description()})


def _public_file(
    make: Callable[[], str], content_type: str
) -> Callable[[HttpRequest], HttpResponse]:
    """A view of a public file, generated for each request; clients may cache it for an hour."""

    @login_not_required
    @require_safe
    @cache_control(public=True, max_age=3600)
    def view(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - the same for all requests
        return HttpResponse(make(), content_type=f"{content_type}; charset=utf-8")

    return view


description = _public_file(lambda: json.dumps(scanner_rules.description()), "application/json")
gitleaks = _public_file(scanner_rules.gitleaks, "application/toml")
trufflehog = _public_file(scanner_rules.trufflehog, "application/yaml")
checker = _public_file(scanner_rules.checker, "text/x-python")


def _https_redirect(request: HttpRequest) -> HttpResponse | None:
    """Redirect the page with the form to https, so that a browser submits the form over https."""
    if request.is_secure() or not settings.SECURE_SSL_REDIRECT:
        return None
    return HttpResponsePermanentRedirect(f"https://{request.get_host()}{request.get_full_path()}")


def _content_length(request: HttpRequest) -> int:
    """The declared length: the server reads no more than that."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    is_number = length.isascii() and length.isdigit() and len(length) < 20
    return int(length) if is_number else reports.MAX_BYTES + 1


def _may_report(request: HttpRequest) -> bool:
    """Count a report by IP address; False if there were too many.

    The limiter of the sign-in: it counts in the database, over all workers, and treats an IPv6
    network as one address.
    """
    return bool(ratelimit.consume(request, action="report_leak"))


def _reject_forged_report(request: HttpRequest, error: NotGitHub) -> HttpResponse:
    """Reject the whole report before any key is looked up: the response depends only on the
    signature.

    A sender who really has the keys can report them without GitHub's headers.
    """
    if not _may_report(request):
        return _respond(request, 429, TOO_MANY)
    logger.warning("Rejected a leak report with GitHub's headers: %s.", error)
    return _respond(request, 403, FORGED)


def _respond(request: HttpRequest, status: int, sentence: str) -> HttpResponse:
    """A page for browsers, JSON for all other clients."""
    if request.get_preferred_type(RESPONSE_TYPES) == "text/html":
        context = {"sentence": sentence, "is_accepted": status == 202}
        response = render(request, "leaks/report.html", context, status=status)
    else:
        response = JsonResponse({"detail": sentence}, status=status)
    if status == 429:
        response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
