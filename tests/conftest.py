"""Fixtures that several test modules share.

`data_dir` is the directory of real data sets, vocabularies and checkpoints:
BERT_TEST_DATA, else ../shared/data beside the project. Tests that ask for it
are skipped, with a message, where it is absent:

  def test_something_on_real_text(data_dir):
    path = os.path.join(data_dir, "text", "wiki.sentences.txt")

`graph` and `seeded_graph` keep one test's graph from another's; `compiler` and
`tensorflow_2` skip tests of what an old TensorFlow cannot do. `ancestors` walks
a graph. With `as_on_cpu` and `as_on_gpu`, graphs are those made for the one or
the other, wherever they run.

Where there is a GPU, functions are compiled for it.
"""

import os

import pytest

PROJECT_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="session")
def data_dir():
  path = os.environ.get("BERT_TEST_DATA") or os.path.join(
      os.path.dirname(PROJECT_DIR), "shared", "data")
  if not os.path.isdir(path):
    pytest.skip("No test data in %s; BERT_TEST_DATA may name another "
                "place." % path)
  return path


def _tensorflow_version():
  import tensorflow.compat.v1 as tf
  return tuple(int(number) for number in tf.__version__.split(".")[:2])


@pytest.fixture
def compiler():
  # By the version, not by what the modules find: that is under test.
  if _tensorflow_version() < (2, 5):
    pytest.skip("TensorFlow before 2.5 does not compile single functions.")


@pytest.fixture
def tensorflow_2():
  if _tensorflow_version() < (2, 0):
    pytest.skip("TensorFlow 1 has nothing of the kind.")


def pytest_configure(config):
  """Does for a GPU what the scripts do before they make a graph."""
  del config  # Part of the interface.
  if os.path.exists("/proc/driver/nvidia"):
    import compiled_functions
    compiled_functions.enable_on_gpu()


@pytest.fixture
def as_on_cpu(monkeypatch):
  import compiled_functions
  monkeypatch.setattr(compiled_functions, "has_gpu", lambda: False)


@pytest.fixture
def as_on_gpu(monkeypatch, compiler):
  import compiled_functions
  import fused_ops

  def forget_pieces():
    for value in vars(fused_ops).values():
      if hasattr(value, "cache_clear"):
        value.cache_clear()

  monkeypatch.setattr(compiled_functions, "has_gpu", lambda: True)
  monkeypatch.setattr(compiled_functions, "_works_on_gpu", True)
  forget_pieces()
  yield
  forget_pieces()


@pytest.fixture
def graph():
  """A new default graph, for the test alone."""
  # Not all tests need TensorFlow, whose import takes seconds.
  import tensorflow.compat.v1 as tf
  with tf.Graph().as_default() as new_graph:
    yield new_graph


@pytest.fixture
def ancestors():
  """A function of operations: the set of all they depend on, and of them."""
  def find(*operations):
    found, to_visit = set(), list(operations)
    while to_visit:
      operation = to_visit.pop()
      if operation not in found:
        found.add(operation)
        to_visit += [tensor.op for tensor in operation.inputs]
        to_visit += operation.control_inputs
    return found

  return find


@pytest.fixture
def seeded_graph(graph):
  """The same; random values repeat from one run of the tests to the next."""
  import tensorflow.compat.v1 as tf
  tf.set_random_seed(1)
  return graph
