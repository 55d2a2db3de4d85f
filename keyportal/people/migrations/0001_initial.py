import django.db.models.deletion
import keyportal.keys.keystring
import keyportal.people.models
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
            name='Invitation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('email', models.EmailField(help_text='In lower case.', max_length=254)),
                ('role', models.CharField(choices=[('viewer', 'Viewer'), ('member', 'Member'), ('admin', 'Admin'), ('owner', 'Owner')], max_length=16)),
                ('note', models.CharField(blank=True, max_length=300, validators=[keyportal.keys.keystring.require_no_key])),
                ('nonce', models.CharField(default=keyportal.people.models.new_nonce, editable=False, max_length=32)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField(default=keyportal.people.models.new_expiry)),
                ('invited_by', models.ForeignKey(help_text='Null: an operator.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='invitations', to='teams.team')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('team', 'email'), name='invitation_unique'), models.CheckConstraint(condition=models.Q(('role__in', ['viewer', 'member', 'admin', 'owner'])), name='invitation_role_known')],
            },
        ),
    ]
