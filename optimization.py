"""Turns a loss into a training step: schedule, clipping, optimizer.

For example

  train_op = optimization.create_optimizer(
      loss, init_lr=2e-5, num_train_steps=1000, num_warmup_steps=100,
      use_tpu=False)

The default optimizer is Adam (Kingma and Ba, arXiv:1412.6980) without its bias
correction and with the weight decay taken out of the gradient (Loshchilov and
Hutter, arXiv:1711.05101). BERT was pre-trained with it (arXiv:1810.04805,
appendix A.2). The others are LAMB, for batches of thousands, and Adafactor,
whose state takes next to no memory.
"""

import math
import re

import tensorflow.compat.v1 as tf

import compiled_functions

# Graph collection that holds the learning rate of each train op.
LEARNING_RATE_COLLECTION = "learning_rate"

_CLIP_NORM = 1.0
_WEIGHT_DECAY_RATE = 0.01
_NOT_DECAYED = ("LayerNorm", "layer_norm", "bias")
# Number of elements from which on compiling the update of a variable pays.
_MIN_COMPILED_SIZE = 1 << 16


def learning_rate(init_lr, num_train_steps, num_warmup_steps, global_step=None):
  """Builds the learning rate: linear warm-up, then linear decay to zero.

  The decay line runs from `init_lr` at step 0 to zero at `num_train_steps`; the
  warm-up line, from zero at step 0, replaces it below `num_warmup_steps`. So
  the rate falls from about `init_lr` to
  `init_lr * (1 - num_warmup_steps / num_train_steps)` when the warm-up ends.

  Args:
    init_lr: float, peak of the warm-up line.
    num_train_steps: int, steps until the rate is zero; it stays there.
    num_warmup_steps: int, steps of warm-up; none if 0 or None.
    global_step: int scalar, number of steps done. Default: the graph's.

  Returns:
    float32 scalar tensor named `learning_rate`.

  Raises:
    ValueError: `num_train_steps` is not positive.
  """
  if num_train_steps is None or num_train_steps <= 0:
    raise ValueError(
        "`num_train_steps` is %s, but must be at least 1. When it is computed "
        "from the data it is int(examples / train_batch_size * "
        "num_train_epochs): use more examples, a smaller `train_batch_size` or "
        "a larger `num_train_epochs`." % (num_train_steps,))
  if global_step is None:
    global_step = tf.train.get_or_create_global_step()
  peak = tf.constant(init_lr, tf.float32)
  step = tf.cast(global_step, tf.float32)
  end = tf.constant(num_train_steps, tf.float32)
  rate = peak * (1.0 - tf.minimum(step, end) / end)
  if num_warmup_steps and num_warmup_steps > 0:
    warmup_end = tf.constant(num_warmup_steps, tf.float32)
    rate = tf.where(step < warmup_end, peak * (step / warmup_end), rate)
  return tf.identity(rate, name="learning_rate")


