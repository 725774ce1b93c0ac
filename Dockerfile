# syntax=docker/dockerfile:1
# A wheel on a build farm: the release path, with every extension compiled.
#
#   docker build --build-context sources=DIR --output dist .
#
# docs/howto/farm.md has the arguments and what DIR holds. The same wheel in an image that serves:
#
#   docker build --target serve --tag vllm-sm12x .

# Any Debian or Ubuntu with Python 3.11 or newer; before Debian 13 and Ubuntu 24.04 there is no
# rustup, so RUST must be empty. Its CUDA toolkit is used if it is of the version torch was built
# with; else NVIDIA's packages are. Pin it by digest: name@sha256:...
ARG BASE_IMAGE=nvidia/cuda:13.0.3-devel-ubuntu24.04
# Where the wheel serves: with nvcc, since DeepGEMM compiles when it runs.
ARG SERVE_IMAGE=nvidia/cuda:13.0.3-devel-ubuntu24.04

# Inner sources by name; --build-context sources=DIR puts a folder in this stage's place.
FROM scratch AS sources
WORKDIR /

FROM ${BASE_IMAGE} AS tools
# The toolchain that upstream's rust-toolchain.toml names (v0.22 and later); empty: no Rust.
ARG RUST=1.95
# A base's own choice of a toolkit or of versions for pip was made for something else.
ENV RUSTUP_HOME=/opt/rust CUDA_HOME= CUDA_PATH= PIP_CONSTRAINT=
# Versions are the base image's: it is what is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && if [ -n "$RUST" ] && ! apt-cache show rustup >/dev/null 2>&1; then \
        echo "error: this base image's distribution has no package rustup" >&2; \
        echo "  next: --build-arg BASE_IMAGE=... with Debian 13 or Ubuntu 24.04 or newer, or" \
            "--build-arg RUST= (v0.20, v0.21, or without --native all)" >&2; \
        exit 8; \
    fi \
    && apt-get install -y --no-install-recommends \
        ca-certificates ccache g++ git make perl python3 python3-dev python3-venv \
        ${RUST:+rustup} \
    && rm -rf /var/lib/apt/lists/* \
    && if [ -n "$RUST" ]; then rustup toolchain install --profile minimal "$RUST"; fi \
    && useradd --create-home --uid 10001 --user-group builder
USER 10001:10001
WORKDIR /home/builder/vllm-sm12x
COPY --chown=10001:10001 . .

# The same paths on every machine: nvcc's objects hold paths, and sccache's keys follow them.
FROM tools AS build
# What is cached holds programs of one kind of machine.
ARG TARGETARCH
ARG BASE=latest
ARG ARCH="12.0;12.1"
ARG NATIVE=all
ARG PLATFORM=auto
ARG JOBS=
ARG COMPILER_CACHE=
ARG TEST_TORCH=
ENV BASE=$BASE ARCH=$ARCH NATIVE=$NATIVE PLATFORM=$PLATFORM JOBS=$JOBS \
    COMPILER_CACHE=$COMPILER_CACHE TEST_TORCH=$TEST_TORCH HOME=/home/builder PYTHONUNBUFFERED=1

# Without tests: for a machine that has no room for a test environment.
FROM build AS build-untested
RUN --mount=type=cache,id=vllm-sm12x-$TARGETARCH,target=/home/builder/.cache,uid=10001,gid=10001 \
    --mount=type=bind,from=sources,target=/sources \
    --mount=type=secret,id=sccache,uid=10001,required=false \
    ./tools/image_build.sh --no-test

# The wheel is put in its place only if its tests pass.
FROM build AS build-tested
RUN --mount=type=cache,id=vllm-sm12x-$TARGETARCH,target=/home/builder/.cache,uid=10001,gid=10001 \
    --mount=type=bind,from=sources,target=/sources \
    --mount=type=secret,id=sccache,uid=10001,required=false \
    ./tools/image_build.sh

# An image that serves. Nothing of it needs a GPU to be made; the doctor says whether it fits.
FROM ${SERVE_IMAGE} AS serve
# What two machines need besides the wheel; empty: nothing.
ARG PACKAGES=ray[cgraph]
ENV CUDA_HOME=/usr/local/cuda HF_HOME=/models PATH=/opt/vllm/bin:$PATH PIP_CONSTRAINT= \
    PYTHONUNBUFFERED=1
# Triton compiles as well, with gcc and Python's headers. Versions are the base image's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates g++ gcc iproute2 libnuma1 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --user-group server \
    && install -d -o server -g server /opt/vllm /models
USER 10001:10001
WORKDIR /home/server
# The wheel brings FlashInfer's compiled kernels where its release asks for them; nvcc makes others.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build-untested,source=/home/builder/dist,target=/dist \
    python3 -m venv /opt/vllm \
    && pip install --no-cache-dir /dist/*.whl \
    && if [ -n "$PACKAGES" ]; then pip install --no-cache-dir "$PACKAGES"; fi \
    && ln -s "$(dirname "$(find /opt/vllm -path '*/vllm/sm12x/recipes/command.py')")" /opt/vllm/recipes \
    && python -m vllm.sm12x.doctor
VOLUME /models
EXPOSE 8000
# Loading takes minutes, and a server that loads isn't a sick one.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["vllm", "serve"]
CMD ["--config", "/opt/vllm/recipes/gpt-oss-120b-1x-gb10.yaml"]

FROM scratch AS untested
COPY --from=build-untested /home/builder/dist/*.whl* /

FROM scratch AS wheel
COPY --from=build-tested /home/builder/dist/*.whl* /
