from __future__ import annotations

import time

from clsspec_serve.http.times import Part, Times


def test_of_pictures_side_by_side_the_slowest_counts() -> None:
    times = Times()
    for seconds in (0.1, 0.3, 0.2):
        times.note("model", 5.0, seconds)
    times.note("decode", 4.0, 0.01)
    assert times.seconds == {"model": 0.3, "decode": 0.01}
    assert times.header() == "decode;dur=10.00, model;dur=300.00"
    assert times.parts[1] == Part("model", 5.0, 0.3)


def test_a_block_is_measured_where_it_lies() -> None:
    times = Times()
    before = time.monotonic()
    with times.measured("encode"):
        time.sleep(0.01)
    (part,) = times.parts
    assert before <= part.start < part.start + 0.01 <= part.start + part.seconds
    assert part.start + part.seconds <= time.monotonic()
