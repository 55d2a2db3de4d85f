import django.core.validators
import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
import keyportal.keys.keystring
import keyportal.keys.rules.validators
import keyportal.teams.fields
import keyportal.teams.limits
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('teams', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='SpentNonce',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('nonce', models.CharField(max_length=64, unique=True)),
                ('spent_at', models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64, validators=[keyportal.keys.rules.validators.require_printable, keyportal.keys.keystring.require_no_key])),
                ('public_id', models.CharField(editable=False, max_length=8, unique=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('expiry_set_at', models.DateTimeField(editable=False, help_text='Null: at creation.', null=True)),
                ('disabled_at', models.DateTimeField(blank=True, null=True)),
                ('disabled_by', models.CharField(blank=True, choices=[('owner', 'Its owner'), ('admin', 'An admin or operator'), ('leak', 'A leak report')], editable=False, help_text='Empty: enabled.', max_length=8)),
                ('is_managed', models.BooleanField(default=False, help_text='Only admins and operators can change its permissions, limits, expiry and owner, or enable it. Its owner can use, edit, rotate, disable and delete it.')),
                ('reported_at', models.DateTimeField(editable=False, help_text='When it was reported as leaked.', null=True)),
                ('description', models.CharField(blank=True, max_length=500, validators=[keyportal.keys.keystring.require_no_key])),
                ('tags', models.JSONField(blank=True, default=list)),
                ('allowed_models', models.JSONField(blank=True, default=list, help_text='Names of served models, or patterns such as public/*. Empty: all.')),
                ('endpoints', models.CharField(choices=[('all', 'All endpoints'), ('chat', 'Chat and text generation only'), ('embeddings', 'Embeddings only'), ('read', 'Read-only: list the models, call none')], default='all', max_length=16)),
                ('allowed_networks', models.JSONField(blank=True, default=list, help_text='Allowed networks (CIDR). Empty: all.')),
                ('limits', keyportal.teams.fields.LimitsField(blank=True, default=keyportal.teams.limits.Limits)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='keys', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='keys', to='teams.team')),
            ],
            options={
                'verbose_name': 'API key',
                'indexes': [
                    models.Index(fields=['team', '-created_at', '-id'], name='apikey_newest_in_team'),
                    models.Index(condition=models.Q(('expires_at__isnull', False)), fields=['expires_at'], name='apikey_by_expiry'),
                    models.Index(condition=models.Q(('reported_at__isnull', False)), fields=['team'], name='apikey_reported_in_team'),
                ],
                'constraints': [
                    models.UniqueConstraint(fields=('team', 'name'), name='apikey_name_unique_in_team', violation_error_message='A key with this name already exists in the team.'),
                    models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='apikey_name_not_empty'),
                    models.CheckConstraint(condition=models.Q(('endpoints__in', ['all', 'chat', 'embeddings', 'read'])), name='apikey_endpoints_known'),
                    models.CheckConstraint(condition=models.Q(models.Q(('disabled_at', None), ('disabled_by', '')), models.Q(('disabled_at__isnull', False), ('disabled_by__in', ['owner', 'admin', 'leak'])), _connector='OR'), name='apikey_disabled_by_whom'),
                ],
            },
        ),
        migrations.CreateModel(
            name='KeyTemplate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64, validators=[keyportal.keys.rules.validators.require_printable, keyportal.keys.keystring.require_no_key])),
                ('allowed_models', models.JSONField(blank=True, default=list)),
                ('endpoints', models.CharField(choices=[('all', 'All endpoints'), ('chat', 'Chat and text generation only'), ('embeddings', 'Embeddings only'), ('read', 'Read-only: list the models, call none')], default='all', max_length=16)),
                ('allowed_networks', models.JSONField(blank=True, default=list)),
                ('lifetime_days', models.PositiveIntegerField(blank=True, null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(3650)])),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='templates', to='teams.team')),
            ],
            options={
                'constraints': [
                    models.UniqueConstraint(fields=('team', 'name'), name='template_name_unique_in_team', violation_error_message='A template with this name already exists in the team.'),
                    models.CheckConstraint(condition=models.Q(('endpoints__in', ['all', 'chat', 'embeddings', 'read'])), name='template_endpoints_known'),
                ],
            },
        ),
        migrations.CreateModel(
            name='Secret',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('digest', models.BinaryField(max_length=32, unique=True)),
                ('prefix', models.CharField(max_length=32)),
                ('last4', models.CharField(max_length=4)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('expires_when_new_used', models.BooleanField(default=False, help_text='Expires when a newer secret of the key is first used.')),
                ('last_used_at', models.DateTimeField(editable=False, null=True)),
                ('last_used_address', models.GenericIPAddressField(editable=False, null=True)),
                ('last_used_user_agent', models.CharField(blank=True, editable=False, max_length=200)),
                ('key', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='secrets', to='keys.apikey')),
            ],
        ),
        migrations.CreateModel(
            name='ProgramSignIn',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('device_digest', models.BinaryField(max_length=32, unique=True)),
                ('user_code_digest', models.CharField(max_length=64, unique=True)),
                ('client', models.CharField(max_length=40, validators=[keyportal.keys.rules.validators.require_printable, keyportal.keys.keystring.require_no_key])),
                ('address', models.GenericIPAddressField(null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True)),
                ('polled_at', models.DateTimeField(null=True)),
                ('interval', models.PositiveSmallIntegerField(default=5)),
                ('is_denied', models.BooleanField(default=False)),
                ('session_key', models.CharField(blank=True, db_index=True, max_length=40)),
                ('key', models.OneToOneField(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='program_sign_in', to='keys.apikey')),
                ('team', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, to='teams.team')),
                ('user', models.ForeignKey(help_text='Who approved it.', null=True, on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
            ],
        ),
    ]
