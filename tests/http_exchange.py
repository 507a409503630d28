"""A photograph that is posted, and an archive that comes back."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from pictures import PHOTO, encoded

WIDE = encoded(PHOTO, "JPEG", quality=90)


def npz(answer: httpx.Response) -> dict[str, NDArray[Any]]:
    assert answer.headers["content-type"] == "application/x-npz"
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as file:
        return dict(file)
