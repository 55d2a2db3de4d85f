import django.core.validators
import django.db.models.deletion
import keyportal.catalog.models
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('teams', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='CatalogVersion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('version', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='Upstream',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64, unique=True)),
                ('base_url', models.CharField(help_text='As an OpenAI client takes it, such as http://127.0.0.1:8001/v1.', max_length=500, validators=[keyportal.catalog.models.validate_base_url], verbose_name='base URL')),
                ('encrypted_credential', models.TextField(blank=True, editable=False)),
                ('connect_timeout', models.FloatField(default=5, help_text='Seconds until a connection must stand.', validators=[django.core.validators.MinValueValidator(0.1), django.core.validators.MaxValueValidator(60)])),
                ('read_timeout', models.FloatField(default=600, help_text='Seconds that the server may be silent, before its answer and within it.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(3600)])),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='ServedModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200, unique=True, validators=[django.core.validators.RegexValidator('\\A[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*\\Z', 'Use letters, digits and . _ : @ + - in parts divided by slashes.')])),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('team', models.ForeignKey(blank=True, help_text='Empty: public, every team may call it.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='models', to='teams.team')),
            ],
        ),
        migrations.CreateModel(
            name='Route',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('upstream_model', models.CharField(help_text="The model's name on the upstream server.", max_length=200)),
                ('weight', models.PositiveSmallIntegerField(default=1, help_text="Its share of the calls, next to the model's other routes. 0: none.")),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='routes', to='catalog.servedmodel')),
                ('upstream', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='routes', to='catalog.upstream')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('model', 'upstream', 'upstream_model'), name='route_unique')],
            },
        ),
    ]
