import django.core.validators
import django.db.models.deletion
import keyportal.catalog.models
import keyportal.keys.keystring
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
                ('name', models.CharField(max_length=64, unique=True, validators=[keyportal.keys.keystring.require_no_key])),
                ('base_url', models.CharField(help_text='As for an OpenAI client, such as http://127.0.0.1:8001/v1.', max_length=500, validators=[keyportal.catalog.models.validate_base_url, keyportal.keys.keystring.require_no_key], verbose_name='base URL')),
                ('encrypted_credential', models.TextField(blank=True, editable=False)),
                ('credential_header', models.CharField(choices=[('authorization', 'Authorization: Bearer'), ('x-api-key', 'x-api-key'), ('api-key', 'api-key')], default='authorization', help_text='The header in which this model server expects its credential.', max_length=16)),
                ('encrypted_headers', models.TextField(blank=True, editable=False)),
                ('takes_stream_options', models.BooleanField(default=True, help_text="Streams are asked for their usage with `stream_options`. Without it, the usage of streams is estimated if the server doesn't report it by itself.", verbose_name='takes stream_options')),
                ('connect_timeout', models.FloatField(default=5, help_text='Seconds until a connection must be open.', validators=[django.core.validators.MinValueValidator(0.1), django.core.validators.MaxValueValidator(60)])),
                ('first_byte_timeout', models.FloatField(default=600, help_text='Seconds until the answer must begin.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(3600)])),
                ('read_timeout', models.FloatField(default=600, help_text='Seconds for which the server may send nothing once its answer has begun.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(3600)])),
                ('ca_file', models.CharField(blank=True, help_text='Path of a PEM file on this server. Only the CAs in it are trusted for this model server. Empty: those that the system trusts.', max_length=500, validators=[keyportal.catalog.models.validate_absolute_path], verbose_name='CA file')),
                ('client_certificate_file', models.CharField(blank=True, help_text='Path of a PEM file on this server with a certificate and its private key, if the model server asks for one.', max_length=500, validators=[keyportal.catalog.models.validate_absolute_path])),
                ('sends_keepalive', models.BooleanField(default=True, help_text="While a stream of this server is silent, send comments to the caller, so that no proxy closes the connection. Turn it off if a client can't read comments.", verbose_name='keep-alive comments')),
                ('is_active', models.BooleanField(default=True, help_text='A server that is switched off gets no new calls. Running calls end as usual.')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'verbose_name': 'model server',
            },
        ),
        migrations.CreateModel(
            name='ServedModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200, unique=True, validators=[django.core.validators.RegexValidator('\\A[A-Za-z0-9][A-Za-z0-9._:@+-]*(/(?!\\.{1,2}(/|\\Z))[A-Za-z0-9._:@+-]+)*\\Z', 'Use letters, digits and . _ : @ + - in parts separated by slashes, and no part that is . or .. alone.'), keyportal.keys.keystring.require_no_key])),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('team', models.ForeignKey(blank=True, help_text='Leave empty for a public model, which every team may call.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='models', to='teams.team')),
            ],
        ),
        migrations.CreateModel(
            name='Route',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('upstream_model', models.CharField(help_text="The model's name on the upstream server.", max_length=200, validators=[keyportal.keys.keystring.require_no_key])),
                ('weight', models.PositiveSmallIntegerField(default=1, help_text="Share of the model's calls, relative to its other routes. 0: no calls.")),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='routes', to='catalog.servedmodel')),
                ('upstream', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='routes', to='catalog.upstream', verbose_name='model server')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('model', 'upstream', 'upstream_model'), name='route_unique')],
            },
        ),
    ]
