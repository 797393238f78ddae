# Sourced by quickstart.sh and run_tests.sh: makes .venv next to this file, if
# need be, and sets
#
#   root         the folder of this file
#   venv_python  the Python to run
#
# Written for bash 3.2 and later. Environment variables that are respected:
# PYTHON (the Python to make .venv from), pip's PIP_*, TF_CPP_MIN_LOG_LEVEL.
#
# .ci/versions.sh wants the functions alone, to make other environments: it sets
# setup_only_functions=yes.

set -eu

root=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Preferred first: those with TensorFlow 2.15, then newer ones, then older ones.
versions="3.11 3.10 3.9 3.12 3.13 3.8 3.7"
# A version of TensorFlow to install instead of the one in requirements.txt.
tensorflow=

use_venv() {
  venv="$root/$1"
  venv_python="$venv/bin/python"
  stamp="$venv/requirements.stamp"
}

use_venv .venv

# TensorFlow's C++ side prints several lines about absent GPUs even at level 2;
# failures that matter also arrive as Python exceptions.
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

# Whether "$1" is a Python of one of the versions "$2" that can make virtual
# environments (Debian packages those separately, as python3-venv).
suitable() {
  "$1" -c 'import sys, ensurepip, venv
sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1].split())' \
    "$2" >/dev/null 2>&1
}

# Prints the Python to use, or nothing: PYTHON if set, otherwise that of the
# first of the versions that is on PATH or among pyenv's.
find_python() {
  local version candidate pyenv="${PYENV_ROOT:-${HOME:-}/.pyenv}/versions"
  if [ -n "${PYTHON:-}" ]; then
    if suitable "$PYTHON" "$versions"; then printf '%s\n' "$PYTHON"; fi
    return
  fi
  for version in $versions; do
    for candidate in python3 "python$version" \
        "$pyenv/$version".*/bin/python; do
      if suitable "$candidate" "$version"; then
        printf '%s\n' "$candidate"
        return
      fi
    done
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
  suitable "$venv_python" "$versions" || return 1
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
    fail "no suitable Python: TensorFlow needs Python 3.7 to 3.13 (best is" \
      "3.11) with the venv module${PYTHON:+ (PYTHON=$PYTHON is not)}; install" \
      "one or set PYTHON=/path/to/python"
  fi
  say "making $venv with Python $(version_of "$python")"
  "$python" -m venv --clear "$venv" || fail "could not make $venv"
}

install_requirements() {
  say "installing TensorFlow and the rest of requirements-dev.txt" \
    "(up to 650 MB to download, a minute or more)"
  rm -f "$stamp"
  "$venv_python" -m pip install --quiet --disable-pip-version-check \
    -r "$root/requirements-dev.txt" ${tensorflow:+"tensorflow==$tensorflow"} ||
    fail "pip could not install requirements-dev.txt; its message is above"
  requirements_checksum >"$stamp"
}

requirements_checksum() {
  { cat "$root/requirements.txt" "$root/requirements-dev.txt"
    printf '%s' "$tensorflow"; } | cksum
}

ensure_venv() {
  venv_runs || make_venv
  if ! venv_is_complete ||
      [ "$(cat "$stamp" 2>/dev/null)" != "$(requirements_checksum)" ]; then
    install_requirements
  fi
}

if [ -z "${setup_only_functions:-}" ]; then
  # Only an explicit PYTHON needs checking when .venv is there already.
  if [ -n "${PYTHON:-}" ] && ! suitable "$PYTHON" "$versions"; then
    fail "PYTHON=$PYTHON is not Python 3.7 to 3.13 with the venv module"
  fi
  ensure_venv
fi
