# Images of graft, one target each: operator, trainer.
#
#   docker build --target operator -t graft-operator .
#   docker build --target trainer  -t graft-trainer .      # CUDA; runs on CPU too, 7 GB
#
# Each is a layer of locked dependencies and, on top of it, a thin layer with graft itself: a change of code rebuilds, pushes and
# pulls only the latter. The images run as user 65532 on a read-only root; they write below /tmp only, so mount a volume there.
#
# Behind a proxy with a certificate authority of its own, pass it as a secret; it reaches the RUN steps and is not in the image:
#   --secret id=ca-bundle,src=/path/to/bundle.pem --build-arg SSL_CERT_FILE=/run/secrets/ca-bundle

ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.8
# cuda, or cpu: TEST ONLY, half the size, for a node without a GPU; refuses to start where there is a GPU driver.
ARG TRAINER_VARIANT=cuda

FROM ${UV_IMAGE} AS uv

FROM ${BASE_IMAGE} AS base
# A name for the user, because PyTorch asks for one.
RUN echo "graft:x:65532:65532:graft:/tmp:/usr/sbin/nologin" >> /etc/passwd && echo "graft:x:65532:" >> /etc/group
ENV HOME=/tmp \
    PATH=/opt/graft/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /

# What is installed, with versions and hashes, from the lock file. A change of pyproject.toml that changes no
# dependency gives the same files, and the layers that copy them stay.
FROM base AS lock
WORKDIR /lock
COPY pyproject.toml uv.lock ./
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    for extra in operator trainer; do \
        uv export --quiet --offline --no-cache --frozen --no-header --no-annotate --no-emit-project --extra "$extra" --output-file "$extra.txt" || exit 1; \
    done; \
    awk '/^[a-z]/ { keep = !/^(nvidia-|cuda-|triton==)/ || /^nvidia-cuda-runtime==/ } keep' trainer.txt > trainer-cpu.txt

# graft itself, as a tree that is laid over a dependencies image. .dockerignore lets only its sources in.
FROM base AS graft
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/root/.cache/uv
ARG UV_LINK_MODE=copy
ARG UV_PYTHON_DOWNLOADS=never
WORKDIR /source
COPY . ./
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=secret,id=ca-bundle \
    --mount=type=cache,target=/root/.cache/uv \
    uv build --quiet --wheel --python python3.11 --out-dir /dist && \
    uv venv --quiet --python python3.11 /opt/graft && \
    uv pip install --quiet --python /opt/graft --no-deps --compile-bytecode /dist/*.whl && \
    rm /opt/graft/.lock

FROM base AS operator-dependencies
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/root/.cache/uv
ARG UV_LINK_MODE=copy
ARG UV_PYTHON_DOWNLOADS=never
COPY --from=lock /lock/operator.txt /opt/graft/requirements.txt
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=secret,id=ca-bundle \
    --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --allow-existing --python python3.11 /opt/graft && \
    uv pip install --python /opt/graft --no-deps --require-hashes --only-binary :all: --compile-bytecode -r /opt/graft/requirements.txt && \
    rm /opt/graft/.lock

FROM base AS trainer-dependencies-cuda
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/root/.cache/uv
ARG UV_LINK_MODE=copy
ARG UV_PYTHON_DOWNLOADS=never
COPY --from=lock /lock/trainer.txt /opt/graft/requirements.txt
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=secret,id=ca-bundle \
    --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --allow-existing --python python3.11 /opt/graft && \
    uv pip install --python /opt/graft --no-deps --require-hashes --only-binary :all: --compile-bytecode -r /opt/graft/requirements.txt && \
    rm /opt/graft/.lock

# TEST ONLY: without NVIDIA's libraries and triton, with generated stand-ins that satisfy the dynamic linker (see standins.py).
FROM base AS trainer-dependencies-cpu
ARG SSL_CERT_FILE
ARG UV_CACHE_DIR=/root/.cache/uv
ARG UV_LINK_MODE=copy
ARG UV_PYTHON_DOWNLOADS=never
LABEL dev.graft.test-only="CPU only: stand-ins in place of CUDA libraries; never for a node with a GPU"
COPY --from=lock /lock/trainer-cpu.txt /opt/graft/requirements.txt
COPY devcluster/graft_devcluster/standins.py /opt/graft/share/
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=secret,id=ca-bundle \
    --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --allow-existing --python python3.11 /opt/graft && \
    uv pip install --python /opt/graft --no-deps --require-hashes --only-binary :all: --compile-bytecode -r /opt/graft/requirements.txt && \
    rm /opt/graft/.lock && \
    /opt/graft/bin/python /opt/graft/share/standins.py /opt/graft/lib/python3.11/site-packages/torch/lib

FROM operator-dependencies AS operator
LABEL org.opencontainers.image.title="graft operator" \
      org.opencontainers.image.description="Control plane of graft; has no torch" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["graft-operator"]
COPY --from=graft /opt/graft /opt/graft

FROM trainer-dependencies-${TRAINER_VARIANT} AS trainer
LABEL org.opencontainers.image.title="graft trainer" \
      org.opencontainers.image.description="Training pod of graft: fetch, prepare, train, evaluate, package, publish" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["graft-trainer"]
COPY --from=graft /opt/graft /opt/graft
