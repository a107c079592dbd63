#!/usr/bin/env bash
# Installs a wheel into an empty environment and uses it from an empty folder, where no checkout can help it.
#
#     bash .github/try-wheel.sh dist/gmae_tools-0.1.0-py3-none-any.whl
#
# PYTHON names the interpreter, PIP_EXTRA_INDEX_URL and the like are pip's own.
set -euo pipefail

wheel=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
bin=$folder/environment/bin
"$bin/python" -m pip install --quiet "$wheel"
"$bin/python" -m pip check

unset PYTHONPATH
export NUMBA_CACHE_DIR=$folder/kernels
"$bin/gmae-tools" --version
photo=$("$bin/python" -c 'import gmae_tools, pathlib; print(pathlib.Path(gmae_tools.__file__).parent / "assets/demo.jpg")')
"$bin/gmae-tools" layers "$photo" --layers 4 --out layers
"$bin/gmae-tools" edges "$photo" --out edges
"$bin/gmae-tools" view "$photo" --out view
"$bin/gmae-tools" doctor
find layers edges view -type f | sort
test -n "$(find layers -name '*.png')" && test -n "$(find edges -name '*.png')" && test -n "$(find view -name '*.html')"
