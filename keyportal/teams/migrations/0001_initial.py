import django.contrib.auth.validators
import django.core.validators
import django.db.models.deletion
import django.db.models.functions.text
import django.utils.timezone
import keyportal.keys.keystring
import keyportal.teams.fields
import keyportal.teams.limits
import keyportal.teams.models
import keyportal.teams.policy
from django.conf import settings
from django.core.management import call_command
from django.db import migrations, models


def create_cache_table(apps, schema_editor):
    """The table behind the cache, where rate limits count, so that `migrate` alone is enough."""
    call_command("createcachetable", database=schema_editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [
        migrations.CreateModel(
            name='Team',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('slug', models.CharField(default=keyportal.teams.models.new_slug, help_text='Part of URLs and model names.', max_length=64, unique=True, validators=[django.core.validators.RegexValidator('\\A(?!public\\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?\\Z', 'Use lower-case letters, digits and hyphens, with no hyphen at the start or end. The slug `public` is reserved.')])),
                ('history_slug', models.CharField(editable=False, help_text='The first slug. Audit, usage and counters refer to the team by it.', max_length=64, unique=True)),
                ('name', models.CharField(max_length=100, validators=[keyportal.keys.keystring.require_no_key])),
                ('max_keys', models.PositiveIntegerField(default=keyportal.teams.models.default_max_keys, help_text='Maximum number of API keys of the team.', validators=[django.core.validators.MaxValueValidator(1000000)])),
                ('is_active', models.BooleanField(default=True, help_text='The keys of an inactive team are refused from the next request on.')),
                ('limits', keyportal.teams.fields.LimitsField(blank=True, default=keyportal.teams.limits.Limits, help_text='Limits for all keys of the team together.')),
                ('key_limits', keyportal.teams.fields.LimitsField(blank=True, default=keyportal.teams.limits.Limits, help_text='The limits of a new key, and the maximum that members may set for their keys.')),
                ('policy', keyportal.teams.policy.PolicyField(blank=True, default=keyportal.teams.policy.Policy, editable=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='UsedSlug',
            fields=[
                ('slug', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('replaced_at', models.DateTimeField(help_text='When the team got another slug. Null: it has this one.', null=True)),
                ('is_end_known', models.BooleanField(db_default=False, help_text='Whether workers have been told that it works no longer.')),
                ('team', models.ForeignKey(help_text='Whose slug it is or was. Null: the team was deleted.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='used_slugs', to='teams.team')),
            ],
        ),
        migrations.CreateModel(
            name='Session',
            fields=[
                ('session_key', models.CharField(max_length=40, primary_key=True, serialize=False, verbose_name='session key')),
                ('session_data', models.TextField(verbose_name='session data')),
                ('expire_date', models.DateTimeField(db_index=True, verbose_name='expire date')),
                ('user_id', models.BigIntegerField(db_index=True, null=True)),
                ('provider_session', models.CharField(db_index=True, default='', max_length=64)),
            ],
            options={
                'verbose_name': 'session',
                'verbose_name_plural': 'sessions',
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='User',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('password', models.CharField(max_length=128, verbose_name='password')),
                ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                ('username', models.CharField(error_messages={'unique': 'A user with that username already exists.'}, help_text='Required. 150 characters or fewer. Letters, digits and @/./+/-/_ only.', max_length=150, unique=True, validators=[django.contrib.auth.validators.UnicodeUsernameValidator()], verbose_name='username')),
                ('first_name', models.CharField(blank=True, max_length=150, verbose_name='first name')),
                ('last_name', models.CharField(blank=True, max_length=150, verbose_name='last name')),
                ('email', models.EmailField(blank=True, max_length=254, verbose_name='email address')),
                ('is_staff', models.BooleanField(default=False, help_text='Designates whether the user can log into this admin site.', verbose_name='staff status')),
                ('is_active', models.BooleanField(default=True, help_text='Designates whether this user should be treated as active. Unselect this instead of deleting accounts.', verbose_name='active')),
                ('date_joined', models.DateTimeField(default=django.utils.timezone.now, verbose_name='date joined')),
                ('service_team', models.ForeignKey(editable=False, help_text='The team of a service account. Null: a person.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='service_accounts', to='teams.team')),
                ('contact', models.EmailField(blank=True, editable=False, help_text='Who gets the mails about the keys of a service account.', max_length=254, validators=[keyportal.keys.keystring.require_no_key])),
                ('time_zone', models.CharField(blank=True, help_text='Such as Europe/Berlin. Empty: that of the browser, and UTC without JavaScript.', max_length=64)),
                ('theme', models.CharField(blank=True, choices=[('', 'As the system'), ('light', 'Light'), ('dark', 'Dark')], max_length=8)),
                ('wants_reminders', models.BooleanField(default=True, verbose_name='reminders of expiry')),
                ('wants_alarms', models.BooleanField(default=True, verbose_name='alarms')),
                ('second_factor_asked_at', models.DateTimeField(editable=False, help_text='When a page first said that a second factor is required.', null=True)),
                ('must_change_password', models.BooleanField(default=False, help_text='Somebody else knows the password. No page opens before it is changed.')),
                ('is_off_by_directory', models.BooleanField(default=False, editable=False, help_text='A directory (SCIM) deactivated the user, and may activate them again.')),
                ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
            ],
            options={
                'verbose_name': 'user',
                'verbose_name_plural': 'users',
                'abstract': False,
                'constraints': [
                    models.UniqueConstraint(django.db.models.functions.text.Lower('email'), condition=models.Q(('email', ''), _negated=True), name='user_email_unique', violation_error_message='Another user has this e-mail address already.'),
                    models.UniqueConstraint(django.db.models.functions.text.Lower('username'), name='user_name_unique', violation_error_message='Another user has this name already.'),
                    models.CheckConstraint(condition=models.Q(models.Q(('contact', ''), ('service_team', None)), models.Q(('email', ''), ('is_staff', False), ('is_superuser', False), ('password__startswith', '!'), ('service_team__isnull', False)), _connector='OR'), name='user_service_account_never_signs_in', violation_error_message='A service account has no password, no e-mail address and no rights of an operator.'),
                ],
            },
            managers=[
                ('objects', keyportal.teams.models.UserManager()),
            ],
        ),
        migrations.CreateModel(
            name='Membership',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('role', models.CharField(choices=[('viewer', 'Viewer'), ('member', 'Member'), ('admin', 'Admin'), ('owner', 'Owner')], default='member', max_length=16)),
                ('granted_by', models.CharField(blank=True, editable=False, help_text='The identity provider whose groups gave the role. Empty: given by hand.', max_length=40)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to='teams.team')),
            ],
            options={
                'constraints': [
                    models.UniqueConstraint(fields=('team', 'user'), name='membership_unique', violation_error_message='This user is in the team already.'),
                    models.CheckConstraint(condition=models.Q(('role__in', ['viewer', 'member', 'admin', 'owner'])), name='membership_role_known'),
                ],
            },
        ),
        migrations.CreateModel(
            name='StoredProvider',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('provider_id', models.CharField(error_messages={'unique': 'Another provider has this ID.'}, max_length=40, unique=True, validators=[django.core.validators.RegexValidator('^[a-z0-9][a-z0-9-]{0,39}\\Z', 'Use lower-case letters, digits and hyphens.')], verbose_name='ID')),
                ('name', models.CharField(max_length=40, validators=[keyportal.keys.keystring.require_no_key])),
                ('issuer', models.CharField(error_messages={'unique': 'Another provider has this issuer.'}, max_length=500, unique=True, validators=[keyportal.keys.keystring.require_no_key])),
                ('client_id', models.CharField(max_length=200, validators=[keyportal.keys.keystring.require_no_key], verbose_name='client ID')),
                ('encrypted_secret', models.TextField(editable=False)),
                ('scopes', models.CharField(default='openid email profile', max_length=200, validators=[keyportal.keys.keystring.require_no_key])),
                ('domains', models.CharField(blank=True, max_length=1000, validators=[keyportal.keys.keystring.require_no_key])),
                ('create_accounts', models.BooleanField(default=False)),
                ('trust_addresses', models.BooleanField(default=False)),
                ('addresses_verified', models.BooleanField(default=False)),
                ('groups_claim', models.CharField(default='groups', max_length=100, validators=[keyportal.keys.keystring.require_no_key], verbose_name='claim of groups')),
                ('groups', models.JSONField(blank=True, default=dict)),
                ('is_active', models.BooleanField(default=True)),
            ],
        ),
        migrations.RunPython(create_cache_table, migrations.RunPython.noop),
    ]
