# gmae-tools on a CPU:
#
#     docker build -t gmae-tools .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" gmae-tools layers photo.jpg --out layers
FROM python:3.13-slim

# Any user may run the image, with a home and a cache of compiled kernels of which nothing outlives the container.
ENV HOME=/home/anyone \
    NUMBA_CACHE_DIR=/var/cache/numba \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu \
    torch torchvision
COPY . .
# The last line compiles the renderer once, which every run would have to do otherwise, and shows that it works.
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && mkdir -p "$HOME" "$NUMBA_CACHE_DIR" /work \
    && gmae-tools doctor \
    && chmod -R a+rwX "$HOME" "$NUMBA_CACHE_DIR"

WORKDIR /work
USER 1000
ENTRYPOINT ["gmae-tools"]
CMD ["--help"]