def create_optimizer(loss, init_lr, num_train_steps, num_warmup_steps, use_tpu,
                     scale_loss=False, gradients=None, optimizer="adamw",
                     frozen=()):
  """Builds the operation that does one training step.

  The gradients of all trained variables are clipped to a global norm of 1,
  whatever the optimizer. The norm of an embedding gradient given as rows
  (`tf.IndexedSlices`) is taken before rows of the same word are added up.

  The learning rate is added to the graph collection `learning_rate` and, except
  on TPU, to the summaries.

  Args:
    loss: float scalar to minimise.
    init_lr: float, see `learning_rate`.
    num_train_steps: int, see `learning_rate`.
    num_warmup_steps: int or None, see `learning_rate`.
    use_tpu: bool, whether to add up the gradients of all TPU cores. Each core
      clips its own beforehand.
    scale_loss: bool, for float16, in which small gradients vanish: take the
      gradients of a multiple of the loss. A step whose gradients overflow
      changes nothing but the multiple, which is halved (Micikevicius et al.,
      "Mixed Precision Training", arXiv:1710.03740, section 3.2). Not on TPU.
    gradients: those of the trained variables if the caller has them, from
      `accumulate_gradients` with the same `scale_loss` and `frozen`.
    optimizer: str, "adamw", "lamb" or "adafactor" (see the classes below).
    frozen: iterable of str; trainable variables whose name starts with one of
      them stay as they are. They get no optimizer state, and nothing of the
      backward pass that only they need is computed.

  Returns:
    A `tf.Operation` that updates the variables, then increments the global
    step.

  Raises:
    ValueError: `num_train_steps` is not positive, there is no such optimizer,
      or `loss` depends on no trainable variable that is not frozen.
  """
  global_step = tf.train.get_or_create_global_step()
  rate = learning_rate(init_lr, num_train_steps, num_warmup_steps, global_step)
  _publish_learning_rate(rate, use_tpu)
  variables = _trained_variables(frozen)
  _log_frozen(variables)
  if scale_loss and use_tpu:
    raise ValueError("A loss is scaled for float16, which TPUs do not have.")
  scale = LossScale() if scale_loss else None
  if gradients is None:
    gradients = tf.gradients(
        loss * scale.value if scale else loss, variables)
  if all(gradient is None for gradient in gradients):
    raise ValueError(
        "`loss` (%s) depends on none of the %d trainable variables: there is "
        "nothing to train." % (loss.name, len(variables)))
  settings = {
      "learning_rate": rate,
      "weight_decay_rate": _WEIGHT_DECAY_RATE,
      "exclude_from_weight_decay": list(_NOT_DECAYED),
  }
  if use_tpu:
    gradients, _ = tf.clip_by_global_norm(gradients, _CLIP_NORM)
    updater = tf.tpu.CrossShardOptimizer(
        _make_optimizer(optimizer, settings))
  else:
    norm = _global_norm(gradients)
    if scale:
      gradient_scale = _clipping_factor(
          norm / scale.value, _CLIP_NORM) / scale.value
    else:
      gradient_scale = _clipping_factor(norm, _CLIP_NORM)
    settings["gradient_scale"] = gradient_scale
    updater = _make_optimizer(optimizer, settings)

  def update():
    return updater.apply_gradients(
        zip(gradients, variables), global_step=global_step)

  updates = scale.update(norm, update) if scale else update()
  # After the updates, because they read the rate, which reads the step.
  with tf.control_dependencies([updates]):
    return tf.group(global_step.assign_add(1))


def accumulate_gradients(loss_fn, features, num_micro_batches,
                         scale_loss=False, frozen=()):
  """Gradients of a batch, computed one part of it after the other.

  As many examples as fit into memory at a time; the parts' activations never
  exist together. The result is that of the whole batch to float32 rounding,
  dropout aside. To be given to `create_optimizer`:

    losses, gradients = accumulate_gradients(
        lambda part: [my_loss(part["input_ids"], ...)], features, 4)
    train_op = create_optimizer(
        losses[0], 2e-5, 1000, 100, False, gradients=gradients)

  Gradients of embeddings are dense here, rows of the same word added up, so
  that clipping sees their true norm. Without accumulation it sees that of the
  separate rows, as google-research/bert does.

  Args:
    loss_fn: function of a dict of features of a part, [B / parts, ...], to a
      list of float scalars: the loss to minimise, and others to report. The
      batch's values are the means of those of the parts. It is called twice,
      the second time with reused variables.
    features: dict of tensors [B, ...], B known.
    num_micro_batches: int, parts; 1 computes as if there were no parts.
    scale_loss: bool, see `create_optimizer`.
    frozen: iterable of str, likewise.

  Returns:
    (losses, gradients): list of scalars, in the order of `loss_fn`; list with
    a tensor or None for each trained variable, or None if there is one part.

  Raises:
    ValueError: the parts do not divide the batch.
  """
  if num_micro_batches == 1:
    return loss_fn(features), None
  parts = _split_batch(features, num_micro_batches)

  def part_gradients(index):
    return _part_gradients(
        loss_fn, {name: values[index] for name, values in parts.items()},
        num_micro_batches, scale_loss, frozen)

  # The first part makes the variables, which a loop could not.
  losses, gradients = part_gradients(0)
  used = [i for i, gradient in enumerate(gradients) if gradient is not None]

  def add_part(index, *totals):
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      losses, gradients = part_gradients(index)
    new = losses + [gradients[i] for i in used]
    totals = [total + value for total, value in zip(totals, new)]
    with tf.control_dependencies(totals):  # One part at a time.
      return [index + 1] + totals

  flat = losses + [gradients[i] for i in used]
  with tf.control_dependencies(flat):
    start = tf.constant(1)
  flat = tf.while_loop(
      lambda index, *_: index < num_micro_batches, add_part, [start] + flat,
      parallel_iterations=1)[1:]
  for i, gradient in zip(used, flat[len(losses):]):
    gradients[i] = gradient
  return flat[:len(losses)], gradients


