"""Django's admin for operators: its sign-in, and the pages of users, teams and memberships."""

from typing import Any, cast

from allauth.account import admin as _registered  # noqa: F401 - registers what is unregistered below
from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.mfa import admin as _factors  # noqa: F401 - the same
from allauth.mfa.models import Authenticator
from allauth.socialaccount import admin as _also_registered  # noqa: F401 - the same
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm
from django.contrib.auth.models import Group
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from keyportal.keys.keystring import require_no_key
from keyportal.teams.access import Operator, lock_team, lock_teams_of
from keyportal.teams.forms import VersionedModelForm
from keyportal.teams.membership.admin import (
    KeepsOwners,
    MembershipForm,
    MembershipFormSet,
)
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.sign_in import factors
from keyportal.teams.sign_in.reauthentication import recently_authenticated
from keyportal.teams.signals import team_changed, team_created

admin.site.site_header = "Keyportal operators"
admin.site.site_title = "Keyportal"
admin.site.index_title = "Operator tasks"
admin.site.site_url = f"{settings.BASE_PATH}/"
# The admin uses the portal's sign-in page, so that one limit on failed sign-ins holds for both.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # as allauth has it


def _password_change(request: HttpRequest, extra_context: object = None) -> HttpResponse:  # noqa: ARG001 - as the admin calls it
    """Redirect to the portal's page, so that the limits on wrong passwords hold here too.

    Attack: someone at an open session guesses the current password in the admin's own form.
    """
    return redirect("account_change_password")


admin.site.password_change = _password_change  # type: ignore[assignment,method-assign]  # like the sign-in page

# A user's e-mail address is edited on the user's page. Attack: a second address, added here, could
# be used to sign in and to reset the password.
admin.site.unregister(EmailAddress)
# Attack: an operator gives another one a passkey. An action of the users' list resets factors.
admin.site.unregister(Authenticator)


# Providers are set in the environment. Attack: whoever may change these rows connects a superuser's
# account to a person of theirs at a provider.
admin.site.unregister([SocialApp, SocialToken, SocialAccount])


@admin.register(SocialAccount)
class ConnectedAccountAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Can be deleted, so that the person is connected anew, and nothing else."""

    list_display = ["user", "provider", "uid", "last_login"]
    list_filter = ["provider"]
    list_select_related = ["user"]
    search_fields = ["user__username", "user__email", "uid"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic at run time
    model = Membership
    form = MembershipForm
    formset = MembershipFormSet
    fields = ["team", "user", "role", "version"]
    autocomplete_fields = ["team", "user"]
    extra = 0


class ConfirmedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """Operators confirm who they are before they change what this model decides."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return recently_authenticated()(super().changeform_view)(request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return recently_authenticated()(super().delete_view)(request, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Its actions delete rows."""
        view = recently_authenticated(to_read=False)(super().changelist_view)
        return view(request, *args, **kwargs)


class ChangedFieldsAdmin(ConfirmedAdmin):
    """Saves only the changed fields, and refuses to save when another user has changed the row."""

    form = VersionedModelForm

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        may_change = obj is not None and self.has_change_permission(request, obj)
        return [*fieldsets, (None, {"fields": ["version"]})] if may_change else fieldsets

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=columns.intersection(form.changed_data))


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    def clean_name(self) -> str:
        require_no_key(self.cleaned_data["name"])
        return str(self.cleaned_data["name"])


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(ConfirmedAdmin, DjangoGroupAdmin):
    """Only for superusers. Attack: a staff user gives their own group every permission."""

    form = GroupForm

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)


def is_superuser(request: HttpRequest) -> bool:
    """Read again: it may have been taken from them since the request began."""
    return User.objects.filter(pk=request.user.pk or 0, is_active=True, is_superuser=True).exists()


# Only superusers see and send them.
PRIVILEGES = frozenset({"is_staff", "is_superuser", "groups", "user_permissions"})


class InitialPasswordForm(AdminPasswordChangeForm):  # type: ignore[type-arg]  # not generic at run time
    def save(self, commit: bool = True) -> User:
        self.user.must_change_password = True
        return cast("User", super().save(commit))


class UserForm(VersionedModelForm, UserChangeForm):  # type: ignore[type-arg]  # not generic at run time
    def clean(self) -> dict[str, Any] | None:
        lock_teams_of(Membership.objects.filter(user=self.instance.pk))
        return super().clean()


