"""The embedded model served by LitServe the way its documentation says; for `serving.py`.

python benchmarks/serving_litserve.py PORT
"""

# Its annotations are read by LitServe, so they cannot be postponed.

import sys
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import Response, UploadFile

from clsspec_serve.loading import load
from clsspec_serve.outputs import npy
from clsspec_serve.preparation import Prepared


class Embed(litserve.LitAPI):  # type: ignore[misc]  # it has no type information
    """A file in, the [CLS] embedding out as npy."""

    def setup(self, device: str) -> None:
        """Load the model, once in each worker."""
        self.model = load()
        self.asked = self.model.request(tasks=("cls",))

    def decode_request(self, request: UploadFile) -> Prepared:
        """Read and transform one picture."""
        return self.model.prepare(request.file.read(), self.asked)

    def batch(self, inputs: Sequence[Prepared]) -> Any:
        """Put the pictures of several requests together."""
        return np.stack([each.pixels for each in inputs])

    def predict(self, x: Any) -> Any:
        """One forward pass."""
        return self.model.forward(x, self.asked)

    def unbatch(self, output: Any) -> Any:
        """Take them apart."""
        return output

    def encode_response(self, output: Any) -> Response:
        """Write one answer."""
        return Response(npy(output["cls"]), media_type="application/x-npy")


if __name__ == "__main__":
    server = litserve.LitServer(Embed(max_batch_size=8, batch_timeout=0.01), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
