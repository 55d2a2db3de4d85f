"""The filter of the audit page."""

from django import forms

from keyportal.audit.models import Action


class AuditFilter(forms.Form):
    action = forms.ChoiceField(
        choices=[("", "All actions"), *Action.choices], required=False, label="Action"
    )

    @property
    def chosen(self) -> str:
        """The action to show; empty for all, and for one that does not exist."""
        return str(self.cleaned_data["action"]) if self.is_valid() else ""