@admin.register(User)
class UserAdmin(KeepsOwners, ChangedFieldsAdmin, DjangoUserAdmin):  # type: ignore[type-arg]  # not generic at run time
    form = UserForm
    change_password_form = InitialPasswordForm
    list_display = ["username", "email", "is_active", "is_staff", "last_login"]
    list_filter = ["is_active", "is_staff", "is_superuser"]
    inlines = [MembershipInline]
    actions = ["reset_second_factor"]

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """Attack: a staff user who may change users makes themselves a superuser."""
        fieldsets = super().get_fieldsets(request, obj)
        if is_superuser(request):
            return fieldsets
        return [
            (title, {**options, "fields": _without_privileges(options["fields"])})
            for title, options in fieldsets
        ]

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            cast("User", obj).must_change_password = True
        super().save_model(request, obj, form, change)

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,  # noqa: A002 - Django's name
        form_url: str = "",
    ) -> HttpResponse:
        """Attack: someone at an open session of an operator sets the operator's own password here,
        where the current one is not asked for.
        """
        if self.get_object(request, unquote(id)) == request.user:
            return redirect("account_change_password")
        view = recently_authenticated()(super().user_change_password)
        return view(request, id, form_url)

    @admin.action(description="Reset second factor", permissions=["change"])
    def reset_second_factor(self, request: HttpRequest, users: QuerySet[User]) -> None:
        for user in users:
            if self.has_change_permission(request, user):
                factors.reset(user)
                self.message_user(request, f"The second factors of {user} are removed.")
            else:
                self.message_user(request, f"You may not change {user}.", messages.ERROR)

    def get_list_display(self, request: HttpRequest) -> Any:
        return _visible(request, super().get_list_display(request))

    def get_list_filter(self, request: HttpRequest) -> Any:
        return _visible(request, super().get_list_filter(request))

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Attack: `?is_superuser__exact=1` lists those whose flags are hidden."""
        is_hidden = lookup.partition("__")[0] in PRIVILEGES and not is_superuser(request)
        return not is_hidden and super().lookup_allowed(lookup, value, request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _may_change(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_change(request, obj)

    add_fieldsets = [
        (
            None,
            {
                "classes": ["wide"],
                "fields": ["username", "email", "usable_password", "password1", "password2"],
            },
        )
    ]


def _may_change(request: HttpRequest, user: User | None) -> bool:
    """Only superusers change other operators, their passwords and their addresses.

    Attack: a staff user sets a superuser's password, or has it reset to an address of their own.
    """
    if user is None or user == request.user:
        return True
    return not (user.is_staff or user.is_superuser) or is_superuser(request)


def _visible(request: HttpRequest, names: Any) -> Any:
    return names if is_superuser(request) else _without_privileges(names)


def _without_privileges(names: Any) -> list[Any]:
    return [name for name in names if name not in PRIVILEGES]


@admin.register(Team)
class TeamAdmin(ChangedFieldsAdmin):
    list_display = ["name", "slug", "key_count", "max_keys", "is_active", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["name", "slug"]
    fields = ["name", "slug", "max_keys", "is_active", "limits", "key_limits", "policy_text"]
    inlines = [MembershipInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        """Only `change_slug` changes a slug, because names of models and permissions follow."""
        return ["slug", "policy_text"] if obj else ["policy_text"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        return Team.objects.annotate(key_count=Count("keys"))

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            address = request.META.get("REMOTE_ADDR")
            team_created.send(Team, team=obj, actor=request.user, address=address)
            return
        actor = Operator(cast("User", request.user), "teams.change_team")
        with lock_team(form.instance, actor=actor, role=Role.ADMIN) as former:
            super().save_model(request, obj, form, change)
            source = {"actor": actor, "address": request.META.get("REMOTE_ADDR")}
            team_changed.send(Team, former=former, team=obj, columns=form.changed_data, **source)

    @admin.display(description="Policy")
    def policy_text(self, team: Team) -> str:
        """Read-only: team admins change it in the portal, operators with the command `setpolicy`.

        Both write an audit event.
        """
        return "; ".join(f"{label}: {text}" for label, text in team.policy.describe().items())

    @admin.display(description="API keys", ordering="key_count")
    def key_count(self, team: Team) -> int:
        return team.key_count  # type: ignore[attr-defined,no-any-return]  # annotated above


@admin.register(Membership)
class MembershipAdmin(KeepsOwners, ChangedFieldsAdmin):
    form = MembershipForm
    list_display = ["user", "team", "role", "created_at"]
    list_filter = ["role"]
    list_select_related = ["user", "team"]
    search_fields = ["user__username", "user__email", "team__name", "team__slug"]
    autocomplete_fields = ["team", "user"]
