"""The addresses that programs call: RFC 8628 (device flow), RFC 7009 (revocation) and RFC 8414
(metadata). Clients need no registration: their name is what they say, and people are told so."""

from typing import Any

from allauth.core import ratelimit
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from keyportal.catalog.examples import public_url
from keyportal.keys.models.program_sign_in import CODE_LIFETIME, POLL_SECONDS, ProgramSignIn
from keyportal.keys.programs import device_flow
from keyportal.keys.programs.device_flow import Refused

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def _absolute(request: HttpRequest, name: str) -> str:
    """`reverse` gives the path of the public address too."""
    return public_url(request).removesuffix(settings.BASE_PATH) + reverse(name)


def _answer(content: dict[str, Any], status: int = 200) -> JsonResponse:
    return JsonResponse(content, status=status, headers={"Cache-Control": "no-store"})


def _error(code: str, description: str = "", status: int = 400) -> JsonResponse:
    details = {"error_description": description} if description else {}
    return _answer({"error": code, **details}, status)


@login_not_required
@require_safe
def metadata(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "issuer": public_url(request),
            "device_authorization_endpoint": _absolute(request, "programs:begin"),
            "token_endpoint": _absolute(request, "programs:token"),
            "revocation_endpoint": _absolute(request, "programs:revoke"),
            "grant_types_supported": [DEVICE_GRANT],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
        }
    )


@csrf_exempt  # These views ignore sessions, so there is no user whose request could be forged.
@login_not_required
@require_POST
def begin(request: HttpRequest) -> HttpResponse:
    client = request.POST.get("client_id", "")
    try:
        ProgramSignIn._meta.get_field("client").clean(client, None)
    except ValidationError:
        return _error("invalid_client", "client_id is the program's name, of 1 to 40 characters.")
    if not ratelimit.consume(request, action="device_begin"):
        return _error("slow_down", "Too many sign-ins from this network. Wait a minute.", 429)
    codes = device_flow.begin(client, request.META["REMOTE_ADDR"])
    user_code = f"{codes.user_code[:4]}-{codes.user_code[4:]}"
    page = _absolute(request, "programs:enter")
    return _answer(
        {
            "device_code": codes.device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?code={user_code}",
            "expires_in": int(CODE_LIFETIME.total_seconds()),
            "interval": POLL_SECONDS,
        }
    )


@csrf_exempt
@login_not_required
@require_POST
@sensitive_post_parameters()
@sensitive_variables()
def token(request: HttpRequest) -> HttpResponse:
    if request.POST.get("grant_type") != DEVICE_GRANT:
        return _error("unsupported_grant_type")
    if not ratelimit.consume(request, action="device_poll"):
        return _error("slow_down", "Too many requests from this network.", 429)
    try:
        key, key_string = device_flow.redeem(
            request.POST.get("device_code", ""), request.POST.get("client_id", "")
        )
    except Refused as refusal:
        return _error(refusal.code, str(refusal))
    left = key.expires_at - key.read_at if key.expires_at else device_flow.KEY_LIFETIME
    return _answer(
        {
            "access_token": key_string.text,
            "token_type": "Bearer",
            "expires_in": int(left.total_seconds()),
        }
    )


@csrf_exempt
@login_not_required
@require_POST
@sensitive_post_parameters()
@sensitive_variables()
def revoke(request: HttpRequest) -> HttpResponse:
    """Always 200: the answer says nothing about a token that was guessed."""
    if not ratelimit.consume(request, action="device_poll"):
        return _error("slow_down", "Too many requests from this network.", 429)
    device_flow.revoke(request.POST.get("token", ""), request.META["REMOTE_ADDR"])
    return _answer({})
