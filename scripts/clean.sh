#!/bin/sh
# Stops the embedded MongoDB of ./var, then deletes ./var, .venv and the tools' caches. Says what it does.
set -eu
cd -- "$(dirname -- "$0")/.."

python=.venv/bin/python
[ -x "$python" ] || python=python3
if [ -d var/mongo ]; then
    # Only the standard library is needed for this, so it works without .venv too.
    PYTHONPATH=src "$python" -c '
from pathlib import Path
from ledgerlake.mongo.embedded import stop
from ledgerlake.settings import Settings
if stop(Settings(home=Path("var").absolute())):
    print("stopped the embedded MongoDB of ./var")
' || {
        echo "make: the embedded MongoDB of ./var could not be stopped, so ./var is left as it is" >&2
        exit 1
    }
fi
for folder in var .venv .venv.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist; do
    [ -e "$folder" ] || continue
    rm -rf "$folder"
    echo "deleted ./$folder"
done
find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
