# Images of graft, one target each: operator, trainer, serving; and vllm-cpu, for tests only.
#
#   docker build --target operator -t graft-operator .
#   docker build --target trainer  -t graft-trainer .      # CUDA; runs on CPU too, 7 GB
#   docker build --target serving  -t graft-serving .      # what stands around vLLM; vLLM itself is an image of the user's choice
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
    PATH=/opt/graft/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /

# A folder per dependencies image: what is installed, with versions and hashes, from the lock file, and how. A change of
# pyproject.toml that changes no dependency gives the same files, and the layers that copy them stay.
FROM base AS lock
WORKDIR /lock
COPY pyproject.toml uv.lock ./
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    printf '%s\n' '#!/bin/sh -e' \
        'uv venv --quiet --allow-existing --python python3.11 /opt/graft' \
        'uv pip install --python /opt/graft --no-deps --require-hashes --only-binary :all: --compile-bytecode -r "${0%/*}/requirements.txt"' \
        'rm /opt/graft/.lock' > install && \
    for chosen in operator:--extra=operator trainer:--extra=trainer serving:--extra=serving vllm:--only-group=vllm-cpu; do \
        folder=${chosen%%:*} && mkdir "$folder" && install install "$folder" && \
        uv export --quiet --offline --no-cache --frozen --no-header --no-annotate --no-emit-project "${chosen#*:}" --output-file "$folder/requirements.txt" || exit 1; \
    done; \
    for folder in trainer vllm; do \
        mkdir "$folder-cpu" && install install "$folder-cpu" && \
        awk '/^[a-z]/ { keep = !/^(nvidia-|cuda-|triton==)/ || /^nvidia-cuda-runtime==/ } keep' "$folder/requirements.txt" > "$folder-cpu/requirements.txt" || exit 1; \
    done

# graft itself, as a tree that is laid over a dependencies image. .dockerignore lets only its sources in.
FROM base AS graft
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /source
COPY . ./
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    uv build --quiet --wheel --python python3.11 --out-dir /dist && \
    uv venv --quiet --python python3.11 /opt/graft && \
    uv pip install --quiet --python /opt/graft --no-deps --compile-bytecode /dist/*.whl && \
    rm /opt/graft/.lock

FROM base AS operator-dependencies
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY --from=lock /lock/operator /opt/graft/share/operator
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    /opt/graft/share/operator/install

FROM base AS serving-dependencies
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# The door in front of vLLM. Debian's packages come over plain HTTP, signed.
RUN apt-get update -qq && apt-get install -qq --no-install-recommends nginx libnginx-mod-http-set-misc && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=lock /lock/serving /opt/graft/share/serving
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    /opt/graft/share/serving/install

FROM base AS trainer-dependencies-cuda
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY --from=lock /lock/trainer /opt/graft/share/trainer
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    /opt/graft/share/trainer/install

# TEST ONLY: without NVIDIA's libraries and triton, with generated stand-ins that satisfy the dynamic linker (see standins.py).
FROM base AS trainer-dependencies-cpu
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
LABEL dev.graft.test-only="CPU only: stand-ins in place of CUDA libraries; never for a node with a GPU"
COPY --from=lock /lock/trainer-cpu /opt/graft/share/trainer-cpu
COPY devcluster/graft_devcluster/standins.py /opt/graft/share/
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    /opt/graft/share/trainer-cpu/install && \
    /opt/graft/bin/python /opt/graft/share/standins.py /opt/graft/lib/python3.11/site-packages/torch/lib

# TEST ONLY: vLLM on CPU. On top of the trainer's dependencies, whose torch and transformers it shares, so that a node that has
# the trainer gets only the difference.
FROM trainer-dependencies-cpu AS vllm-cpu-dependencies
ARG SSL_CERT_FILE UV_CACHE_DIR=/root/.cache/uv UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN apt-get update -qq && apt-get install -qq --no-install-recommends libnuma1 && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*
COPY --from=lock /lock/vllm-cpu /opt/graft/share/vllm-cpu
RUN --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv --mount=type=secret,id=ca-bundle --mount=type=cache,target=/root/.cache/uv \
    /opt/graft/share/vllm-cpu/install
COPY devcluster/graft_devcluster/vllm_cpu.py /opt/graft/share/
RUN /opt/graft/bin/python /opt/graft/share/vllm_cpu.py /opt/graft/lib/python3.11/site-packages

FROM operator-dependencies AS operator
LABEL org.opencontainers.image.title="graft operator" \
      org.opencontainers.image.description="Control plane of graft; has no torch" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["graft-operator"]
COPY --from=graft /opt/graft /opt/graft

FROM serving-dependencies AS serving
LABEL org.opencontainers.image.title="graft serving" \
      org.opencontainers.image.description="What stands around vLLM: gateway, agent, door; has no torch and no vLLM" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["graft-serving"]
COPY --from=graft /opt/graft /opt/graft

FROM trainer-dependencies-${TRAINER_VARIANT} AS trainer
LABEL org.opencontainers.image.title="graft trainer" \
      org.opencontainers.image.description="Training pod of graft: fetch, prepare, train, evaluate, package, publish" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
ENTRYPOINT ["graft-trainer"]
COPY --from=graft /opt/graft /opt/graft

FROM vllm-cpu-dependencies AS vllm-cpu
LABEL org.opencontainers.image.title="vLLM on CPU for graft's tests" \
      org.opencontainers.image.description="TEST ONLY: vLLM without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0"
# Without a compiler in the image, a request for logprobs would otherwise end the engine: vLLM compiles their ranking.
ENV TORCHDYNAMO_DISABLE=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
