#!/bin/sh
# Writes constraints.txt: exact versions with hashes, for every platform and Python that pyproject.toml allows.
# Versions pinned already stay unless they no longer fit; --upgrade takes the newest.
set -eu
cd -- "$(dirname -- "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet uv
"$tools/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-config \
    --extra embedded --extra dev --python-version 3.11 \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
    "$@" --output-file constraints.txt pyproject.toml
if grep -nE '://|^ *--(index|extra-index|find-links|trusted)' constraints.txt; then
    echo "make: constraints.txt names an index or a path (above), which other machines lack" >&2
    exit 1
fi
