import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='QueuedMail',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('to', models.TextField()),
                ('from_email', models.TextField()),
                ('subject', models.TextField()),
                ('body', models.TextField()),
                ('headers', models.JSONField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('due_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), db_index=True)),
                ('tries', models.SmallIntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name='Reminder',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('public_id', models.CharField(max_length=8)),
                ('expires_at', models.DateTimeField(help_text='A key whose expiry changes gets new reminders.')),
                ('days', models.SmallIntegerField(help_text='Days before the expiry; 0: the key has expired.')),
                ('created_at', models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('public_id', 'expires_at', 'days'), name='reminder_unique')],
            },
        ),
    ]
