"""Bytes: images, videos, and where they are stored."""
