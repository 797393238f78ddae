"""oneDNN's kernels of several operations at once, asked for by name.

TensorFlow on CPUs contains kernels of oneDNN that do a product together with
what follows it, or a whole LayerNorm. It uses them on its own where it
recognises a chain of operations, which it does for few of BERT's.

They have no gradients, and a graph with them runs only where TensorFlow has
been built with them: they are for prediction by the process at hand and for
the insides of `fused_ops.py`, not for models to be exported. The values are
those of the plain operations to rounding; `onednn_ops_test.py` compares them.

Letters in shapes are those of `modeling.py`.
"""

import tensorflow.compat.v1 as tf

import compiled_functions

# Types the kernels are there for.
DTYPES = (tf.float32, tf.bfloat16)

# What the kernels call the activations of a `BertConfig`.
_ACTIVATIONS = {"gelu": "GeluApproximate", "gelu_exact": "GeluExact",
                "relu": "Relu", "tanh": "Tanh"}


def are_available():
  """Whether this TensorFlow, device and place in the graph have the kernels.

  TensorFlow for macOS and for ARM has been built without them, and leaves them
  out on older processors, or if the variable TF_ENABLE_ONEDNN_OPTS is 0.
  """
  try:
    # No public name tells.
    from tensorflow.python.framework import kernels
    from tensorflow.python.util import _pywrap_util_port
    in_use = _pywrap_util_port.IsMklEnabled()
  except (ImportError, AttributeError):
    return False
  if not in_use or tf.executing_eagerly():
    return False
  graph = tf.get_default_graph()
  if graph.building_function or graph._get_control_flow_context() is not None:
    return False
  if compiled_functions.has_gpu():
    return False
  return all(kernels.get_registered_kernels_for_op(name).kernel for name in
             ("_FusedMatMul", "_MklFusedBatchMatMulV2", "_MklLayerNorm"))


def dense(matrix, kernel, bias, activation=None, residual=None):
  """activation(matrix * kernel + bias), or matrix * kernel + bias + residual.

  To be called in the variable scope of `kernel`. If the matrix is not of the
  kernel's type, a local variable there holds the converted kernel: 85 million
  weights take a tenth of a prediction to convert. So the local variables must
  be initialised after the others have their values, as tf.train.Scaffold does.

  Args:
    matrix: float [M, D].
    kernel: float32 variable [D, units].
    bias: float32 variable [units].
    activation: str, "gelu", "gelu_exact", "relu" or "tanh", or None.
    residual: float [M, units] to add, or None.

  Returns:
    float [M, units], of the matrix's type.
  """
  args, steps = [_cast(bias, matrix.dtype)], [b"BiasAdd"]
  if activation:
    steps.append(_ACTIVATIONS[activation].encode())
  if residual is not None:
    args.append(residual)
    steps.append(b"Add")
  return _call("_FusedMatMul", [matrix, _converted(kernel, matrix.dtype)],
               args, steps)


def layer_norm(x, gamma, beta, epsilon):
  """LayerNorm with float32 statistics.

  Args:
    x: float [M, D].
    gamma: float32 [D], scale.
    beta: float32 [D], offset.
    epsilon: float, added to the variance.

  Returns:
    float [M, D].
  """
  operation = tf.get_default_graph().create_op(
      "_MklLayerNorm",
      [_cast(value, x.dtype) for value in (x, gamma, beta)], [x.dtype],
      name="LayerNorm",
      attrs={"T": _type(x), "epsilon": tf.AttrValue(f=epsilon)})
  return operation.outputs[0]


def scores(query, key, scale, bias):
  """query * key * scale + bias, in each head.

  Args:
    query: float [B, N, F, H].
    key: float [B, N, T, H].
    scale: float.
    bias: float [B, 1, 1, T].

  Returns:
    float [B, N, F, T].
  """
  return _call("_MklFusedBatchMatMulV2", [query, key],
               [tf.constant(scale, query.dtype), bias], [b"Mul", b"Add"],
               adj_y=tf.AttrValue(b=True))


def _call(op_type, factors, args, steps, **attributes):
  """Builds a product with steps that have `args`; returns its result."""
  attributes.update(
      T=_type(factors[0]), num_args=tf.AttrValue(i=len(args)),
      fused_ops=tf.AttrValue(list=tf.AttrValue.ListValue(s=steps)))
  inputs = [tf.convert_to_tensor(value) for value in factors + args]
  operation = tf.get_default_graph().create_op(
      op_type, inputs, [inputs[0].dtype], name="product",
      attrs=attributes)
  return operation.outputs[0]


def _type(tensor):
  return tf.AttrValue(type=tensor.dtype.base_dtype.as_datatype_enum)


def _cast(value, dtype):
  return tf.cast(tf.convert_to_tensor(value), dtype)


def _converted(variable, dtype):
  """The variable's value in another type, converted once in a session."""
  if variable.dtype.base_dtype == dtype:
    return tf.convert_to_tensor(variable)
  name = "%s_%s" % (variable.op.name.split("/")[-1], dtype.name)
  return tf.convert_to_tensor(tf.get_variable(
      name, dtype=dtype, initializer=tf.cast(variable, dtype), trainable=False,
      collections=[tf.GraphKeys.LOCAL_VARIABLES]))
