# Sourced by the other scripts: makes .venv with the packages of pyproject.toml, in the versions of constraints.txt, and
# activates it. An active virtual or conda environment with all of these versions is used instead.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local candidate
    for candidate in python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer was not found; install it and run this script again" >&2
    return 1
}

has_packages() {
    python - 2>/dev/null <<'PYTHON'
import importlib.metadata
for line in open("constraints.txt"):
    name, _, version = line.partition("#")[0].strip().partition("==")
    assert not name or importlib.metadata.version(name).partition("+")[0] == version
PYTHON
}

install() {
    local stamp=.venv/installed python
    cat pyproject.toml constraints.txt | cmp -s - "$stamp" && return
    python=$(find_python) || return 1
    [ -x .venv/bin/python ] || "$python" -m venv .venv || return 1
    echo "installing the packages of pyproject.toml into .venv (a few minutes, once)"
    .venv/bin/python -m pip install --quiet -c constraints.txt ".[test]" || return 1
    cat pyproject.toml constraints.txt > "$stamp"
}

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && has_packages; then
    echo "using the active environment ${VIRTUAL_ENV:-$CONDA_PREFIX}"
else
    install || exit 1
    . .venv/bin/activate
fi
