# Sourced by quickstart.sh and run_tests.sh: makes .venv next to this file, if
# need be, and sets
#
#   root         the folder of this file
#   venv_python  the Python to run
#
# Written for bash 3.2 and later. Environment variables that are respected:
# PYTHON (the Python to make .venv from), pip's PIP_*, TF_CPP_MIN_LOG_LEVEL.

set -eu

root=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv="$root/.venv"
venv_python="$venv/bin/python"
stamp="$venv/requirements.stamp"

# TensorFlow's C++ side prints several lines about absent GPUs even at level 2;
# failures that matter also arrive as Python exceptions.
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

# Whether "$1" is a Python that TensorFlow 2.15 runs on and that can make
# virtual environments (Debian packages those separately, as python3-venv).
suitable() {
  "$1" -c 'import sys, ensurepip, venv
sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1
}

# Prints the Python to use, or nothing: PYTHON if set, otherwise the first
# suitable one on PATH, otherwise the newest suitable one of pyenv's.
find_python() {
  local candidate pyenv="${PYENV_ROOT:-${HOME:-}/.pyenv}/versions"
  if [ -n "${PYTHON:-}" ]; then
    if suitable "$PYTHON"; then printf '%s\n' "$PYTHON"; fi
    return
  fi
  for candidate in python3 python3.11 python3.10 python3.9 \
      "$pyenv"/3.11.*/bin/python \
      "$pyenv"/3.10.*/bin/python \
      "$pyenv"/3.9.*/bin/python; do
    if suitable "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Whether .venv has every package. Looking them up takes milliseconds, where
# importing TensorFlow takes seconds.
venv_is_complete() {
  "$venv_python" -c 'import sys
from importlib.util import find_spec
names = "pip tensorflow numpy six absl tqdm pytest ruff".split()
sys.exit(not all(find_spec(name) for name in names))' >/dev/null 2>&1
}

# Whether .venv's Python starts and is, if PYTHON names one, of that version.
venv_runs() {
  suitable "$venv_python" || return 1
  [ -z "${PYTHON:-}" ] ||
    [ "$(version_of "$PYTHON")" = "$(version_of "$venv_python")" ]
}

make_venv() {
  local python
  if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    fail "$venv exists but is no virtual environment; move it away"
  fi
  python=$(find_python)
  if [ -z "$python" ]; then
    fail "no suitable Python: TensorFlow 2.15 needs Python 3.9, 3.10 or 3.11" \
      "with the venv module${PYTHON:+ (PYTHON=$PYTHON is not)}; install one" \
      "or set PYTHON=/path/to/python"
  fi
  say "making $venv with Python $(version_of "$python")"
  "$python" -m venv --clear "$venv" || fail "could not make $venv"
}

install_requirements() {
  say "installing TensorFlow and the rest of requirements-dev.txt" \
    "(up to 500 MB to download, a minute or more)"
  rm -f "$stamp"
  "$venv_python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements-dev.txt" ||
    fail "pip could not install requirements-dev.txt; its message is above"
  requirements_checksum >"$stamp"
}

requirements_checksum() {
  cat "$root/requirements.txt" "$root/requirements-dev.txt" | cksum
}

ensure_venv() {
  venv_runs || make_venv
  if ! venv_is_complete ||
      [ "$(cat "$stamp" 2>/dev/null)" != "$(requirements_checksum)" ]; then
    install_requirements
  fi
}

# Only an explicit PYTHON needs checking when .venv is there already.
if [ -n "${PYTHON:-}" ] && ! suitable "$PYTHON"; then
  fail "PYTHON=$PYTHON is not Python 3.9, 3.10 or 3.11 with the venv module"
fi
ensure_venv
