from datetime import timedelta

from django.conf import settings
from django.db import migrations, models


BY_PERSON = models.Q(disabled_at__isnull=False) & (
    models.Q(reported_at=None) | ~models.Q(disabled_at=models.F("reported_at"))
)


def hold(apps, schema_editor):
    """Whoever disabled a key before was an admin, unless the audit names its owner.

    An owner who is held by mistake asks an admin. One who is not held would undo what an admin did.
    """
    ApiKey = apps.get_model("keys", "ApiKey")
    AuditEvent = apps.get_model("activity", "AuditEvent")
    for key in ApiKey.objects.filter(BY_PERSON).select_related("owner").iterator():
        # The row was written right after the time was taken.
        by_owner = AuditEvent.objects.filter(
            public_id=key.public_id,
            action="key:disabled",
            actor=key.owner.username,
            created_at__gte=key.disabled_at,
            created_at__lt=key.disabled_at + timedelta(minutes=1),
        )
        if not by_owner.exists():
            ApiKey.objects.filter(pk=key.pk).update(is_held=True)


class Migration(migrations.Migration):
    """Apart from the column: that holds the table which each verdict reads, for a moment only."""

    dependencies = [
        ('activity', '0004_key_history'),
        ('keys', '0010_granted_end'),
        ('teams', '0004_policy'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [migrations.RunPython(hold, migrations.RunPython.noop, elidable=True)]