def _split_batch(features, num_parts):
  """Tensors [B, ...] by name -> [num_parts, B / num_parts, ...]."""
  parts = {}
  for name, tensor in features.items():
    batch_size, *rest = tensor.shape.as_list()
    if batch_size is None or num_parts < 1 or batch_size % num_parts:
      raise ValueError(
          "--gradient_accumulation_steps=%d does not divide the batch of %s "
          "examples (--train_batch_size; on a TPU, a core's share of it)."
          % (num_parts, batch_size))
    shape = [num_parts, batch_size // num_parts] + rest
    parts[name] = tf.reshape(tensor, shape)  # [parts, B / parts, ...]
  return parts


def _part_gradients(loss_fn, features, num_parts, scale_loss, frozen):
  """What one part adds to the losses and to the gradients, as lists."""
  losses = [loss / num_parts for loss in loss_fn(features)]
  variables = _trained_variables(frozen)
  loss = losses[0] * LossScale().value if scale_loss else losses[0]
  gradients = tf.gradients(loss, variables)
  return losses, [
      gradient if gradient is None else _to_dense(gradient, variable)
      for gradient, variable in zip(gradients, variables)]


def _trained_variables(frozen):
  """list of the trainable variables whose name does not start with `frozen`."""
  return [variable for variable in tf.trainable_variables()
          if not variable.name.startswith(tuple(frozen))]


def _log_frozen(trained):
  """Says how much of the model is trained, unless all of it is."""
  everything = tf.trainable_variables()
  if len(trained) < len(everything):
    sizes = [sum(v.shape.num_elements() for v in variables) / 1e6
             for variables in (trained, everything)]
    tf.logging.info(
        "Trained are %d of %d trainable variables, %.1f of %.1f million "
        "weights; the others are frozen.", len(trained), len(everything),
        *sizes)


def _make_optimizer(name, settings):
  """The optimizer of that name, with these keyword arguments."""
  classes = {"adamw": AdamWeightDecayOptimizer, "lamb": LambOptimizer,
             "adafactor": AdafactorOptimizer}
  if name not in classes:
    raise ValueError("There is no `optimizer` %r, only %s."
                     % (name, ", ".join(sorted(classes))))
  return classes[name](**settings)


def _publish_learning_rate(rate, use_tpu):
  """Adds the rate to its collection and to the summaries, where possible."""
  if tf.get_default_graph()._get_control_flow_context() is not None:
    return  # Nothing inside a loop or a compiled part can be fetched.
  tf.add_to_collection(LEARNING_RATE_COLLECTION, rate)
  if not use_tpu:
    # `tf.summary.scalar` would change the tag, as a tensor has that name.
    summary = tf.raw_ops.ScalarSummary(tags="learning_rate", values=rate)
    tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)


