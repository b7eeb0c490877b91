# An image with the command avflow, for the CPU, or with TORCH_BUILD=cu130 for NVIDIA GPUs (drivers from 580 on):
#   docker build -t avflow .
#   docker build -t avflow-gpu --build-arg TORCH_BUILD=cu130 .
# How to run it, and what of it was tried: docs/install.md.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm AS build
# Which of torch's builds: the names are those of its index, cpu or cu and the digits of CUDA.
ARG TORCH_BUILD=cpu
ARG TORCH=2.13.0
# hadolint ignore=DL3008  # the compiler's version is the Debian release's
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/avflow
ENV PATH=/opt/avflow/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# First, so that nothing below chooses another build of it; and the compiler of the CUDA kernels, which stays in this stage.
RUN pip install "torch==${TORCH}" --index-url "https://download.pytorch.org/whl/${TORCH_BUILD}" \
    && case "${TORCH_BUILD}" in cu*) pip install --target /opt/nvcc \
    "nvidia-cuda-nvcc==13.*" "nvidia-cuda-runtime==13.*" "nvidia-cuda-cccl==13.*" ;; esac
WORKDIR /src
COPY pyproject.toml setup.py CMakeLists.txt LICENSE README.md ./
COPY tools/ tools/
COPY cmake/ cmake/
COPY csrc/ csrc/
COPY avflow_ext/ avflow_ext/
COPY python/ python/
COPY avflow-models/ avflow-models/
RUN case "${TORCH_BUILD}" in cu*) export AVFLOW_CUDA=1 CUDA_HOME=/opt/nvcc/nvidia/cu13 ;; *) export AVFLOW_CUDA=0 ;; esac \
    && pip install . ./avflow-models

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/avflow /opt/avflow
# For whoever runs it: with `--user $(id -u):$(id -g)` what is written to /work is one's own.
RUN useradd --uid 1000 --create-home avflow && chmod a+rwx /home/avflow && mkdir /work && chown 1000 /work
ENV PATH=/opt/avflow/bin:$PATH HOME=/home/avflow
USER 1000
WORKDIR /work
ENTRYPOINT ["avflow"]
CMD ["doctor"]
