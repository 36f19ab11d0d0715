from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    atomic = False  # the table may be large, and is written to meanwhile

    dependencies = [
        ('jobs', '0007_tombstones'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='event',
            index=models.Index(condition=models.Q(('kind', 'failed')), fields=['at'], name='event_failed'),
        ),
    ]
