"""The HTTP API that clients call."""
