"""The processes that render and publish."""
