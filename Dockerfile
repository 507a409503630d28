# `clsspec serve` on a CPU, or on NVIDIA GPUs.
#
#   docker build -t clsspec .
#   docker build -t clsspec:gpu --build-arg ENGINE=gpu .         then docker run --gpus all ...
#   docker run -p 8000:8000 clsspec                              makes a key and prints it
#   docker run -p 8000:8000 -e CLSSPEC_API_KEY=secret clsspec    asks for this one
#   docker run -p 8000:8000 clsspec serve --no-auth              asks for none
#
# Every option of the command is a variable, too: docs/cli.md. Nothing is written, so --read-only is
# fine; hf: models want a volume, and its path as HF_HOME.

FROM python:3.11-slim AS build
# An extra that brings an engine: cpu, gpu (with CUDA's libraries) or openvino.
ARG ENGINE=cpu
WORKDIR /build/source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /build/wheels .
# Without pip, which nothing in the image needs.
RUN python -m venv --without-pip /opt/clsspec
RUN pip --python /opt/clsspec/bin/python install --no-cache-dir -c constraints.txt \
    "$(ls /build/wheels/*.whl)[${ENGINE}]"

FROM python:3.11-slim
COPY --from=build /opt/clsspec /opt/clsspec
# ONNX Runtime's telemetry keeps an identifier in the user's home, and calls its makers.
ENV PATH=/opt/clsspec/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/nonexistent \
    ORT_DISABLE_TELEMETRY=1 \
    CLSSPEC_HOST=0.0.0.0
# A number, which Kubernetes can see is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('CLSSPEC_PORT', '8000') + '/health/ready', timeout=4)"]
ENTRYPOINT ["clsspec"]
CMD ["serve"]
