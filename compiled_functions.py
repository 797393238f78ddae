"""Parts of a graph that XLA compiles: where it can, and how.

A compiled part is one operation, which XLA compiles anew for each combination
of its inputs' shapes. On a CPU that saves passes over memory. On a GPU it saves
starts of kernels above all, which there take longer than most of them run.
"""

import functools
import inspect
import os

import tensorflow.compat.v1 as tf

# Whether this TensorFlow compiles single functions; those before 2.5 do not.
_CAN_COMPILE = "jit_compile" in inspect.signature(tf.function).parameters

# For each product, XLA can have kernels compiled by Triton compete with cuBLAS.
# On an H200, steps of BERT-Base gained a twentieth by it (float32), but all the
# compiling took over a minute (bfloat16) instead of 20 seconds.
_NO_TRITON_PRODUCTS = "--xla_gpu_enable_triton_gemm=false"
# Versions that know this flag: others may end the process at an unknown one.
_OLDEST_WITH_TRITON, _NEWEST_WITH_TRITON = (2, 15), (2, 21)

# Whether `enable_on_gpu` found that XLA compiles for the GPU.
_works_on_gpu = False


def compiled(function):
  """A function of tensors that XLA compiles for each combination of shapes.

  As it is where TensorFlow is too old for that.
  """
  if not _CAN_COMPILE:
    return function
  return tf.function(function, jit_compile=True, autograph=False)


def are_available():
  """Whether this TensorFlow, device and place in the graph can compile.

  Inside a compiled part (and a loop of TensorFlow 1's kind), a function is
  compiled with the rest or not at all.
  """
  return (_CAN_COMPILE and tf.test.is_built_with_xla()
          and not tf.executing_eagerly()
          and tf.get_default_graph()._get_control_flow_context() is None
          and (_works_on_gpu or not has_gpu()))


@functools.lru_cache(maxsize=None)
def has_gpu():
  """Whether TensorFlow sees a GPU."""
  return bool(tf.config.experimental.list_physical_devices("GPU"))


def enable_on_gpu(session_config=None):
  """Has functions compiled for the GPU, too, if a trial shows that it works.

  XLA needs libraries and programs of CUDA there that are often not installed;
  if it fails, a warning says what to install. To be called before the graph is
  built. Nothing is done where there is no GPU, or where the sessions compile
  whole graphs.

  Modules that build graphs do not call it by themselves: the trial is the
  process's first session, and how that one takes the GPU's memory is how all
  later ones do.

  Args:
    session_config: tf.ConfigProto of the sessions to come, or None.
  """
  global _works_on_gpu
  if _works_on_gpu or not _CAN_COMPILE or not has_gpu():
    return
  if session_config is not None and (
      session_config.graph_options.optimizer_options.global_jit_level > 0):
    return
  _set_xla_flags()
  try:
    with tf.Graph().as_default(), tf.Session(config=session_config) as session:
      # Uses the library of mathematical functions, like all that is compiled.
      session.run(compiled(tf.tanh)(tf.random.uniform([2])))
    _works_on_gpu = True
  except tf.errors.OpError as error:
    tf.logging.warning(
        "XLA cannot compile for this GPU, so each operation of a step is "
        "started by itself, which makes steps slower. `pip install "
        "tensorflow[and-cuda]` brings what it needs. It says: %s",
        error.message.partition("\n")[0])


def _set_xla_flags():
  """Adds `_NO_TRITON_PRODUCTS`, unless the user has a say in that.

  XLA reads the variable when it is used for the first time.
  """
  version = tuple(int(part) for part in tf.__version__.split(".")[:2])
  flags = os.environ.get("XLA_FLAGS", "")
  name = _NO_TRITON_PRODUCTS.split("=", maxsplit=1)[0]
  if (_OLDEST_WITH_TRITON <= version <= _NEWEST_WITH_TRITON
      and name not in flags):
    os.environ["XLA_FLAGS"] = (flags + " " + _NO_TRITON_PRODUCTS).strip()
