"""What /openapi.json says of webhooks."""

from typing import Any

from drf_spectacular.utils import OpenApiWebhook

from jobs.api import webhooks


def _event(types: list[str]) -> dict[str, Any]:
    """A webhook's body, as jobs/workers/deliver.py makes it."""
    properties = {
        "id": {"type": "string", "description": "The same at each try"},
        "object": {"const": "event"},
        "type": {"enum": types},
        "timestamp": {"type": "string", "format": "date-time", "description": "Of the event"},
        "created_at": {"type": "integer", "description": "The same as Unix time"},
        "data": {"$ref": "#/components/schemas/WholeJob"},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


# Written out: drf-spectacular leaves the components of a webhook's serializer out of the schema.
JOB_EVENT = OpenApiWebhook(
    "job",
    {
        "post": {
            "operationId": "job_event",
            "summary": "An event of a job, sent to its webhook_url",
            "description": "Signed as Standard Webhooks says.",
            "parameters": [
                {"name": f"webhook-{name}", "in": "header", "required": True, "schema": {"type": "string"}}
                for name in ("id", "timestamp", "signature")
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _event(webhooks.EVENTS)}},
            },
            "responses": {"204": {"description": "Taken. Any other 2xx is as good."}},
        }
    },
)
