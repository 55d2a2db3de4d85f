"""Django's admin, for operators: users, teams and memberships; and how one gets in."""

from typing import Any

from allauth.account import admin as _registered  # noqa: F401 - before it is taken back below
from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Count, Model, QuerySet
from django.http import HttpRequest

from keyportal.teams.forms import merged_limits
from keyportal.teams.models import Membership, Team, User
from keyportal.teams.rules import locked_rules
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
    fields = ["team", "user", "role"]
    autocomplete_fields = ["team", "user"]
    extra = 0

    def formfield_for_dbfield(self, *args: Any, **kwargs: Any) -> Any:
        """A row whose fields are as they were shown is not saved: it may give a role back."""
        if field := super().formfield_for_dbfield(*args, **kwargs):
            field.show_hidden_initial = True
        return field


class SavesWhatWasChanged(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    """And nothing that a page merely shows: somebody may have been let go since it was opened."""

    def get_form(self, *args: Any, **kwargs: Any) -> Any:
        form = super().get_form(*args, **kwargs)
        for field in form.base_fields.values():
            # A disabled one is never changed; the digest of a password is none to show in full.
            field.show_hidden_initial = not field.disabled
        return form

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=columns.intersection(form.changed_data))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        for field in form.instance._meta.many_to_many:
            if change and field.name not in form.changed_data:
                form.cleaned_data.pop(field.name, None)  # What isn't there is left as it is.
        super().save_related(request, form, formsets, change)


@admin.register(User)
class UserAdmin(SavesWhatWasChanged, DjangoUserAdmin):  # type: ignore[type-arg]  # not generic at run time
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


class TeamForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    def keep_rest(self, team: Team) -> None:
        """Each limit that was not changed here is as the team has it now, and not as shown."""
        for name in ("limits", "key_limits"):
            if name in self.changed_data:
                setattr(self.instance, name, merged_limits(self, name, getattr(team, name)))


@admin.register(Team)
class TeamAdmin(SavesWhatWasChanged):
    form = TeamForm
    list_display = ["name", "slug", "key_count", "key_limit", "is_active", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["name", "slug"]
    fields = ["name", "slug", "key_limit", "is_active", "limits", "key_limits", "policy_in_words"]
    inlines = [MembershipInline]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> list[str]:
        """A slug is part of addresses, of model names and of history, so it never changes."""
        return ["slug", "policy_in_words"] if obj else ["policy_in_words"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        return Team.objects.annotate(key_count=Count("keys"))

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        with locked_rules(form.instance) as now:
            form.keep_rest(now)
            super().save_model(request, obj, form, change)
            who = {"actor": request.user, "address": request.META.get("REMOTE_ADDR")}
            team_changed.send(Team, former=now, team=obj, columns=form.changed_data, **who)

    @admin.display(description="Policy")
    def policy_in_words(self, team: Team) -> str:
        """Its admins set it in the portal, and operators with `setpolicy`; both leave a trace."""
        return "; ".join(f"{label}: {words}" for label, words in team.policy.in_words().items())

    @admin.display(description="API keys", ordering="key_count")
    def key_count(self, team: Team) -> int:
        return team.key_count  # type: ignore[attr-defined,no-any-return]  # annotated above


@admin.register(Membership)
class MembershipAdmin(SavesWhatWasChanged):
    list_display = ["user", "team", "role", "created_at"]
    list_filter = ["role"]
    list_select_related = ["user", "team"]
    search_fields = ["user__username", "user__email", "team__name", "team__slug"]
    autocomplete_fields = ["team", "user"]
