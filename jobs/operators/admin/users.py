"""Django's own pages of users and groups, so that a screen reader can tell their fields."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.forms import SplitDateTimeField
from django.http import HttpRequest


class Labelled:
    """A time has two inputs, and Django gives them one label for both, which belongs to neither."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        found = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        if isinstance(found, SplitDateTimeField):
            widgets: Any = found.widget
            for widget, part in zip(widgets.widgets, ("date", "time"), strict=True):
                widget.attrs["aria-label"] = f"{db_field.verbose_name}: {part}"
        return found


class Users(Labelled, UserAdmin):
    filter_horizontal = ()  # plain lists: the script of the other ones gives labels that nobody can read


class Groups(GroupAdmin):
    filter_horizontal = ()


admin.site.unregister([User, Group])
admin.site.register(User, Users)
admin.site.register(Group, Groups)
