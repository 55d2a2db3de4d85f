"""Teams, and every slug that a team has or had."""

import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models.functions import Now

from keyportal.keys.keystring import require_no_key
from keyportal.teams.fields import LimitsField
from keyportal.teams.models.user import User
from keyportal.teams.policy import PolicyField

SLUG_TAKEN = "Another team has or had this slug. A slug is never used again."


def new_slug() -> str:
    """A random slug: `u-` and 12 hexadecimal digits, such as `u-8105f7322477`."""
    return f"u-{secrets.token_hex(6)}"


def default_max_keys() -> int:
    return int(settings.MAX_KEYS)


FORMER_SLUG_WORKS = timedelta(days=90)


class UsedSlugQuerySet(models.QuerySet["UsedSlug"]):
    def former(self) -> "UsedSlugQuerySet":
        """Former slugs of existing teams that still work, by the database's clock."""
        begin = Now() - FORMER_SLUG_WORKS
        return self.filter(team__isnull=False, replaced_at__gt=begin).order_by("-replaced_at")

    def outlived(self) -> "UsedSlugQuerySet":
        """Former slugs of existing teams that work no longer, which workers may not know yet."""
        outlived = self.filter(team__isnull=False, replaced_at__lte=Now() - FORMER_SLUG_WORKS)
        return outlived.filter(is_end_known=False)


class UsedSlug(models.Model):
    """A slug that a team has, or had before its deletion or before it got another one.

    Attack: audit, usage and receipts refer to a team by its slug and outlive it, so a new team
    with the slug of a deleted one could read that team's history. A slug is therefore stored here
    in the transaction that creates its team, and never removed. Its primary key prevents a second
    use, in whatever way the first team was deleted.
    """

    slug = models.CharField(max_length=64, primary_key=True)
    team = models.ForeignKey(
        "teams.Team",
        models.SET_NULL,
        null=True,
        related_name="used_slugs",
        help_text="Whose slug it is or was. Null: the team was deleted.",
    )
    replaced_at = models.DateTimeField(
        null=True, help_text="When the team got another slug. Null: it has this one."
    )
    is_end_known = models.BooleanField(
        db_default=False, help_text="Whether workers have been told that it works no longer."
    )

    objects = UsedSlugQuerySet.as_manager()

    def __str__(self) -> str:
        return self.slug

    @property
    def works_until(self) -> datetime | None:
        """The end of the time for which addresses and model names with a former slug work."""
        return self.replaced_at and self.replaced_at + FORMER_SLUG_WORKS


class TeamQuerySet(models.QuerySet["Team"]):
    def for_user(self, user: User) -> "TeamQuerySet":
        return self.filter(memberships__user=user).order_by("name", "slug")

    def find(self, slug: str) -> "Team | None":
        """The team with this slug, or with this former slug that still works."""
        former = UsedSlug.objects.former().filter(slug=slug)
        return self.filter(slug=slug).first() or self.filter(used_slugs__in=former).first()


class Team(models.Model):
    """Owns API keys; its limits hold for the keys of all its members together."""

    slug = models.CharField(
        max_length=64,
        unique=True,
        default=new_slug,
        validators=[
            RegexValidator(
                # Models named `public/...` are for all teams, so no team may have this slug.
                r"\A(?!public\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z",
                "Use lower-case letters, digits and hyphens, with no hyphen at the start or end. "
                "The slug `public` is reserved.",
            )
        ],
        help_text="Part of URLs and model names.",
    )
    history_slug = models.CharField(
        max_length=64,
        unique=True,
        editable=False,
        help_text="The first slug. Audit, usage and counters refer to the team by it.",
    )
    name = models.CharField(max_length=100, validators=[require_no_key])
    max_keys = models.PositiveIntegerField(
        default=default_max_keys,
        validators=[MaxValueValidator(1_000_000)],
        help_text="Maximum number of API keys of the team.",
    )
    is_active = models.BooleanField(
        default=True, help_text="The keys of an inactive team are refused from the next request on."
    )
    limits = LimitsField(help_text="Limits for all keys of the team together.")
    key_limits = LimitsField(
        help_text="The limits of a new key, and the maximum that members may set for their keys."
    )
    policy = PolicyField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TeamQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises `IntegrityError` for a new team whose slug another team has or had."""
        with transaction.atomic():
            is_new = self._state.adding
            if is_new:
                self.history_slug = self.slug
            super().save(*args, **kwargs)
            if is_new:
                UsedSlug.objects.create(slug=self.slug, team=self)

    def clean(self) -> None:
        if self._state.adding and UsedSlug.objects.filter(slug=self.slug).exists():
            raise ValidationError({"slug": SLUG_TAKEN})
