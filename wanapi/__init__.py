"""The Django project. A release changes its version here and in CHANGELOG.md (CONTRIBUTING.md)."""

VERSION = "1.1.0"
