#!/usr/bin/env bash
# Runs a part of the tests with the newest TensorFlow, and a smaller one with
# the oldest, in environments of their own. Where there is no Python for one of
# them, it says so and goes on.

setup_only_functions=yes
source "$(dirname "${BASH_SOURCE[0]}")/../setup_env.sh"
cd "$root"
unset PYTHON

# Which tests: the numbers, the checkpoints, and a run of each kind from end to
# end; few, for all of it must not take much longer than the tests by themselves.
oldest_tests="
  tests/parity_test.py
  tests/checkpoint_test.py
  tests/run_classifier_test.py::test_a_second_run_resumes_and_says_which_checkpoint_wins
  tests/run_pretraining_test.py::test_training_logs_both_losses_and_resumes
  tests/run_squad_test.py::test_run_trains_answers_scores_and_chooses_again"
newest_tests="$oldest_tests
  tests/session_estimator_test.py"

# run_part NAME PYTHON_VERSIONS TENSORFLOW_VERSION PYTEST_ARGUMENTS...
# An empty version of TensorFlow is the one in requirements.txt.
run_part() {
  local name=$1 python
  versions=$2 tensorflow=$3
  shift 3
  python=$(find_python)
  if [ -z "$python" ]; then
    say "no Python ${versions// / or }: the $name TensorFlow is not tested"
    return 0
  fi
  use_venv ".venv-$(version_of "$python")"
  ensure_venv
  say "testing with $("$venv_python" -c 'import platform, tensorflow
print("Python", platform.python_version(), "and TensorFlow",
      tensorflow.__version__)' 2>/dev/null)"
  "$venv_python" -m pytest "$@"
}

# In subshells: a failed installation ends only one of them.
status=0
# shellcheck disable=SC2086  # Lists of words.
(run_part newest "3.12 3.13" "" $newest_tests) || status=$?
(run_part oldest "3.7" 1.15.5 $oldest_tests) || status=$?
exit "$status"