class LossScale:
  """What a loss is multiplied by in float16, kept as large as it can be.

  It doubles after 2,000 steps without overflow. Not part of checkpoints: a run
  that is resumed finds it anew.
  """

  def __init__(self, initial=2.0 ** 15, growth_steps=2000):
    self._growth_steps = growth_steps
    with tf.variable_scope("loss_scale", reuse=tf.AUTO_REUSE):
      self._value, self._good_steps = [
          tf.get_variable(
              name, [], tf.float32, initializer=tf.constant_initializer(value),
              trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
          for name, value in (("value", initial), ("good_steps", 0.0))]
    # Read once, before the step changes it.
    self.value = tf.identity(self._value)

  def update(self, norm, apply_gradients):
    """Applies finite gradients; else lowers the scale.

    Args:
      norm: float scalar, global norm of the scaled loss's gradients.
      apply_gradients: function that makes the operation.

    Returns:
      A tensor that is there when the step is done.
    """
    def apply():
      with tf.control_dependencies([apply_gradients()]):
        grows = self._good_steps + 1.0 >= self._growth_steps
        return (tf.where(grows, 2.0 * self.value, self.value),
                tf.where(grows, 0.0, self._good_steps + 1.0))

    def skip():
      return tf.maximum(0.5 * self.value, 1.0), tf.zeros([])

    value, good_steps = tf.cond(tf.is_finite(norm), apply, skip)
    return tf.group(self._value.assign(value),
                    self._good_steps.assign(good_steps))


def _global_norm(gradients):
  """`tf.linalg.global_norm`; on a GPU, one operation for dense gradients."""
  dense = [gradient for gradient in gradients
           if gradient is not None
           and not isinstance(gradient, tf.IndexedSlices)]
  if (dense and compiled_functions.has_gpu()
      and compiled_functions.are_available()):
    norm = compiled_functions.compiled(tf.linalg.global_norm)(dense)
    gradients = [norm] + [gradient for gradient in gradients
                          if isinstance(gradient, tf.IndexedSlices)]
  return tf.linalg.global_norm(gradients)


def _clipping_factor(norm, clip_norm):
  """What to multiply gradients of that norm by, as `tf.clip_by_global_norm`.

  It is not a number if the norm is not finite, so that overflow shows in every
  weight instead of being hidden by the clipping.
  """
  factor = clip_norm * tf.minimum(1.0 / norm, 1.0 / clip_norm)
  not_a_number = tf.fill(tf.shape(norm), float("nan"))
  return tf.where(tf.is_finite(norm), factor, not_a_number)


class _Optimizer(tf.train.Optimizer):
  """What the optimizers share: the pass over the weights, and their state.

  The state of a variable is in the variables `<its name>/<slot>`, created in
  the current variable scope, or shared if that scope has them already. What a
  subclass adds is the names and shapes of these slots, and the arithmetic.
  """

  def __init__(self, learning_rate, weight_decay_rate,
               exclude_from_weight_decay, name, gradient_scale):
    super(_Optimizer, self).__init__(False, name)
    self.learning_rate, self.gradient_scale = learning_rate, gradient_scale
    self.weight_decay_rate = weight_decay_rate
    self.exclude_from_weight_decay = exclude_from_weight_decay
    self._created_slots = []

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Builds the update of the variables.

    Args:
      grads_and_vars: pairs of a gradient (tensor, `tf.IndexedSlices` or None)
        and its float32 variable; those with a None are skipped.
      global_step: int scalar, number of steps done, for optimizers whose
        arithmetic depends on it; then None is the graph's. The caller
        increments it.
      name: string, name of the returned operation.

    Returns:
      A `tf.Operation`.
    """
    pairs = [(gradient, param) for gradient, param in grads_and_vars
             if gradient is not None and param is not None]
    slots = [self._create_slots(param) for _, param in pairs]
    # A gradient may be computed from other weights than its own. None of them
    # may change before all the gradients are there. One operation that waits
    # for them saves thousands the waiting, and the graph most of its size.
    ready = tf.group(*[gradient for gradient, _ in pairs])
    with tf.control_dependencies([ready]):
      scalars = self._scalars(global_step)
      steps = [(param, state, _to_dense(gradient, param),
                self._is_excluded(self._get_variable_name(param.name)))
               for (gradient, param), state in zip(pairs, slots)]
      updates = self._build_steps(steps, scalars)
    return tf.group(*updates, name=name)

  def variables(self):
    """Returns the slots created so far."""
    return list(self._created_slots)

  def _slot_shapes(self, shape):
    """Returns pairs of the name and shape of each slot of such a variable."""
    raise NotImplementedError

  def _scalars(self, global_step):
    """Returns a list of scalars for all updates, the learning rate first."""
    del global_step
    return [tf.convert_to_tensor(self.learning_rate, tf.float32)]

  def _update(self, old, slots, gradient, scalars, excluded):
    """Computes a step.

    Args:
      old: float32 tensor, the weight.
      slots: list of tensors, its state, as in `_slot_shapes`.
      gradient: float32 tensor of the weight's shape.
      scalars: list of tensors, from `_scalars`.
      excluded: bool, whether the weight is one of those not to decay.

    Returns:
      The new weight, and the list of its new slots.
    """
    raise NotImplementedError

  def _create_slots(self, param):
    """Returns the variables with the state of `param`."""
    prefix = self._get_variable_name(param.name)
    with tf.variable_scope(
        tf.get_variable_scope(), reuse=tf.AUTO_REUSE,
        auxiliary_name_scope=False):
      slots = [
          tf.get_variable(
              "%s/%s" % (prefix, name), shape, tf.float32,
              initializer=_zeros, trainable=False,
              use_resource=_is_resource(param))
          for name, shape in self._slot_shapes(param.shape.as_list())]
    self._created_slots += slots
    return slots

  def _build_steps(self, steps, scalars):
    """Builds steps on weights, compiled where that pays.

    A weight matrix is too large for the caches, so on a CPU its step takes as
    long as the passes over memory, and XLA needs a third of those of separate
    kernels, and works in place. On a GPU that has to start as few kernels as
    possible, all the steps are one operation. Inside a loop or a compiled part,
    they are compiled with the rest or not at all.

    Args:
      steps: list of (variable, list of its slots, gradient, whether the weight
        is excluded from the decay).
      scalars: list of tensors, from `_scalars`.

    Returns:
      list of tensors, as from `_do_steps`.
    """
    is_gpu = compiled_functions.has_gpu()
    groups = [steps] if is_gpu else [[step] for step in steps]
    do_compiled = compiled_functions.compiled(self._do_steps)
    updates = []
    for group in groups:
      is_compiled = compiled_functions.are_available() and all(
          _is_resource(param) and (
              is_gpu or param.shape.num_elements() >= _MIN_COMPILED_SIZE)
          for param, *_ in group)
      do = do_compiled if is_compiled else self._do_steps
      updates.append(do(group, scalars, self.gradient_scale))
    return updates

  def _do_steps(self, steps, scalars, scale):
    """Does a step on weights and their state.

    Args:
      steps: as in `_build_steps`; gradients are tensors of the weights' shapes.
      scalars: list of tensors, from `_scalars`.
      scale: scalar that multiplies the gradients, or None.

    Returns:
      A tensor that is there when the steps are done; its value has no meaning.
    """
    assignments = []
    for param, slots, gradient, is_excluded in steps:
      gradient = tf.cast(gradient, tf.float32)
      if scale is not None:
        gradient *= scale
      new, new_slots = self._update(
          tf.convert_to_tensor(param),
          [tf.convert_to_tensor(slot) for slot in slots], gradient, scalars,
          is_excluded)
      assignments += [
          slot.assign(value) for slot, value in zip(slots, new_slots)]
      assignments.append(param.assign(new))
    with tf.control_dependencies(assignments):
      return tf.identity(scalars[0])

  def _with_decay(self, change, old, excluded):
    """Returns the change of a weight, in learning rates, with its decay."""
    if excluded or not self.weight_decay_rate:
      return change
    # The decay bypasses the moments: as a part of the gradient it would be
    # divided by the root of `v` (arXiv:1711.05101, section 2).
    return change + self.weight_decay_rate * old

  def _do_use_weight_decay(self, param_name):
    """Tells whether the variable of that name decays."""
    return bool(self.weight_decay_rate) and not self._is_excluded(param_name)

  def _is_excluded(self, param_name):
    """Tells whether a variable of that name is one of those not to decay."""
    patterns = self.exclude_from_weight_decay or ()
    return any(re.search(pattern, param_name) for pattern in patterns)

  def _get_variable_name(self, param_name):
    """Returns the name without the `:0` of a tensor's name."""
    return re.sub(r":\d+$", "", param_name)


class AdamWeightDecayOptimizer(_Optimizer):
  """Adam without bias correction and with decoupled weight decay.

  The moments of a variable are the variables `<its name>/adam_m` and
  `<its name>/adam_v`, created in the current variable scope, or shared if that
  scope has them already.
  """

  _SLOTS = ("adam_m", "adam_v")

  def __init__(self, learning_rate, weight_decay_rate=0.0, beta_1=0.9,
               beta_2=0.999, epsilon=1e-6, exclude_from_weight_decay=None,
               name="AdamWeightDecayOptimizer", gradient_scale=None):
    """Stores the settings; builds nothing.

    Args:
      learning_rate: float or float32 scalar.
      weight_decay_rate: float, share of a weight taken off in a step, as a
        multiple of the learning rate.
      beta_1: float, decay rate of the mean of the gradients.
      beta_2: float, decay rate of the mean of their squares.
      epsilon: float, added to the root of the latter.
      exclude_from_weight_decay: list of regular expressions; no decay for
        variables in whose name one of them is found.
      name: string, name of the optimizer.
      gradient_scale: float32 scalar by which every gradient is multiplied, in
        the same pass over the weights as the update; None for 1.
    """
    super(AdamWeightDecayOptimizer, self).__init__(
        learning_rate, weight_decay_rate, exclude_from_weight_decay, name,
        gradient_scale)
    self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

  def _slot_shapes(self, shape):
    return [(name, shape) for name in self._SLOTS]

  def _new_moments(self, moments, gradient):
    """Returns the running means of gradients and of their squares."""
    m, v = moments
    return [self.beta_1 * m + (1.0 - self.beta_1) * gradient,
            self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient)]

  def _update(self, old, slots, gradient, scalars, excluded):
    m, v = self._new_moments(slots, gradient)
    change = m / (tf.sqrt(v) + self.epsilon)
    change = self._with_decay(change, old, excluded)
    return old - scalars[0] * change, [m, v]


