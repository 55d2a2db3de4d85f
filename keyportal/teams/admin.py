"""Django's admin, for operators: users, teams and memberships; and how one gets in."""

from typing import Any

from allauth.account import admin as _registered  # noqa: F401 - before it is taken back below
from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import UserChangeForm
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest

from keyportal.teams.forms import VersionedModelForm
from keyportal.teams.models import Membership, Team, User, lock_team
from keyportal.teams.signals import team_changed

admin.site.site_header = "Keyportal operators"
admin.site.site_title = "Keyportal"
admin.site.index_title = "Everything that operators look after"
# One way in, with one limit on guessing: our sign-in page.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]  # as allauth has it

# A user has one address, on the user's own page; another one added here would open the account.
admin.site.unregister(EmailAddress)


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic at run time
    model = Membership
    form = VersionedModelForm
    fields = ["team", "user", "role", "version"]
    autocomplete_fields = ["team", "user"]
    extra = 0


class ChangedFieldsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """And nothing that a page merely shows; what others changed meanwhile is a conflict."""

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


class UserForm(VersionedModelForm, UserChangeForm):  # type: ignore[type-arg]  # not generic at run time
    pass


@admin.register(User)
class UserAdmin(ChangedFieldsAdmin, DjangoUserAdmin):  # type: ignore[type-arg]  # not generic at run time
    form = UserForm
    list_display = ["username", "email", "is_active", "is_staff", "last_login"]
    list_filter = ["is_active", "is_staff", "is_superuser"]
    inlines = [MembershipInline]
    add_fieldsets = [
        (
            None,
            {
                "classes": ["wide"],
                "fields": ["username", "email", "usable_password", "password1", "password2"],
            },
        )
    ]


@admin.register(Team)
class TeamAdmin(ChangedFieldsAdmin):
    list_display = ["name", "slug", "key_count", "key_limit", "is_active", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["name", "slug"]
    fields = ["name", "slug", "key_limit", "is_active", "limits", "key_limits", "policy_text"]
    inlines = [MembershipInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        """A slug is part of addresses, of model names and of history, so it never changes."""
        return ["slug", "policy_text"] if obj else ["policy_text"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        return Team.objects.annotate(key_count=Count("keys"))

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        with lock_team(form.instance) as now:
            super().save_model(request, obj, form, change)
            who = {"actor": request.user, "address": request.META.get("REMOTE_ADDR")}
            team_changed.send(Team, former=now, team=obj, columns=form.changed_data, **who)

    @admin.display(description="Policy")
    def policy_text(self, team: Team) -> str:
        """Its admins set it in the portal, and operators with `setpolicy`; both leave a trace."""
        return "; ".join(f"{label}: {words}" for label, words in team.policy.describe().items())

    @admin.display(description="API keys", ordering="key_count")
    def key_count(self, team: Team) -> int:
        return team.key_count  # type: ignore[attr-defined,no-any-return]  # annotated above


@admin.register(Membership)
class MembershipAdmin(ChangedFieldsAdmin):
    list_display = ["user", "team", "role", "created_at"]
    list_filter = ["role"]
    list_select_related = ["user", "team"]
    search_fields = ["user__username", "user__email", "team__name", "team__slug"]
    autocomplete_fields = ["team", "user"]
