"""The filter of the audit page."""

from django import forms

from keyportal.audit.models import Action


class AuditFilter(forms.Form):
    action = forms.ChoiceField(
        choices=[("", "All actions"), *Action.choices], required=False, label="Action"
    )

    @property
    def chosen_action(self) -> str:
        """The selected action; empty for all actions, and for an unknown one."""
        return str(self.cleaned_data["action"]) if self.is_valid() else ""
