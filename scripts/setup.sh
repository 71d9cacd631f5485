#!/bin/sh
# Makes .venv hold exactly what constraints.txt pins, and this project in editable form.
#
#   PYTHON=python3.12 sh scripts/setup.sh [--needs-mongodb]
#
# Done already, it costs a fraction of a second. The stamp says what .venv holds; it is written after
# each part and removed first, so an interrupted installation is never taken for a finished one. --needs-mongodb refuses right away
# where no MongoDB could be started later.
set -eu

OLDEST=11
NEWEST=14

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
unset PYTHONHOME PYTHONPATH
PIP_USER=0
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_USER PIP_DISABLE_PIP_VERSION_CHECK
stamp=.venv/ledgerlake-setup

refuse() {
    printf 'make: %s\n' "$*" >&2
    exit 1
}

minor_version() { # prints N for a working Python 3.N, nothing for anything else
    "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else "")' 2>/dev/null || true
}

is_suitable() {
    minor=$(minor_version "$1")
    [ -n "$minor" ] && [ "$minor" -ge "$OLDEST" ] && [ "$minor" -le "$NEWEST" ]
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_suitable "$PYTHON" && return
        refuse "PYTHON=$PYTHON is $("$PYTHON" -V 2>&1 || true), but Python 3.$OLDEST to 3.$NEWEST is needed:" \
            "name one, such as 'make PYTHON=python3.12 setup'."
    fi
    number=$NEWEST
    PYTHON=python3
    while ! is_suitable "$PYTHON"; do
        [ "$number" -ge "$OLDEST" ] ||
            refuse "no Python 3.$OLDEST to 3.$NEWEST on PATH (python3 is $(python3 -V 2>&1 || true)):" \
                "install one, then 'make PYTHON=/path/to/python3.12 setup'."
        PYTHON=python3.$number
        number=$((number - 1))
    done
}

check_platform() {
    [ -z "${LEDGERLAKE_MONGODB_URI:-}" ] || return 0
    case "$(uname -s) $(uname -m)" in "Linux x86_64") return 0 ;; esac
    command -v mongod >/dev/null 2>&1 && return 0
    refuse "there is no bundled mongod for this platform ($(uname -s) $(uname -m)), and none on PATH:" \
        "set LEDGERLAKE_MONGODB_URI to a MongoDB replica set (6.0 or later), or install MongoDB."
}

packages_wanted() { # what only a new .venv can satisfy
    cksum <constraints.txt
    printf 'in %s\n' "$root"
}

everything_wanted() {
    packages_wanted
    cksum <pyproject.toml
}

write_stamp() {
    "$1" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

is_done() { # $1: how much of the stamp to look at: packages or all
    [ -f "$stamp" ] && [ -x .venv/bin/python ] || return 1
    minor=$(minor_version .venv/bin/python)
    [ -n "$minor" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(minor_version "$PYTHON")" = "$minor" ] || return 1
    case "$1" in
    packages) [ "$(sed -n 1,2p "$stamp")" = "$(packages_wanted)" ] ;;
    all) [ "$(cat "$stamp")" = "$(everything_wanted)" ] ;;
    esac
}

install_packages() {
    count=$(grep -c '^[A-Za-z0-9]' constraints.txt)
    echo "[1/3] a new .venv with $("$PYTHON" -V) ($PYTHON)"
    rm -rf .venv
    "$PYTHON" -m venv .venv ||
        refuse "$PYTHON cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)."
    echo "[2/3] about $count packages, some 2 minutes the first time (log: .venv/setup.log)"
    {
        .venv/bin/python -m pip install --require-hashes --no-deps -r constraints.txt 2>&1
        echo $? >.venv/setup.rc
    } | tee .venv/setup.log | awk -v count="$count" '
        /^Collecting / { n++; if (n % 20 == 0) { printf "      fetched %d of %d\n", n, count; fflush() } }
        /^Installing collected/ { printf "      fetched all %d, installing them\n", n; fflush() }'
    if [ "$(cat .venv/setup.rc)" != 0 ]; then
        tail -n 15 .venv/setup.log >&2
        refuse "pip could not install the packages (above; all of it in .venv/setup.log):" \
            "see that the package index can be reached (pip config list), then run make again."
    fi
    write_stamp packages_wanted
}

install_project() {
    echo "[3/3] ledgerlake itself"
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . ||
        refuse "ledgerlake could not be installed into .venv (above)."
    .venv/bin/python -m pip check >.venv/check.log || {
        cat .venv/check.log >&2
        refuse "constraints.txt does not satisfy pyproject.toml (above): run 'make lock', then make again."
    }
    write_stamp everything_wanted
}

[ "${1:-}" != --needs-mongodb ] || check_platform
! is_done all || exit 0
if command -v flock >/dev/null 2>&1; then # a second make waits for the first one instead of fighting it
    exec 9>.venv.lock
    flock 9
    ! is_done all || exit 0
fi
if ! is_done packages; then
    rm -f "$stamp"
    choose_python
    install_packages
fi
install_project
echo "ready: .venv"
