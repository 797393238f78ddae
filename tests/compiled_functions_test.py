"""Tests of compiled_functions.py: `pytest tests/compiled_functions_test.py`."""

import os

import pytest
import tensorflow.compat.v1 as tf

import compiled_functions

pytestmark = pytest.mark.usefixtures("compiler", "graph")


@pytest.fixture
def gpu(monkeypatch):
  """A GPU, so far as the module can tell."""
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setattr(compiled_functions, "has_gpu", lambda: True)
  monkeypatch.setattr(compiled_functions, "_works_on_gpu", False)


def double(x):
  return 2.0 * x


def test_what_is_compiled_computes_the_same():
  with tf.Session() as session:
    assert session.run(compiled_functions.compiled(double)(
        tf.constant([1.0, 2.0]))).tolist() == [2.0, 4.0]


def test_nothing_is_compiled_inside_what_is_compiled_as_a_whole(as_on_gpu):
  assert compiled_functions.are_available() == tf.test.is_built_with_xla()
  seen = []

  def whole():
    seen.append(compiled_functions.are_available())
    return tf.constant(0.0)

  tf.xla.experimental.compile(whole)
  assert seen and not any(seen)


def test_a_branch_runs_what_is_compiled():
  number = tf.placeholder_with_default(1.0, [])
  variable = tf.get_variable("v", [], initializer=tf.ones_initializer(),
                             use_resource=True)

  @compiled_functions.compiled
  def add(x):
    with tf.control_dependencies([variable.assign(variable + x)]):
      return tf.identity(x)

  result = tf.cond(number > 0.0, lambda: add(number), lambda: number)
  with tf.Session() as session:
    session.run(variable.initializer)
    for fed in (3.0, -1.0, 4.0):
      session.run(result, {number: fed})
    assert session.run(variable) == 8.0


def test_for_a_gpu_nothing_is_compiled_before_a_trial(gpu):
  assert not compiled_functions.are_available()
  compiled_functions.enable_on_gpu()
  assert compiled_functions.are_available()


@pytest.mark.parametrize("given,told", [
    ("libdevice not found.\nLong stack trace.", "libdevice not found."),
    ("", "")])
def test_a_trial_that_fails_is_logged_and_nothing_is_compiled(
    gpu, monkeypatch, caplog, given, told):
  def compiled(function):
    del function

    def fail(x):
      raise tf.errors.InternalError(None, None, given)

    return fail

  monkeypatch.setattr(compiled_functions, "compiled", compiled)
  compiled_functions.enable_on_gpu(tf.ConfigProto())
  assert not compiled_functions.are_available()
  message = caplog.text
  assert "and-cuda" in message and "It says: " + told in message
  assert "stack" not in message


@pytest.mark.parametrize("given,version,expected", [
    ("", "2.15.1", "--xla_gpu_enable_triton_gemm=false"),
    ("--xla_a=1", "2.21.0", "--xla_a=1 --xla_gpu_enable_triton_gemm=false"),
    ("--xla_gpu_enable_triton_gemm=true", "2.21.0",
     "--xla_gpu_enable_triton_gemm=true"),
    ("", "2.14.0", ""), ("", "2.22.0-rc1", "")])
def test_triton_writes_no_products_where_a_flag_can_say_so(
    gpu, monkeypatch, given, version, expected):
  monkeypatch.setenv("XLA_FLAGS", given)
  monkeypatch.setattr(tf, "__version__", version)
  compiled_functions.enable_on_gpu()
  assert os.environ["XLA_FLAGS"] == expected


def test_nothing_is_compiled_by_itself_where_whole_graphs_are(gpu):
  config = tf.ConfigProto()
  options = config.graph_options.optimizer_options
  options.global_jit_level = options.ON_2
  compiled_functions.enable_on_gpu(config)
  assert not compiled_functions.are_available()


def test_without_a_gpu_there_is_no_trial(monkeypatch):
  monkeypatch.setattr(compiled_functions, "has_gpu", lambda: False)
  monkeypatch.setattr(tf, "Session", None)
  compiled_functions.enable_on_gpu()
  assert compiled_functions.are_available() == tf.test.is_built_with_xla()
