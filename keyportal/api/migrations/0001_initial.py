import django.db.models.deletion
import django.db.models.functions.text
import keyportal.keys.keystring
import keyportal.keys.rules.validators
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
            name='ManagementKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64, validators=[keyportal.keys.rules.validators.require_printable, keyportal.keys.keystring.require_no_key])),
                ('scopes', models.JSONField(default=list)),
                ('allowed_models', models.JSONField(blank=True, default=list, help_text='Models that keys made with it may call at most. Empty: all.')),
                ('endpoints', models.CharField(choices=[('all', 'All endpoints'), ('chat', 'Chat and text generation only'), ('embeddings', 'Embeddings only'), ('read', 'Read-only: list the models, call none')], default='all', max_length=16)),
                ('allowed_networks', models.JSONField(blank=True, default=list)),
                ('public_id', models.CharField(editable=False, max_length=8, unique=True)),
                ('prefix', models.CharField(max_length=32)),
                ('digest', models.BinaryField(max_length=32, unique=True)),
                ('last4', models.CharField(max_length=4)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(editable=False, null=True)),
                ('last_used_address', models.GenericIPAddressField(editable=False, null=True)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='management_keys', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='management_keys', to='teams.team')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('team', 'name'), name='managementkey_name_unique_in_team', violation_error_message='A management key with this name already exists.'), models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='managementkey_name_not_empty'), models.CheckConstraint(condition=models.Q(('endpoints__in', ['all', 'chat', 'embeddings', 'read'])), name='managementkey_endpoints_known')],
            },
        ),
        migrations.CreateModel(
            name='ProvisionedGroup',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=254)),
                ('external_id', models.CharField(blank=True, max_length=254)),
                ('members', models.ManyToManyField(related_name='provisioned_groups', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.UniqueConstraint(django.db.models.functions.text.Lower('name'), name='provisioned_group_name_unique')],
            },
        ),
        migrations.CreateModel(
            name='ProvisionedUser',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('user_name', models.CharField(max_length=254)),
                ('external_id', models.CharField(blank=True, max_length=254)),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='provisioned', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.UniqueConstraint(django.db.models.functions.text.Lower('user_name'), name='provisioned_user_name_unique')],
            },
        ),
    ]
