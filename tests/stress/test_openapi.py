"""What the OpenAPI document promises, held against thousands of requests made from it."""

from __future__ import annotations

import collections

import schemathesis
from http_server import Running
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pictures import PHOTO, encoded
from schemathesis.checks import CHECKS

CASES = 5000
WANTED = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
GOOD = [encoded(PHOTO.resize((40, 30)), form) for form in ("JPEG", "PNG", "WEBP")]


def test_every_answer_is_as_the_document_says(server: Running, tenth: bool) -> None:
    pictures = st.sampled_from(GOOD) | st.binary(max_size=200)
    for media_type in ("image/*", "application/octet-stream"):
        schemathesis.openapi.media_type(media_type, pictures)
    document = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    operations = [each.ok() for each in document.get_all_operations()]
    wanted = CASES // 10 if tenth else CASES
    # One case is all that there is to an operation without parameters.
    each = -(-wanted // sum(operation.method == "post" for operation in operations))
    checks = [CHECKS.get_one(name) for name in WANTED]
    statuses: collections.Counter[tuple[str, int]] = collections.Counter()

    for operation in operations:

        @seed(20260208)
        @settings(
            max_examples=each,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            response = case.call(base_url=server.url)
            statuses[case.operation.label, response.status_code] += 1
            case.validate_response(response, checks=checks)

        check()
    assert sum(statuses.values()) >= wanted
    print(f"{sum(statuses.values())} cases:", dict(sorted(statuses.items())))
    assert server.client.get("/health/ready").status_code == 200
