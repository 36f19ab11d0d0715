"""``manage.py webhooks``: the webhook secret and the own URL of an API key."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.media import receivers
from jobs.media.public import NotAllowed
from jobs.models import ApiKey, SwitchedOff
from jobs.models.key import has_webhook_secret
from wanapi.sealed import seal


class Command(BaseCommand):
    help = (
        "Tells how webhooks of an API key are set up, or changes it. Without a NAME: the environment's key."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", metavar="NAME", help="of the API key")
        parser.add_argument(
            "--new-secret",
            action="store_true",
            help="makes a secret and prints it, this once; the one before is used as well for 24 hours",
        )
        parser.add_argument("--url", help="where all its jobs are told, unless a request names another one")
        parser.add_argument("--no-url", action="store_true", help="forgets that URL")
        parser.add_argument(
            "--switch-on", action="store_true", help="URLs that answered 410 get events again"
        )

    def handle(self, *, name: str | None, **options: Any) -> None:
        key = ApiKey.objects.filter(name=name).first() if name else None
        if name and key is None:
            raise CommandError(f"There is no API key named {name!r}.")
        changes = options["new_secret"], options["url"], options["no_url"]
        if key is None and any(changes):
            raise CommandError("The environment's key has WEBHOOK_SECRET and WEBHOOK_URL.")
        if options["url"] or options["no_url"]:
            ApiKey.objects.filter(name=name).update(webhook_url=sealed(options["url"]))
        if options["switch_on"]:
            SwitchedOff.objects.filter(key=key).delete()
        if key and options["new_secret"]:
            self.stdout.write(key.draw_webhook_secret())
        elif not any(options[name] for name in ("url", "no_url", "switch_on")):
            self._tell(key)

    def _tell(self, key: ApiKey | None) -> None:
        own = key.webhook_url if key else settings.WEBHOOK_URL
        off = SwitchedOff.objects.filter(key=key).order_by("at").values_list("host", flat=True)
        self.stdout.write(f"secret: {'yes' if has_webhook_secret(key) else 'none, so no webhooks are sent'}")
        self.stdout.write(f"own URL: {'yes' if own else 'none'}")
        self.stdout.write(f"switched off: {', '.join(off) or 'none'}")


def sealed(url: str | None) -> str:
    if not url:
        return ""
    try:
        receivers.check(url)
    except NotAllowed as error:
        raise CommandError(str(error)) from None
    return seal(url)
