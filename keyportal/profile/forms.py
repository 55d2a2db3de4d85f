"""Forms of the profile."""

import zoneinfo
from typing import ClassVar

from django import forms

from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import Theme, User

SAFE_ZONES = sorted(zone for zone in zoneinfo.available_timezones() if "/" in zone or zone == "UTC")


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    time_zone = forms.ChoiceField(
        choices=[("", "That of the browser"), *((zone, zone) for zone in SAFE_ZONES)],
        required=False,
    )
    theme = forms.ChoiceField(choices=Theme.choices, required=False)

    class Meta:
        model = User
        fields: ClassVar = [
            "first_name",
            "last_name",
            "time_zone",
            "theme",
            "wants_reminders",
            "wants_alarms",
        ]

    def clean_first_name(self) -> str:
        return _checked(self.cleaned_data["first_name"])

    def clean_last_name(self) -> str:
        return _checked(self.cleaned_data["last_name"])


class EmailForm(forms.Form):
    email = forms.EmailField(max_length=254)

    def clean_email(self) -> str:
        return User.objects.normalize_email(_checked(self.cleaned_data["email"]))


def _checked(name: str) -> str:
    require_no_key(name)
    return name
