"""The body of an inference request, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from clsspec_serve.http.inference_protocol.messages import InferenceRequest


def inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema with each reference replaced by what it names.

    OpenAPI resolves references against the whole document, where pydantic's lead nowhere.
    """
    if isinstance(schema, list):
        return [inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        named = definitions[schema["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return inlined({**named, **rest}, definitions)
    return {key: inlined(value, definitions) for key, value in schema.items() if key != "$defs"}


def _request() -> dict[str, Any]:
    schema = InferenceRequest.model_json_schema()
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": inlined(schema, schema["$defs"])},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


REQUEST = _request()
