# zsrobust on a CPU, or with CUDA on a GPU:
#   docker build -t zsrobust .
#   docker build -t zsrobust:cuda --build-arg TORCH=cu126 .
#   docker run --rm -v "$PWD:/home/zsrobust" --user "$(id -u):$(id -g)" zsrobust run --suite mini --defense clip --attack pgd10
#   docker run --rm --gpus all -v "$PWD:/home/zsrobust" --user "$(id -u):$(id -g)" zsrobust:cuda run --defense pmg_aft --attack pgd10
# The smoke test trains, attacks and prints a table; it takes two to four minutes on two cores:
#   docker build --target smoke .
FROM python:3.12-slim AS installed

# The build of torch: cpu, or one for a version of CUDA, such as cu126. Its wheels bring CUDA's libraries with them.
ARG TORCH=cpu
# No version is pinned: a plain installation, too, takes the newest ones that pyproject.toml allows.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" "torch>=2.6" torchvision
RUN --mount=type=bind,target=/source,readwrite pip install --no-cache-dir "/source[layouts,slurm,torchattacks]"

# Results, checkpoints, data and downloads stay in the folder that is mounted at /home/zsrobust.
ENV HOME=/home/zsrobust USER=zsrobust HF_HOME=/home/zsrobust/.cache/huggingface ZSROBUST_CACHE=/home/zsrobust/.cache/zsrobust
RUN useradd --uid 1000 --home-dir /home/zsrobust --create-home zsrobust
WORKDIR /home/zsrobust
USER zsrobust

FROM installed AS smoke
RUN zsrobust run --suite mini --defense pmg_aft --attack pgd10 && zsrobust verify runs

FROM installed
ENTRYPOINT ["zsrobust"]
CMD ["--help"]
