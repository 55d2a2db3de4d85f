"""The protocol: allauth's authorization code flow with PKCE, and a nonce and our checks of tokens.

allauth keeps the state of each sign-in in the session that began it, for ten minutes and one use.
"""

from base64 import b64encode
from typing import Any
from urllib.parse import quote, urljoin

from allauth.socialaccount.models import SocialAccount, SocialLogin, SocialToken
from allauth.socialaccount.providers.base.constants import AuthProcess
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.crypto import get_random_string, salted_hmac
from django.utils.functional import cached_property

from keyportal.teams.models import User
from keyportal.teams.openid import id_token
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.providers import configured
from keyportal.teams.openid.requests import (
    Metadata,
    ProviderFailed,
    discover,
    get_json,
    post_form,
)

BASIC = "client_secret_basic"
ISSUER = "iss"


def callback_url(request: HttpRequest, provider_id: str) -> str:
    """The redirect address that is registered at the provider."""
    return _absolute(request, reverse("openid_connect_callback", args=[provider_id]))


def logout_url(request: HttpRequest, provider_id: str) -> str:
    return _absolute(request, reverse("openid_connect_logout", args=[provider_id]))


def _absolute(request: HttpRequest, path: str) -> str:
    if settings.PUBLIC_URL:
        return urljoin(settings.PUBLIC_URL, path)
    return request.build_absolute_uri(path)


def nonce_of(state: str) -> str:
    """Only this server can make it, and only for the session that holds the state."""
    return salted_hmac("openid nonce", state, algorithm="sha256").hexdigest()


class OpenIDAdapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # untyped base
    """Raises `OAuth2Error` where the provider fails, which allauth reports."""

    @cached_property
    def configuration(self) -> IdentityProvider:
        """Raises `NotOffered`."""
        return configured(self.provider_id)

    @cached_property
    def metadata(self) -> Metadata:
        try:
            return discover(self.configuration)
        except ProviderFailed as error:
            raise OAuth2Error(str(error)) from None

    @property
    def authorize_url(self) -> str:
        return self.metadata.authorization_endpoint

    # Of allauth's own HTTP client, which has no limits and is not used.
    access_token_url = ""
    basic_auth = False

    def get_callback_url(self, request: HttpRequest, app: Any) -> str:
        """Attack: the Host header chooses where the provider sends the code."""
        return callback_url(request, self.provider_id)

    def get_access_token_data(
        self, request: HttpRequest, app: Any, client: Any, pkce_code_verifier: str | None = None
    ) -> dict[str, Any]:
        fields = {
            "grant_type": "authorization_code",
            "code": request.GET["code"],
            "redirect_uri": self.get_callback_url(request, app),
            "code_verifier": pkce_code_verifier or "",
        }
        try:
            answer = post_form(
                self.metadata.token_endpoint,
                *with_client(fields, self.configuration, self.metadata),
            )
        except ProviderFailed as error:
            raise OAuth2Error(str(error)) from None
        if not isinstance(answer, dict):
            raise OAuth2Error("The token endpoint did not answer with an object")
        return answer

    def parse_token(self, data: dict[str, Any]) -> Any:
        """It is not stored: nothing is asked of the provider after the sign-in."""
        return SocialToken(token=str(data.get("access_token", "")))

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **more: Any) -> Any:
        try:
            claims = id_token.verify(
                more["response"].get("id_token"),
                self.configuration,
                self.metadata,
                nonce_of(request.GET["state"]),
            )
            claims = self._user_info(claims, token.token) | claims
        except ProviderFailed as error:
            raise OAuth2Error(str(error)) from None
        provider = self.get_provider()
        account = SocialAccount(
            provider=provider.sub_id, uid=claims["sub"], extra_data={ISSUER: claims["iss"]}
        )
        _require_same_issuer(account)
        login = SocialLogin(user=User(), account=account, provider=provider)
        login.claims = claims
        return login

    def _user_info(self, claims: dict[str, Any], token: str) -> dict[str, Any]:
        """More claims, if the ID token lacks the address, as Okta's does, or the groups."""
        needed = {"email"}
        if self.configuration.groups:
            needed.add(self.configuration.groups_claim)
        if needed <= claims.keys() or not self.metadata.userinfo_endpoint or not token.isascii():
            return {}
        answer = get_json(self.metadata.userinfo_endpoint, token=token)
        # Attack: the answer is about somebody else, whose address would then be taken.
        if not isinstance(answer, dict) or answer.get("sub") != claims["sub"]:
            raise ProviderFailed("the user info is of another person than the ID token")
        return answer


def _require_same_issuer(account: SocialAccount) -> None:
    """Raises `OAuth2Error` if the person was connected at another issuer.

    Attack: operators add a provider with the ID of one that the environment had. Its people have
    the identifiers (`sub`) of those who are connected, and would sign in as them. The environment
    may change an issuer: who sets it may do anything.
    """
    if account.provider in {provider.id for provider in settings.OIDC_PROVIDERS}:
        return
    before = SocialAccount.objects.filter(provider=account.provider, uid=account.uid).first()
    if before and before.extra_data.get(ISSUER) not in (None, account.extra_data[ISSUER]):
        raise OAuth2Error("The person was connected at another issuer with this ID")


class OpenIDProvider(OpenIDConnectProvider):  # type: ignore[misc]  # untyped base
    oauth2_adapter_class = OpenIDAdapter

    def redirect(
        self,
        request: HttpRequest,
        process: str,
        next_url: str | None = None,
        data: Any = None,
        **_: Any,
    ) -> HttpResponseBase:
        """Attack: a link that chooses the purpose, the scopes or other parameters of the request,
        all of which allauth would take from its query.
        """
        state = get_random_string(32)
        adapter = self.get_oauth2_adapter(request)
        again = {"prompt": "login", "max_age": "900"} if request.POST.get("again") else {}
        response: HttpResponseBase = super().redirect(
            request,
            AuthProcess.LOGIN,
            next_url,
            state_id=state,
            scope=list(adapter.configuration.scopes),
            auth_params={"nonce": nonce_of(state), **again},
        )
        return response


def with_client(
    fields: dict[str, str], provider: IdentityProvider, metadata: Metadata
) -> tuple[dict[str, str], dict[str, str]]:
    """Fields and headers of a request to the token endpoint, with our ID and secret."""
    if BASIC in metadata.token_endpoint_auth_methods_supported:
        return fields, {"Authorization": _basic(provider)}
    secrets = {"client_id": provider.client_id, "client_secret": provider.client_secret}
    return fields | secrets, {}


def _basic(provider: IdentityProvider) -> str:
    """RFC 6749, 2.3.1: both are encoded as in a form first."""
    pair = f"{quote(provider.client_id, safe='')}:{quote(provider.client_secret, safe='')}"
    return f"Basic {b64encode(pair.encode()).decode()}"
