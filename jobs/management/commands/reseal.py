"""``manage.py reseal``: after a change of SECRET_KEY, encrypts webhook secrets and URLs with the new one."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Model

from jobs.models import ApiKey, Delivery, Job
from wanapi.sealed import Unreadable, mark, reseal, unseal

SEALED: dict[type[Model], tuple[str, ...]] = {
    ApiKey: ("webhook_secret", "webhook_secret_before", "webhook_url"),
    Job: ("webhook_url",),
    Delivery: ("url",),
}


class Command(BaseCommand):
    help = "Encrypts webhook secrets and URLs with SECRET_KEY, so that SECRET_KEY_BEFORE is needed no more."

    def handle(self, **options: Any) -> None:
        done = lost = 0
        for model, names in SEALED.items():
            for name in names:
                rows = model._default_manager.exclude(**{name: ""})
                for pk, sealed in rows.values_list("pk", name).iterator(chunk_size=500):
                    try:
                        changes = {name: reseal(sealed)}
                        if model is Delivery:
                            changes["url_mark"] = mark(unseal(sealed))
                    except Unreadable:
                        lost += 1
                        continue
                    done += rows.filter(pk=pk, **{name: sealed}).update(**changes)
        self.stdout.write(f"{done} encrypted with the present SECRET_KEY.")
        if lost:
            raise CommandError(f"{lost} cannot be read: they were encrypted with yet another SECRET_KEY.")
