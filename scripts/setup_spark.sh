#!/bin/sh
# Puts what constraints-spark.txt pins, the extra `spark` beyond .venv's own packages, into .venv/spark, where only
# its tests look: pandas slows the start of every process that can import it. Costs nothing where it is done already,
# and does nothing where Java is missing. Where it fails the tests are skipped, and say so; in CI they fail.
set -eu
cd -- "$(dirname -- "$0")/.."
unset PYTHONHOME PYTHONPATH
PIP_USER=0
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_USER PIP_DISABLE_PIP_VERSION_CHECK
folder=.venv/spark
stamp=$folder/ledgerlake-setup

is_done() {
    [ "$(cat "$stamp" 2>/dev/null || true)" = "$(cksum <constraints-spark.txt)" ]
}

command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" >/dev/null 2>&1 || exit 0
! is_done || exit 0
if command -v flock >/dev/null 2>&1; then
    exec 9>.venv.lock
    flock 9
    ! is_done || exit 0
fi
echo "Spark for its tests: 450 MB, some 2 minutes the first time (log: .venv/setup-spark.log)"
rm -rf "$folder"
if .venv/bin/python -m pip install --require-hashes --no-deps --target "$folder" -r constraints-spark.txt \
    >.venv/setup-spark.log 2>&1; then
    cksum <constraints-spark.txt >"$stamp"
else
    rm -rf "$folder"
    tail -n 5 .venv/setup-spark.log >&2
    echo "make: Spark could not be installed (above); its tests are left out." >&2
fi
