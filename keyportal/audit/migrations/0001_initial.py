import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='DeletedUser',
            fields=[
                ('user_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('username', models.CharField(max_length=150)),
            ],
        ),
        migrations.CreateModel(
            name='Tombstone',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('digest', models.BinaryField(max_length=32, unique=True)),
                ('public_id', models.CharField(db_index=True, max_length=8)),
                ('name', models.CharField(max_length=64)),
                ('team_slug', models.CharField(max_length=64)),
                ('owner_id', models.BigIntegerField(help_text='The user id of the owner.')),
                ('deleted_at', models.DateTimeField(default=django.utils.timezone.now, editable=False, help_text="By the database's clock: after a restore it says which keys to delete again.")),
                ('deleted_by_id', models.BigIntegerField(help_text="The user's id. Null: a command.", null=True)),
                ('is_rotated', models.BooleanField(default=False, help_text='The secret was replaced by a rotation; its key was not deleted then.')),
                ('last_used_at', models.DateTimeField(help_text='Time of the last request that was served.', null=True)),
                ('last_used_address', models.GenericIPAddressField(null=True)),
                ('last_used_user_agent', models.CharField(blank=True, max_length=200)),
                ('refused_requests', models.BigIntegerField(default=0, help_text='Number of requests refused since the deletion.')),
                ('last_refused_at', models.DateTimeField(null=True)),
                ('ended_calls', models.BigIntegerField(default=0, help_text='Number of running calls that the deletion ended.')),
            ],
        ),
        migrations.CreateModel(
            name='AuditEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('action', models.CharField(choices=[('user:signed-in', 'Signed in'), ('user:sign-in-failed', 'Sign-in failed'), ('key:created', 'Key created'), ('key:deleted', 'Key deleted'), ('key:refused-by-limit', 'Key refused: limit reached'), ('key:changed', 'Key changed'), ('key:disabled', 'Key disabled'), ('key:enabled', 'Key enabled'), ('key:managed', 'Key managed by an admin'), ('key:unmanaged', 'Key no longer managed by an admin'), ('key:handed-over', 'Key handed over'), ('key:rotated', 'Key rotated'), ('key:old-secret-deleted', 'Old secret deleted'), ('key:expiry-reminded', 'Reminded of expiry'), ('key:reported-leaked', 'Key reported as leaked'), ('key:used-from-many-networks', 'Key used from many networks'), ('key:refused-often', 'Key refused many times'), ('key:used-after-deletion', 'Key used after its deletion'), ('management-key:created', 'Management key created'), ('management-key:deleted', 'Management key deleted'), ('team:created', 'Team created'), ('team:changed', 'Team changed'), ('team:deleted', 'Team deleted'), ('user:changed', 'User changed'), ('member:changed', 'Member changed'), ('invitation:sent', 'Invitation sent'), ('invitation:revoked', 'Invitation revoked'), ('invitation:accepted', 'Invitation accepted'), ('catalog:changed', 'Model server or model changed'), ('provider:changed', 'Identity provider changed'), ('call:ended', 'Call ended')], max_length=40)),
                ('actor_id', models.BigIntegerField(help_text="The user's id. Null: a command.", null=True)),
                ('actor', models.CharField(blank=True, help_text="The user's name at the time.", max_length=150)),
                ('via', models.CharField(blank=True, help_text='The management key that the actor used. Empty: none.', max_length=100)),
                ('team_slug', models.CharField(blank=True, max_length=64)),
                ('target', models.CharField(max_length=200)),
                ('public_id', models.CharField(blank=True, help_text='The public id of the key, if the event is about one.', max_length=8)),
                ('address', models.GenericIPAddressField(null=True)),
            ],
            options={
                'indexes': [models.Index(fields=['team_slug', '-created_at', '-id'], name='audit_by_team'), models.Index(condition=models.Q(('public_id', ''), _negated=True), fields=['public_id', '-created_at', '-id'], name='audit_by_key'), models.Index(fields=['created_at'], name='audit_by_age')],
            },
        ),
    ]