class LambOptimizer(AdamWeightDecayOptimizer):
  """LAMB, whose step in a weight matrix is a share of the matrix's norm.

  Algorithm 2 of You et al., "Large Batch Optimization for Deep Learning:
  Training BERT in 76 minutes", arXiv:1904.00962, with the identity for the
  function of the norm there: Adam with its bias correction and the decay, then
  brought to the weight's own norm. It stays as it is where one of the two norms
  is 0, and in variables excluded from the decay: biases start at zero, and
  steps in proportion to their norm would hardly leave it. (The authors' program
  makes the same exceptions.)

  The moments of a variable are `<its name>/lamb_m` and `<its name>/lamb_v`.
  """

  _SLOTS = ("lamb_m", "lamb_v")

  def __init__(self, learning_rate, weight_decay_rate=0.0, beta_1=0.9,
               beta_2=0.999, epsilon=1e-6, exclude_from_weight_decay=None,
               name="LambOptimizer", gradient_scale=None):
    """Stores the settings, which are those of `AdamWeightDecayOptimizer`."""
    super(LambOptimizer, self).__init__(
        learning_rate, weight_decay_rate, beta_1, beta_2, epsilon,
        exclude_from_weight_decay, name, gradient_scale)

  def _scalars(self, global_step):
    step = _step_number(global_step)
    # 1 - beta^step; as a difference, 0.001 would keep four digits.
    corrections = [-tf.math.expm1(step * math.log(beta))
                   for beta in (self.beta_1, self.beta_2)]
    return super(LambOptimizer, self)._scalars(global_step) + corrections

  def _update(self, old, slots, gradient, scalars, excluded):
    rate, m_correction, v_correction = scalars
    m, v = self._new_moments(slots, gradient)
    change = m / m_correction / (tf.sqrt(v / v_correction) + self.epsilon)
    change = self._with_decay(change, old, excluded)
    if not excluded:
      rate *= _norm_ratio(old, change)
    return old - rate * change, [m, v]


