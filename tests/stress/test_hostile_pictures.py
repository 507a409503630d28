"""No picture, however broken, fails the server or the next one's answer."""

from __future__ import annotations

import collections

from hostile_pictures import SEEDS, corpus
from http_server import Running

PICTURES = 2000
EVERY = 25


def test_broken_and_hostile_pictures_are_refused_and_the_next_good_one_is_right(
    server: Running, tenth: bool
) -> None:
    good = SEEDS["jpeg"]
    wanted = server.client.post("/predict?format=safetensors", content=good)
    assert wanted.status_code == 200
    statuses: collections.Counter[int] = collections.Counter()
    for index, (name, data) in enumerate(corpus(PICTURES // 10 if tenth else PICTURES, 7)):
        answer = server.client.post("/predict?format=npz", content=data)
        assert answer.status_code in (200, 413, 422), (name, answer.text)
        statuses[answer.status_code] += 1
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert error["type"] in ("invalid_image", "image_too_large", "too_large") or not data
            assert "\n" not in error["message"]
        if index % EVERY == 0:
            assert server.client.get("/health/ready").status_code == 200, name
            again = server.client.post("/predict?format=safetensors", content=good)
            assert again.content == wanted.content, name
    print(f"{sum(statuses.values())} pictures:", dict(statuses))


def test_broken_pictures_among_good_ones_spoil_only_themselves(
    server: Running, tenth: bool
) -> None:
    good = SEEDS["png"]
    wanted = server.client.post("/embed?format=json", content=good).json()["results"][0]["cls"]
    broken = [data for _, data in corpus(PICTURES // 10 if tenth else PICTURES, 8)]
    for start in range(0, len(broken) // 4, 4):
        some = broken[start : start + 4]
        files = [("file", ("bad", data)) for data in some]
        files[2:2] = [("file", ("good", good))]
        answer = server.client.post("/embed", files=files)
        assert answer.status_code in (200, 207), answer.text
        results = answer.json()["results"]
        assert len(results) == len(files)
        found = results[2]["cls"]
        assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 1e-4
