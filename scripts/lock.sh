#!/bin/sh
# Writes constraints.txt and constraints-spark.txt: exact versions with hashes, for every platform and Python that
# pyproject.toml allows. Versions pinned already stay unless they no longer fit; --upgrade takes the newest.
set -eu
cd -- "$(dirname -- "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m venv "$tools/venv"
"$tools/venv/bin/python" -m pip install --quiet uv
compile() { # $1: the file to write; the rest goes to uv
    "$tools/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-config --python-version 3.11 \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file "$@" pyproject.toml
    if grep -nE '://|^ *--(index|extra-index|find-links|trusted)' "$1"; then
        echo "make: $1 names an index or a path (above), which other machines lack" >&2
        exit 1
    fi
}

compile constraints.txt --extra embedded --extra dev "$@"
# What Spark needs beyond them, and only that (scripts/setup_spark.sh says why).
names=$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' constraints.txt | sort -u)
# shellcheck disable=SC2086 # words are meant
compile constraints-spark.txt --extra spark --constraint constraints.txt $names "$@"
sed -i.bak '/^# The following packages were excluded/,$d' constraints-spark.txt
rm constraints-spark.txt.bak
