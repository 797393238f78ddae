#!/usr/bin/env bash
# Makes the environment if need be, then runs the linter and the tests.
# Arguments go to pytest:
#
#   ./run_tests.sh
#   ./run_tests.sh tests/tokenization_test.py -k accents

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"

status=0
"$venv_python" -m ruff check . || status=$?
"$venv_python" -m pytest "$@" || status=$?
exit "$status"
