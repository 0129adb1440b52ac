# videomae on GPU machines: CUDA runtime, Python 3.12, the pinned versions.
#   docker build -t videomae .
#   docker run --gpus all --shm-size 16g -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" videomae doctor
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

# CUDA 13.0 is that of the pinned PyTorch. devel and g++: DeepSpeed and torch.compile build kernels on first use.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git openssh-client pdsh python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv "$VIRTUAL_ENV"

WORKDIR /src
# The dependencies in a layer of their own: a change of the code does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir videomae pretrain finetune launch \
    && pip install -c constraints.txt ".[remote]" \
    && pip uninstall -y videomae
COPY videomae videomae
COPY pretrain pretrain
COPY finetune finetune
COPY launch launch
COPY configs /work/configs
RUN pip install --no-deps .

RUN useradd --create-home --uid 1001 videomae && mkdir -p /work/runs && chown -R videomae /work
USER 1001
WORKDIR /work
ENTRYPOINT ["videomae"]
CMD ["--help"]
