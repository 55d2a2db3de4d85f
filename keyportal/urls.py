"""The site map of the portal. `/v1/` is not here: the gateway is no part of Django's stack.

Where `KEYPORTAL_URL` has a path, all pages are below it. Django's `FORCE_SCRIPT_NAME` is not used:
it holds for one thread, and mails with links are also written by threads of the gateway.
"""

from allauth.account import views as account
from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.decorators.cache import never_cache

from keyportal.api.framework import dispatch as api
from keyportal.gateway import wrong_base_url
from keyportal.people.views import accept
from keyportal.teams import views as teams
from keyportal.teams.lifecycle import views as lifecycle
from keyportal.teams.openid import logout
from keyportal.teams.openid import views as openid
from keyportal.teams.sign_in import links
from keyportal.teams.sign_in import urls as factors
from keyportal.teams.sign_in import views as sign_in

account_urls = [
    path("login/", sign_in.SignInView.as_view(), name="account_login"),
    path(
        "oidc/<slug:provider_id>/logout/",
        logout.back_channel_logout,
        name="openid_connect_logout",
    ),
    path("oidc/<slug:provider_id>/login/", openid.begin, name="openid_connect_login"),
    # allauth reverses this name.
    path(
        "oidc/<slug:provider_id>/login/callback/",
        openid.callback,
        name="openid_connect_callback",
    ),
    path("logout/", account.logout, name="account_logout"),
    path("reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("sign-in-again/", sign_in.sign_in_again, name="account_sign_in_again"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("password/change/", sign_in.PasswordChangeView.as_view(), name="account_change_password"),
    # The page above redirects users without a password to this one.
    path("password/set/", sign_in.PasswordSetView.as_view(), name="account_set_password"),
    path("password/reset/", account.password_reset, name="account_reset_password"),
    path("password/reset/done/", account.password_reset_done, name="account_reset_password_done"),
    # The key holds a hyphen of its own, so the user's part ends at the first.
    re_path(
        r"^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[^/]+)/$",
        sign_in.PasswordResetFromKeyView.as_view(),
        name="account_reset_password_from_key",
    ),
    path(
        "password/reset/key/done/",
        account.password_reset_from_key_done,
        name="account_reset_password_from_key_done",
    ),
]

account_urls = [sign_in.with_passwords(page) for page in account_urls]
account_urls.append(path("link/<str:token>/", links.sign_in, name="account_sign_in_link"))

# Neither a proxy nor the Back button may show them: their addresses can hold a token.
for page in account_urls:
    page.callback = never_cache(page.callback)

pages: list[URLPattern | URLResolver] = [
    path("", teams.home, name="home"),
    path("", include("keyportal.leaks.urls")),
    path("", include("keyportal.keys.programs.urls")),
    path("accounts/", include(account_urls)),
    path("accounts/", include(factors.account_urls)),
    path("profile/", include("keyportal.profile.urls")),
    path("profile/", include(factors.profile_urls)),
    re_path(r"^invitations/(?P<token>[\w:=-]{1,400})/$", accept.invitation, name="invitation"),
    path("admin/", admin.site.urls),
    path("api/", include("keyportal.api.urls")),
    path("operators/", include("keyportal.operators.urls")),
    path("teams/create/", lifecycle.team_create, name="team_create"),
    path("teams/<slug:slug>/", include("keyportal.keys.urls")),
    path("teams/<slug:slug>/", include("keyportal.api.page_urls")),
    path("teams/<slug:slug>/", include("keyportal.catalog.urls")),
    path("teams/<slug:slug>/", include("keyportal.operators.server_urls")),
    path("teams/<slug:slug>/", include("keyportal.audit.urls")),
    path("teams/<slug:slug>/", include("keyportal.usage.urls")),
    path("teams/<slug:slug>/", include("keyportal.people.urls")),
    path("teams/<slug:slug>/", include("keyportal.teams.urls")),
]
# Without the slash at the start, which Django adds itself.
urlpatterns = [path(f"{settings.BASE_PATH[1:]}/", include(pages))] if settings.BASE_PATH else pages

handler400 = api.bad_request
handler500 = api.server_error
handler403 = teams.permission_denied
handler404 = wrong_base_url.not_found
