from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='ScheduledJob',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=32, unique=True)),
                ('worker', models.CharField(blank=True, help_text='The worker that has the lease; empty if none has.', max_length=32)),
                ('due_at', models.DateTimeField()),
            ],
        ),
    ]
