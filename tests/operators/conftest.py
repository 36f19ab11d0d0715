"""Who is logged in."""

import pytest
from django.core.cache import cache


@pytest.fixture(autouse=True)
def no_cache():
    cache.clear()


@pytest.fixture
def admin(client, django_user_model):
    """The test client, logged in as a superuser; pytest-django's own one hashes a password, which is slow."""
    user = django_user_model.objects.create(username="admin", is_staff=True, is_superuser=True)
    client.force_login(user)
    return client
