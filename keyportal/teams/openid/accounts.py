"""Which account a person of an identity provider signs in to: connected, found or made."""

import logging
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialLogin
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.shortcuts import redirect

from keyportal.teams.models import User
from keyportal.teams.openid import grants
from keyportal.teams.openid.configuration import IdentityProvider
from keyportal.teams.openid.providers import NotOffered, configured, identity_providers
from keyportal.teams.sign_in.unproved import end_password, give_to_owner_of_address
from keyportal.teams.signals import account_wanted

logger = logging.getLogger(__name__)


class Refused(Exception):
    """This person may not sign in here. The text says why, for operators."""


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # untyped base
    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[Any]:
        """Never the rows of allauth. Attack: whoever may add some adds a provider of their own."""
        return [
            SocialApp(
                provider="openid_connect",
                provider_id=found.id,
                name=found.name,
                client_id=found.client_id,
            )
            for found in identity_providers()
            if provider in (None, "openid_connect", found.id)
            and client_id in (None, found.client_id)
        ]

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Find or make the account, or end the sign-in. Raises `NotOffered`."""
        provider = configured(sociallogin.account.provider)
        try:
            with transaction.atomic():
                provider = _require_unchanged(sociallogin)
                _choose_account(sociallogin, provider)
            _apply_groups(sociallogin, provider)
        except (Refused, ValidationError, IntegrityError) as error:
            logger.warning(
                "Sign-in with %s from %s was refused: %s",
                provider.id,
                request.META.get("REMOTE_ADDR"),
                _reason(error),
            )
            text = (
                f"Your {provider.name} account may not sign in here. Ask an operator, "
                "who finds the reason in the log."
            )
            raise ImmediateHttpResponse(_back(request, text)) from None

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: str | None = None,
        exception: Exception | None = None,
        extra_context: dict[str, Any] | None = None,
    ) -> None:
        """Show the sign-in page again. What the provider said is only logged."""
        reason = exception or request.GET.get("error") or "the state is unknown or too old"
        logger.warning(
            "Sign-in with %s from %s failed: %r",
            provider.sub_id,
            request.META.get("REMOTE_ADDR"),
            str(reason)[:500],
        )
        raise ImmediateHttpResponse(
            _back(request, f"The sign-in with {provider.name} did not succeed. Try it again.")
        )


def _back(request: HttpRequest, text: str) -> Any:
    messages.error(request, text)
    return redirect("account_login")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return " ".join(error.messages)
    return "another sign-in was faster" if isinstance(error, IntegrityError) else str(error)


def _require_unchanged(login: SocialLogin) -> IdentityProvider:
    """The provider, locked. Raises `NotOffered`.

    Attack: somebody is at a provider that an operator deletes, or gives another issuer. They would
    be connected afterwards, and so be whoever has the same `sub` at the next one.
    """
    provider = configured(login.account.provider, lock=True)
    if login.claims["iss"] != provider.issuer:
        raise NotOffered
    return provider


def _choose_account(login: SocialLogin, provider: IdentityProvider) -> None:
    """Sets the login's user. Raises `Refused`, or `ValidationError` for a new account."""
    address = verified_address(login.claims, provider)
    if provider.domains and not (address and provider.accepts(address)):
        raise Refused(f"no verified address of its domains, but {login.claims.get('email')!r:.200}")
    if not login.is_existing:
        login.user = _connected_by_address(provider, address) or _made(provider, address, login)
        login.account.user = login.user
        login.account.save()
    _follow_address(login.user, provider, address)


def _apply_groups(login: SocialLogin, provider: IdentityProvider) -> None:
    """Not in the transaction above: whoever changes members locks the team before the person."""
    groups = grants.groups_of(login.claims, provider)
    if login.user.is_active and groups is not None:
        grants.apply(login.user, provider.id, provider.groups, groups)


def verified_address(claims: dict[str, Any], provider: IdentityProvider) -> str:
    """The person's address in lower case if the provider has verified it, else empty.

    Attack: a person enters somebody else's address at the provider. So does a provider that says
    nothing about it, unless the settings say that its addresses are verified; and a text such as
    "false" is no `true`.
    """
    address = User.objects.normalize_email(str(claims.get("email") or ""))
    is_verified = claims.get("email_verified", provider.addresses_verified)
    try:
        validate_email(address)
    except ValidationError:
        return ""
    return address if is_verified is True and len(address) <= 254 else ""


def _connected_by_address(provider: IdentityProvider, address: str) -> User | None:
    """The existing account with the address, if it may be connected."""
    user = User.objects.select_for_update().filter(email__iexact=address).first()
    if not address or user is None:
        return None
    if not provider.trust_addresses:
        raise Refused(f"{user} has this address, and trust_addresses is not set")
    # Attack: the address of somebody who left is given to somebody new.
    if SocialAccount.objects.filter(provider=provider.id, user=user).exists():
        raise Refused(f"{user} has this address, and is connected to another person there")
    if user.must_change_password:
        # Somebody else knows the password. Now nobody needs it.
        end_password(user)
    give_to_owner_of_address(user)
    return user


def _is_wanted(address: str) -> bool:
    return any(answer for _, answer in account_wanted.send(User, address=address))


def _made(provider: IdentityProvider, address: str, login: SocialLogin) -> User:
    if not address:
        raise Refused("the address is not verified")
    if not (provider.create_accounts or _is_wanted(address)):
        raise Refused("no account has this address, and create_accounts is not set")
    claims = {name: str(value) for name, value in login.claims.items() if isinstance(value, str)}
    wanted = [claims.get("preferred_username", "").partition("@")[0], address.partition("@")[0]]
    user = User(
        username=get_adapter().generate_unique_username([*wanted, "user"]),
        email=address,
        first_name=claims.get("given_name", "")[:150],
        last_name=claims.get("family_name", "")[:150],
    )
    user.set_unusable_password()
    user.full_clean()
    user.save()
    return user


def _follow_address(user: User, provider: IdentityProvider, address: str) -> None:
    """Take over a new address of a trusted provider, unless another account has it."""
    if not (provider.trust_addresses and address) or address == user.email:
        return
    if not User.objects.exclude(pk=user.pk).filter(email__iexact=address).exists():
        user.email = address
        user.save(update_fields=["email"])
