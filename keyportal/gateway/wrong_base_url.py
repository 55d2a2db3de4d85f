"""The portal's 404: a page for people, and JSON for a program whose base URL is wrong."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from keyportal.gateway.aliases import expects_anthropic
from keyportal.gateway.errors import UnknownPath
from keyportal.http.requests import new_request_id
from keyportal.teams import views

PROGRAM_HEADERS = ("authorization", "x-api-key", "api-key", "anthropic-version")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler. The headers only choose the form of the answer: no key is checked."""
    if not _is_program(request):
        return views.not_found(request, exception)
    id_ = new_request_id()
    headers = [(name.lower().encode(), b"") for name in request.headers]
    path = request.path.removeprefix(settings.BASE_PATH)
    body = UnknownPath().body(id_, is_anthropic=expects_anthropic(path, headers))
    sent = {"X-Request-Id": id_, "Cache-Control": "no-store"}
    return HttpResponse(body, status=404, content_type="application/json", headers=sent)


def _is_program(request: HttpRequest) -> bool:
    """Whether it sends an API key as clients of models do, and doesn't ask for a page.

    A browser behind a proxy that signs people in may send Authorization too.
    """
    has_key = any(name in request.headers for name in PROGRAM_HEADERS)
    return has_key and "text/html" not in request.headers.get("accept", "")