class AdafactorOptimizer(_Optimizer):
  """Adafactor: of a matrix, row and column means of squared gradients.

  Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory
  Cost", arXiv:1804.04235: algorithm 4 for matrices and 5 for all else, with
  the settings of algorithm 6: means that decay by 1 - step^-0.8 (section 7.2),
  clipped updates (section 6), no first moment (section 4). Two things are not
  the paper's:

  - The step is the learning rate, not multiplied by the root mean square of
    the weight (section 8). So a rate means about what it means to Adam; with
    the factor, of some 0.04 in BERT, usual ones would do nothing.
  - Weights may decay, as with `AdamWeightDecayOptimizer`.

  The state of a matrix [R, C] is the variables `<its name>/adafactor_row` [R]
  and `<its name>/adafactor_column` [C], of another variable
  `<its name>/adafactor_v`, of its shape.
  """

  def __init__(self, learning_rate, weight_decay_rate=0.0, decay_exponent=0.8,
               clipping_threshold=1.0, epsilon=1e-30,
               exclude_from_weight_decay=None, name="AdafactorOptimizer",
               gradient_scale=None):
    """Stores the settings; builds nothing.

    Args:
      learning_rate: float or float32 scalar.
      weight_decay_rate: float, share of a weight taken off in a step, as a
        multiple of the learning rate.
      decay_exponent: float; step t enters the means with weight t^-exponent.
      clipping_threshold: float, largest root mean square of a variable's
        change, in learning rates and without the decay.
      epsilon: float, added to the squares of gradients.
      exclude_from_weight_decay: list of regular expressions; no decay for
        variables in whose name one of them is found.
      name: string, name of the optimizer.
      gradient_scale: float32 scalar by which every gradient is multiplied, in
        the same pass over the weights as the update; None for 1.
    """
    super(AdafactorOptimizer, self).__init__(
        learning_rate, weight_decay_rate, exclude_from_weight_decay, name,
        gradient_scale)
    self.decay_exponent, self.epsilon = decay_exponent, epsilon
    self.clipping_threshold = clipping_threshold

  def _slot_shapes(self, shape):
    if len(shape) != 2:
      return [("adafactor_v", shape)]
    return [("adafactor_row", shape[:1]), ("adafactor_column", shape[1:])]

  def _scalars(self, global_step):
    share = tf.pow(_step_number(global_step), -self.decay_exponent)
    return super(AdafactorOptimizer, self)._scalars(global_step) + [share]

  def _update(self, old, slots, gradient, scalars, excluded):
    rate, share = scalars
    squares = tf.square(gradient) + self.epsilon
    is_matrix = len(slots) == 2
    # The paper's sums, as means: their product's scale is the same.
    entries = ([tf.reduce_mean(squares, 1), tf.reduce_mean(squares, 0)]
               if is_matrix else [squares])
    slots = [(1.0 - share) * slot + share * entry
             for slot, entry in zip(slots, entries)]
    if is_matrix:
      row, column = slots
      # One after the other: a product of small means would be 0 in float32.
      change = (gradient * tf.rsqrt(row / tf.reduce_mean(row))[:, tf.newaxis]
                * tf.rsqrt(column))
    else:
      change = gradient * tf.rsqrt(slots[0])
    change /= tf.maximum(
        1.0, _root_mean_square(change) / self.clipping_threshold)
    return old - rate * self._with_decay(change, old, excluded), slots


def _step_number(global_step):
  """Returns the number of the step to do, from 1, as a float32 scalar.

  Steps that are skipped because their gradients overflow count, too.
  """
  if global_step is None:
    global_step = tf.train.get_or_create_global_step()
  return tf.cast(global_step, tf.float32) + 1.0


def _norm_ratio(weight, change):
  """Returns the first's norm divided by the second's; 1 if either is 0."""
  norm, change_norm = _root_mean_square(weight), _root_mean_square(change)
  is_defined = tf.logical_and(norm > 0.0, change_norm > 0.0)
  return tf.where(is_defined, norm / change_norm, 1.0)


def _root_mean_square(x):
  return tf.sqrt(tf.reduce_mean(tf.square(x)))


def _zeros(shape, dtype=None, partition_info=None):
  """Initializer with zeros, made anew for each variable.

  TensorFlow computes constant ones, as of `tf.zeros_initializer`, beforehand.
  It then keeps them as long as the session, beside the variables: another
  eight bytes a weight.
  """
  del partition_info  # Part of the interface.
  return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def _to_dense(gradient, param):
  """Returns the gradient as a tensor; rows of the same index are added up."""
  if not isinstance(gradient, tf.IndexedSlices):
    return gradient
  return tf.math.unsorted_segment_sum(
      gradient.values, gradient.indices, param.shape[0])


def _is_resource(variable):
  return hasattr(variable, "handle")
