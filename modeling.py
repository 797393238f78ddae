"""The BERT model: token ids to hidden states, and checkpoints to variables.

  config = modeling.BertConfig.from_json_file("bert_config.json")
  model = modeling.BertModel(config, is_training=False, input_ids=input_ids,
                             input_mask=input_mask)
  vectors = model.get_sequence_output()

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding" (arXiv:1810.04805), whose encoder is that of Vaswani et
al., "Attention Is All You Need" (arXiv:1706.03762), section 3. Variable names,
shapes and numbers match google-research/bert, so its checkpoints load here.

Letters in shapes:
  B  batch size (sequences)
  T  sequence length (tokens); F and T where queries and keys differ
  D  hidden size
  N  number of attention heads
  H  size of one head
  V  vocabulary size
  M  rows of a token matrix: B * T, or the number of real tokens
  P, R  positions chosen in each sequence, and the tokens computed of them all
  B', S  sequences that attention takes together, and the length they are cut to
"""

import collections
import copy
import functools
import json
import math
import re

import tensorflow.compat.v1 as tf

import compiled_functions
import fused_ops
import onednn_ops

LAYER_NORM_EPSILON = 1e-12

# Hidden size from which on training uses `fused_ops`: what compiling takes is
# then made good within some tens of steps.
MIN_FUSED_WIDTH = 256


# Configuration.


class BertConfig:
  """Hyperparameters of a model, as in its bert_config.json.

  Args:
    vocab_size: int, number of WordPiece tokens.
    hidden_size: int, D.
    num_hidden_layers: int, Transformer layers.
    num_attention_heads: int, N; must divide `hidden_size`.
    intermediate_size: int, width of the feed-forward layer.
    hidden_act: str, that layer's activation (see `get_activation`).
    hidden_dropout_prob: float, dropout of embeddings and layer outputs.
    attention_probs_dropout_prob: float, dropout of attention probabilities.
    max_position_embeddings: int, longest sequence the model can take.
    type_vocab_size: int, number of segment (token type) ids.
    initializer_range: float, standard deviation of the initial weights.
  """

  def __init__(self, vocab_size, hidden_size=768, num_hidden_layers=12,
               num_attention_heads=12, intermediate_size=3072,
               hidden_act="gelu", hidden_dropout_prob=0.1,
               attention_probs_dropout_prob=0.1, max_position_embeddings=512,
               type_vocab_size=16, initializer_range=0.02):
    given = dict(locals())
    del given["self"]
    # Attributes carry the names of the JSON keys.
    self.__dict__.update(given)

  @classmethod
  def from_dict(cls, json_object):
    """A config out of a dict; keys it does not know stay as attributes.

    Raises:
      ValueError: `vocab_size` is missing, or a size is not a positive integer.
    """
    values = dict(json_object)
    if values.get("vocab_size") is None:
      raise ValueError(
          "The model config has no `vocab_size`. Its keys are: %s."
          % (", ".join(sorted(values)) or "none"))
    config = cls(values["vocab_size"])
    config.__dict__.update(values)
    for key in ("vocab_size", "hidden_size", "num_hidden_layers",
                "num_attention_heads", "intermediate_size",
                "max_position_embeddings", "type_vocab_size"):
      value = getattr(config, key)
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            "The model config's `%s` must be a positive integer, not %r."
            % (key, value))
    return config

  @classmethod
  def from_json_file(cls, json_file):
    """A config out of a JSON file.

    Raises:
      ValueError: the file is missing, is not JSON, or `from_dict` objects.
    """
    if not tf.gfile.Exists(json_file):
      raise ValueError("No such model config file: %s" % json_file)
    with tf.gfile.GFile(json_file, "r") as reader:
      text = reader.read()
    try:
      return cls.from_dict(json.loads(text))
    except ValueError as error:
      raise ValueError("%s: %s" % (json_file, error)) from None

  def to_dict(self):
    """A deep copy of all attributes."""
    return copy.deepcopy(self.__dict__)

  def to_json_string(self):
    """The attributes as indented JSON, sorted by key."""
    return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


# The model.


class BertModel:
  """Embeddings, Transformer encoder and pooler.

  For example, with ids already made by `tokenization.FullTokenizer`:

    input_ids = tf.constant([[31, 51, 99], [15, 5, 0]])
    input_mask = tf.constant([[1, 1, 1], [1, 1, 0]])
    config = modeling.BertConfig(vocab_size=32000, hidden_size=512,
                                 num_hidden_layers=8, num_attention_heads=8,
                                 intermediate_size=1024)
    model = modeling.BertModel(config, is_training=True, input_ids=input_ids,
                               input_mask=input_mask)
    logits = tf.matmul(model.get_pooled_output(), output_weights)

  Args:
    config: BertConfig; it is not modified.
    is_training: bool, whether dropout is applied.
    input_ids: int [B, T].
    input_mask: int [B, T], 1 at real tokens and 0 at padding; None means all
      real.
    token_type_ids: int [B, T], segment ids; None means all 0.
    use_one_hot_embeddings: bool, look words up by a product with one-hot
      vectors (faster on TPUs) instead of a gather.
    scope: str, variable scope; "bert" when None.
    real_tokens_only: bool, compute nothing at positions where `input_mask` is
      0; outputs there are zeros instead of values that depend on the padding.
      Results at real positions are the same to float32 rounding. The number of
      rows computed varies with the batch, so this is not for TPUs.
    compute_dtype: tf.float32, tf.bfloat16 or tf.float16, type of the encoder's
      activations and products. Variables, LayerNorm's statistics, softmax,
      the pooler and all outputs are float32.
    gradient_checkpointing: int N, keep the input of every Nth layer and of the
      last only, and compute the layers again for the gradients: less memory,
      more time. 0: keep everything.
    inference_kernels: bool, use those of `onednn_ops.py` where they are
      available: faster prediction on CPUs, in graphs that are neither
      exported nor differentiated. Local variables must be initialised, too.

  Raises:
    ValueError: the heads do not divide the hidden size, the activation is
      unknown, or a tensor is not of rank 2.
  """

  def __init__(self, config, is_training, input_ids, input_mask=None,
               token_type_ids=None, use_one_hot_embeddings=False, scope=None,
               real_tokens_only=False, compute_dtype=tf.float32,
               inference_kernels=False, gradient_checkpointing=0):
    settings = _EncoderSettings(
        config.hidden_size, config.num_hidden_layers,
        config.num_attention_heads, config.intermediate_size,
        get_activation(config.hidden_act),
        config.hidden_dropout_prob if is_training else 0.0,
        config.attention_probs_dropout_prob if is_training else 0.0,
        config.initializer_range,
        gradient_checkpointing if is_training else 0)
    shape = get_shape_list(input_ids, expected_rank=2)  # [B, T]
    input_mask = tf.ones(shape, tf.int32) if input_mask is None else input_mask
    if token_type_ids is None:
      token_type_ids = tf.zeros(shape, tf.int32)
    is_fused = (is_training and config.hidden_size >= MIN_FUSED_WIDTH and
                compiled_functions.are_available())
    uses_onednn = (inference_kernels and not is_training and
                   compute_dtype in onednn_ops.DTYPES and
                   onednn_ops.are_available())
    if real_tokens_only:
      layout = _RealTokens(input_mask, is_fused, uses_onednn)
    else:
      layout = _PaddedTokens(
          input_mask, is_fused and shape == input_ids.shape.as_list(),
          uses_onednn)

    # Only of these does TensorFlow know, in `_compute_again`, which are read.
    use_resource = True if settings.layers_per_checkpoint else None
    with tf.variable_scope(
        scope, default_name="bert", use_resource=use_resource):
      with tf.variable_scope("embeddings"):
        embeddings, self.embedding_table = _embed(
            layout, config, input_ids, token_type_ids, use_one_hot_embeddings,
            settings.hidden_dropout, compute_dtype)
      with tf.variable_scope("encoder"):
        layers = _encode(embeddings, layout, settings)
        self._last_layer = _LastLayer(
            layers, layout, settings, tf.get_variable_scope())
        first_tokens = self._last_layer.first_tokens()
      # The pooler reads the first token of each sequence, [CLS].
      with tf.variable_scope("pooler"):
        self.pooled_output = dense(
            tf.cast(first_tokens, tf.float32), config.hidden_size,
            config.initializer_range, activation=tf.tanh)  # [B, D]
    self.embedding_output = layout.to_sequences(embeddings)
    self.all_encoder_layers = [
        layout.to_sequences(layer) for layer in layers[1:]]
    self.sequence_output = self.all_encoder_layers[-1]

  def get_pooled_output(self):
    """float [B, D]: tanh of a dense layer over each first token."""
    return self.pooled_output

  def get_sequence_output(self):
    """float [B, T, D]: the last layer."""
    return self.sequence_output

  def get_sequence_output_at(self, positions, is_needed=None):
    """The last layer at some positions of each sequence.

    With `real_tokens_only` it is computed for these alone, which saves most of
    that layer if `get_sequence_output` is not asked for, too.

    Args:
      positions: int [B, P].
      is_needed: [B, P], 0 where the result does not matter; None means 1s.

    Returns:
      float [B, P, D]; with `real_tokens_only`, zeros at padding and wherever
      the result does not matter.
    """
    if is_needed is None:
      is_needed = tf.ones_like(positions)
    return self._last_layer.at(
        tf.cast(positions, tf.int32), tf.not_equal(is_needed, 0))

  def get_all_encoder_layers(self):
    """list of float [B, T, D], from the first layer to the last."""
    return self.all_encoder_layers

  def get_embedding_output(self):
    """float [B, T, D]: the sum of the embeddings, normalised."""
    return self.embedding_output

  def get_embedding_table(self):
    """float [V, D]: the word embedding variable, to tie an output layer to."""
    return self.embedding_table


_EncoderSettings = collections.namedtuple("_EncoderSettings", [
    "hidden_size", "num_layers", "num_heads", "intermediate_size",
    "activation", "hidden_dropout", "attention_dropout", "initializer_range",
    "layers_per_checkpoint"])


# Sequences of a batch that attention takes together, cut to one length S.
_SequenceGroup = collections.namedtuple("_SequenceGroup", [
    "key_mask",  # int [B', S], 1 at real tokens.
    "query_mask",  # int [B', S or P], 1 where a result is needed.
    "attention_mask"])  # [B', 1 or S, S], 1 where a query sees a key.


class _PaddedTokens:
  """Token matrices with a row for every position of a [B, T] batch.

  Args:
    input_mask: int [B, T].
    is_fused: bool, whether to use `fused_ops`.
    uses_onednn: bool, whether to use `onednn_ops`.
    attention_mask: [B, 1 or T, T], which keys a query sees; None means all
      queries those of `input_mask`.
  """

  def __init__(self, input_mask, is_fused=False, uses_onednn=False,
               attention_mask=None):
    self.batch_size, self.length = get_shape_list(input_mask, expected_rank=2)
    self.is_fused, self.uses_onednn = is_fused, uses_onednn
    if attention_mask is None:
      attention_mask = tf.expand_dims(input_mask, 1)  # [B, 1, T]
    # Padding attends to real tokens, too: that result can be asked for.
    self.groups = [_SequenceGroup(
        input_mask, tf.ones_like(input_mask), attention_mask)]

  def select(self, ids):
    """int [B, T] -> [M]."""
    return tf.reshape(ids, [-1])  # [B * T]

  def to_sequences(self, matrix):
    """[M, D] -> float32 [B, T, D]."""
    return tf.cast(self._unflatten(matrix), tf.float32)

  def _unflatten(self, matrix):
    depth = matrix.shape.as_list()[-1]
    return tf.reshape(
        matrix, [self.batch_size, self.length, depth])  # [B, T, D]

  def prepare_heads(self, num_heads):
    """Builds what the next two need in every layer: here, nothing."""

  def split_heads(self, matrix, num_heads):
    """[M, N * H] -> list of one [B, N, T, H]."""
    heads = tf.reshape(
        matrix, [self.batch_size, self.length, num_heads,
                 matrix.shape.as_list()[-1] // num_heads])  # [B, T, N, H]
    return [tf.transpose(heads, [0, 2, 1, 3])]

  def merge_heads(self, groups):
    """List of one [B, N, T, H] -> [M, N * H]."""
    heads, = groups
    _, num_heads, _, size = heads.shape.as_list()
    return tf.reshape(
        tf.transpose(heads, [0, 2, 1, 3]), [-1, num_heads * size])  # [M, N * H]

  def first_tokens(self, matrix):
    """[M, D] -> [B, D]."""
    return tf.squeeze(self._unflatten(matrix)[:, 0:1, :], axis=1)

  def position_embeddings(self, table):
    """[positions, D] -> [M, D], a row for each token."""
    rows = tf.slice(table, [0, 0], [self.length, -1])  # [T, D]
    return tf.tile(rows, [self.batch_size, 1])  # [B * T, D]


class _RealTokens:
  """Token matrices with a row for each real token of a [B, T] batch.

  Attention needs the sequences back: those are cut after the last real token
  of the longest of their group. On a CPU, with `fused_ops`, the batch is taken
  in several groups of similar length. In a random batch the longest sequence is
  nearly twice as long as the mean one, and attention's work grows with its
  square.

  Args:
    input_mask: int [B, T].
    is_fused: bool, whether to use `fused_ops`. Then the number of rows and the
      lengths cut to take few values: some rows of padding are computed, too.
    uses_onednn: bool, whether to use `onednn_ops`.
    members: list of int [B'], the sequences of each group; None to make groups.
  """

  def __init__(self, input_mask, is_fused=False, uses_onednn=False,
               members=None):
    self.batch_size, self.length = get_shape_list(input_mask, expected_rank=2)
    self.is_fused, self.uses_onednn = is_fused, uses_onednn
    is_real = tf.greater(input_mask, 0)
    lengths = 1 + tf.reduce_max(
        tf.where(is_real, tf.zeros_like(input_mask) + tf.range(self.length),
                 tf.zeros_like(input_mask)), axis=1)  # [B]
    if members is None:
      # Longer sequences come in later groups.
      members = [tf.range(self.batch_size)]
      num_groups = _number_of_groups(self.batch_size, self.length)
      if is_fused and num_groups > 1:
        members = _split_evenly(tf.argsort(lengths), num_groups)
    cut, offsets = self._cut_groups(members, lengths)
    # A matrix without any row would leave nothing to point to.
    has_row = tf.logical_or(is_real, tf.logical_and(
        tf.logical_not(tf.reduce_any(is_real)),
        tf.equal(tf.range(self.length), 0)))
    if is_fused:
      has_row = _add_rows(has_row, tf.sequence_mask(cut, self.length))
    where = tf.cast(tf.where(has_row), tf.int32)  # [M, 2]
    sequences, self.positions = tf.unstack(where, axis=1)
    # Each row's place among B * T positions.
    self.flat_indices = sequences * self.length + self.positions
    # The same two for each row instead of each sequence.
    self._cut, self._offsets = [
        tf.gather(values, sequences) for values in (cut, offsets)]  # [M]
    # Each position's row; any row for a position that has none.
    row_numbers = tf.cumsum(tf.reshape(
        tf.cast(has_row, tf.int32), [-1]), exclusive=True)  # [B * T]
    row_numbers = tf.reshape(
        tf.minimum(row_numbers, tf.shape(where)[0] - 1),
        [self.batch_size, self.length])  # [B, T]
    self._row_numbers, self._members = row_numbers, members
    self.groups, self._rows = [], []
    for group, longest in zip(members, self.longest):
      mask = tf.gather(input_mask, group)[:, :longest]  # [B', S]
      self.groups.append(_SequenceGroup(mask, mask, tf.expand_dims(mask, 1)))
      self._rows.append(tf.gather(row_numbers, group)[:, :longest])
    self._is_real = tf.cast(is_real, tf.float32)
    self._head_indices = {}

  def choose(self, positions, is_needed):
    """A layout of some of the tokens, in the same groups.

    Args:
      positions: int [B, P].
      is_needed: bool [B, P], which of these to have a row for.

    Returns:
      (_RealTokens, int [R]): its rows, of the B * P, and where each of them is
      among the rows of this layout.
    """
    places = (positions +
              tf.expand_dims(tf.range(self.batch_size) * self.length, 1))
    is_real = tf.gather(tf.reshape(self._is_real, [-1]), places)  # [B, P]
    chosen = _RealTokens(
        tf.cast(tf.logical_and(is_needed, is_real > 0.0), tf.int32),
        self.is_fused, self.uses_onednn, self._members)
    row_numbers = tf.reshape(self._row_numbers, [-1])  # [B * T]
    return chosen, tf.gather(row_numbers, chosen.select(places))

  def _cut_groups(self, members, lengths):
    """Sets the groups' common lengths, and how the batch is ordered in them.

    Args:
      members: list of int [B'], the sequences of each group.
      lengths: int [B], of the sequences.

    Returns:
      (cut, offsets), both int [B]: how many positions of each sequence there
      are in its group, and how many come before it in all the groups.
    """
    self.longest = [
        tf.reduce_max(tf.gather(lengths, group)) for group in members]
    if self.is_fused:
      self.longest = [tf.minimum(_rounded_length(longest), self.length)
                      for longest in self.longest]
    # Each sequence's place among the groups'.
    self._rank = tf.math.invert_permutation(tf.concat(members, 0))  # [B]
    cut = tf.concat([tf.fill(tf.shape(group), longest) for group, longest
                     in zip(members, self.longest)], 0)
    return [tf.gather(values, self._rank)
            for values in (cut, tf.cumsum(cut, exclusive=True))]

  def select(self, ids):
    """int [B, T] -> [M]."""
    return tf.gather(tf.reshape(ids, [-1]), self.flat_indices)

  def to_sequences(self, matrix):
    """[M, D] -> float32 [B, T, D], with zeros at padding."""
    depth = matrix.shape.as_list()[-1]
    is_real = tf.expand_dims(self.select(self._is_real), 1)  # [M, 1]
    rows = _put_rows(tf.cast(matrix, tf.float32) * is_real,
                     self.flat_indices, self.batch_size * self.length)
    return tf.reshape(
        rows, [self.batch_size, self.length, depth])  # [B, T, D]

  def prepare_heads(self, num_heads):
    """Builds what the next two need in every layer."""
    self._indices(num_heads)

  def split_heads(self, matrix, num_heads):
    """[M, N * H] -> list of [B', N, S, H]; padding is not to be used."""
    size = matrix.shape.as_list()[-1] // num_heads
    heads = tf.reshape(matrix, [-1, size])  # [M * N, H]
    return _take_groups(heads, *self._indices(num_heads))

  def merge_heads(self, groups):
    """List of [B', N, S, H] -> [M, N * H]."""
    _, num_heads, _, size = groups[0].shape.as_list()
    masks = [None] * len(groups)
    if not self.is_fused:  # Else the probabilities of padding are zeros.
      masks = [tf.cast(group.key_mask, groups[0].dtype)
               [:, tf.newaxis, :, tf.newaxis] for group in self.groups]
    matrix = _merge_groups(groups, *self._indices(num_heads), masks)
    return tf.reshape(matrix, [-1, num_heads * size])  # [M, N * H]

  def _indices(self, num_heads):
    """Where in [M * N] each group's [B', N, S] is, and the reverse [M, N].

    The reverse counts positions through all groups.
    """
    if num_heads not in self._head_indices:
      head = tf.range(num_heads)
      to_groups = [rows[:, tf.newaxis, :] * num_heads + head[:, tf.newaxis]
                   for rows in self._rows]  # [B', N, S]
      to_rows = ((self._offsets * num_heads + self.positions)[:, tf.newaxis]
                 + head * self._cut[:, tf.newaxis])  # [M, N]
      self._head_indices[num_heads] = to_groups, to_rows
    return self._head_indices[num_heads]

  def first_tokens(self, matrix):
    """[M, D] -> [B, D], in the order of the groups.

    Any row for a sequence that starts with padding.
    """
    return _take_rows(
        matrix, tf.concat([rows[:, 0] for rows in self._rows], 0))

  def restore_first_tokens(self, first):
    """[B, D] in the batch's order, zeros if a sequence starts with padding."""
    first = _take_rows(first, self._rank)
    return first * tf.cast(self._is_real[:, :1], first.dtype)

  def position_embeddings(self, table):
    """[positions, D] -> [M, D], a row for each token."""
    return _lookup_rows(table, self.positions)


# How many attention scores a group of sequences has in each head if all are of
# full length. Larger groups do more work for padding, smaller ones are many
# operations that take little longer to do than to start.
_GROUP_SCORES = 8 * 128 * 128
# Each adds some 60 operations to every layer of a graph for training.
_MAX_GROUPS = 8


def _number_of_groups(batch_size, length):
  """Groups to compute attention in; 1 where the sizes are unknown.

  And on a GPU, which would have to start so many more kernels.
  """
  if (compiled_functions.has_gpu() or
      not (isinstance(batch_size, int) and isinstance(length, int))):
    return 1
  members = max(1, _GROUP_SCORES // length ** 2)
  return min(-(-batch_size // members), _MAX_GROUPS)


def _split_evenly(vector, num_parts):
  """[B] -> list of `num_parts` vectors, whose sizes differ by 1 at most."""
  size, = vector.shape.as_list()
  bounds = [size * part // num_parts for part in range(num_parts + 1)]
  return [vector[start:stop] for start, stop in zip(bounds, bounds[1:])]


# With `fused_ops`, attention's length on a CPU is a multiple of this.
_LENGTH_UNIT = 16


def _rounded_length(length):
  """An int scalar, rounded up to one of few values."""
  if compiled_functions.has_gpu():
    return _round_up(length, _power_of_two_below(length, 2))
  return _round_up(length, _LENGTH_UNIT)


def _round_up(number, unit):
  return -(-number // unit) * unit


def _power_of_two_below(number, share):
  """The largest that is at most number / share, or 1; int scalar tensors."""
  quotient = tf.maximum(tf.cast(number, tf.float32) / share, 1.0)
  return tf.bitwise.left_shift(
      1, tf.cast(tf.math.log(quotient) / math.log(2.0), tf.int32))


def _add_rows(has_row, is_allowed):
  """Adds padding to the rows computed, for their number to take few values.

  That is a multiple of a power of two which is at most a sixteenth of it, so
  less than a sixteenth more than before (or all allowed ones, if fewer). A
  quarter on a GPU, where compiling takes longer and rows take less.

  Args:
    has_row: bool [B, T], which positions are computed already.
    is_allowed: bool [B, T], which others may be added.

  Returns:
    bool [B, T].
  """
  num_rows = tf.reduce_sum(tf.cast(has_row, tf.int32))
  unit = _power_of_two_below(
      num_rows, 4.0 if compiled_functions.has_gpu() else 16.0)
  wanted = _round_up(num_rows, unit) - num_rows
  is_spare = tf.logical_and(tf.logical_not(has_row), is_allowed)
  rank = tf.cumsum(tf.reshape(tf.cast(is_spare, tf.int32), [-1]))
  rank = tf.reshape(rank, tf.shape(has_row))  # [B, T]
  return tf.logical_or(
      has_row, tf.logical_and(is_spare, tf.less_equal(rank, wanted)))


# TensorFlow's own gradient of a gather is a sparse one, which costs a sort or
# a sum over duplicates. The indices of real tokens are unique, so gathering
# and scattering are each other's gradients.


def _put_rows(matrix, indices, num_rows):
  """[M, D] -> [num_rows, D]: row i at indices[i], zeros elsewhere."""

  @tf.custom_gradient
  def put(values):
    depth = get_shape_list(values)[-1]
    rows = tf.scatter_nd(
        tf.expand_dims(indices, -1), values, [num_rows, depth])
    return rows, lambda gradient: tf.gather(gradient, indices)

  return put(matrix)


def _take_rows(matrix, indices):
  """[R, D] -> [M, D]: rows at `indices`, none of them twice with a gradient."""

  @tf.custom_gradient
  def take(values):
    shape = tf.shape(values)
    rows = tf.gather(values, indices)
    return rows, lambda gradient: tf.scatter_nd(
        tf.expand_dims(indices, -1), gradient, shape)

  return take(matrix)


def _take_groups(matrix, indices, inverse):
  """Gathers rows for each group; the gradient is a gather, too.

  Args:
    matrix: float [R, H].
    indices: list of int [...], the rows to take for each group.
    inverse: int [...], R numbers: where each row is among all the groups'. A
      row that is taken twice must have a gradient of zero at the other place.

  Returns:
    list of float [..., H].
  """

  @tf.custom_gradient
  def take(values):

    def gradients(*by_groups):
      rows = tf.gather(_concat_rows(by_groups), inverse)
      return tf.reshape(rows, tf.shape(values))  # [R, H]

    return [tf.gather(values, group) for group in indices], gradients

  return take(matrix)


def _merge_groups(groups, indices, inverse, gradient_masks):
  """Undoes `_take_groups`.

  Args:
    groups: list of float [..., H].
    indices: as in `_take_groups`.
    inverse: likewise.
    gradient_masks: for each group None, or what to multiply its gradient by.

  Returns:
    float [..., H], of the inverse's shape.
  """

  @tf.custom_gradient
  def merge(*values):

    def gradients(gradient):
      rows = _concat_rows([gradient])
      by_groups = [tf.gather(rows, group) for group in indices]
      return [by_group if mask is None else by_group * mask
              for by_group, mask in zip(by_groups, gradient_masks)]

    return tf.gather(_concat_rows(values), inverse), gradients

  return merge(*groups)


def _concat_rows(tensors):
  """[..., H], each of another shape -> [R, H]."""
  size = tensors[0].shape.as_list()[-1]
  matrices = [tf.reshape(tensor, [-1, size]) for tensor in tensors]  # [R', H]
  return matrices[0] if len(matrices) == 1 else tf.concat(matrices, 0)


def _lookup_rows(table, ids):
  """[positions, D] -> [M, D]: a gather whose gradient is dense.

  Gradient clipping sees the same norm then as with a slice of the table.
  """

  @tf.custom_gradient
  def lookup(values):
    num_rows = get_shape_list(values)[0]
    rows = tf.gather(values, ids)
    return rows, lambda gradient: tf.math.unsorted_segment_sum(
        gradient, ids, num_rows)

  return lookup(tf.convert_to_tensor(table))


def _embed(layout, config, input_ids, token_type_ids, use_one_hot_embeddings,
           dropout_prob, compute_dtype):
  """Token matrix [M, D] of summed embeddings and the word table [V, D]."""
  words, table = embedding_lookup(
      tf.expand_dims(layout.select(input_ids), 0),
      vocab_size=config.vocab_size,
      embedding_size=config.hidden_size,
      initializer_range=config.initializer_range,
      use_one_hot_embeddings=use_one_hot_embeddings)
  words = tf.reshape(words, [-1, config.hidden_size])  # [M, D]
  summed = words + _token_type_embeddings(
      layout.select(token_type_ids), config.type_vocab_size,
      config.hidden_size, "token_type_embeddings", config.initializer_range)
  positions = _position_table(
      config.max_position_embeddings, config.hidden_size,
      "position_embeddings", config.initializer_range)
  with tf.control_dependencies(
      _check_positions(layout.length, config.max_position_embeddings)):
    summed += layout.position_embeddings(positions)
  if layout.is_fused:
    with tf.variable_scope("LayerNorm"):
      gamma, beta = _norm_variables(config.hidden_size)
    output = fused_ops.norm_dropout(
        summed, gamma, beta, dropout_prob, LAYER_NORM_EPSILON)
  else:
    output = dropout(_layer_norm(summed, layout), dropout_prob)
  return tf.cast(output, compute_dtype), table


# Checkpoints.


def resolve_checkpoint_path(path):
  """The prefix of a checkpoint, from any of the names people give it.

  Args:
    path: str, a prefix ("…/bert_model.ckpt"), one of its files
      ("….index", "….data-00000-of-00001", "….meta") or a directory, whose
      newest checkpoint is taken.

  Returns:
    str, the prefix.

  Raises:
    ValueError: there is no checkpoint; the message says what was found.
  """
  if tf.gfile.IsDirectory(path):
    prefix = _checkpoint_in_directory(path)
  else:
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
  try:
    # An index, or in TensorFlow's first format the data alone; the prefix may
    # be a pattern then, for several files.
    if tf.gfile.Exists(prefix + ".index") or tf.gfile.Glob(prefix):
      return prefix
    similar = tf.gfile.Glob(prefix + "*")
  except tf.errors.NotFoundError:  # TensorFlow 1, if there is no such folder.
    similar = []
  raise ValueError(
      "There is no checkpoint at %s: expected %s.index and %s.data-*, found %s."
      % (path, prefix, prefix, ", ".join(similar) or "neither"))


def _checkpoint_in_directory(path):
  newest = tf.train.latest_checkpoint(path)
  if newest:
    return newest
  prefixes = [name[:-len(".index")]
              for name in tf.gfile.Glob(path.rstrip("/") + "/*.index")]
  if len(prefixes) == 1:
    return prefixes[0]
  raise ValueError(
      "The directory %s has no `checkpoint` file that names its newest "
      "checkpoint, and holds %s. Give the checkpoint's own path."
      % (path, ", ".join(sorted(prefixes)) or "no checkpoint"))


def get_assignment_map_from_checkpoint(tvars, init_checkpoint):
  """Which of a checkpoint's variables go to which of the graph's.

  Matches google-research/bert.

  Args:
    tvars: list of variables.
    init_checkpoint: str (see `resolve_checkpoint_path`).

  Returns:
    (assignment_map, initialized_variable_names): an OrderedDict from names in
    the checkpoint to names in the graph, as `tf.train.init_from_checkpoint`
    takes it, and a dict with the matched names, without and with ":0".
  """
  in_graph = {_variable_name(variable) for variable in tvars}
  reader = tf.train.load_checkpoint(resolve_checkpoint_path(init_checkpoint))
  assignment_map = collections.OrderedDict(
      (name, name) for name in sorted(reader.get_variable_to_shape_map())
      if name in in_graph)
  initialized_variable_names = {}
  for name in assignment_map:
    initialized_variable_names[name] = 1
    initialized_variable_names[name + ":0"] = 1
  return assignment_map, initialized_variable_names


CheckpointCoverage = collections.namedtuple(
    "CheckpointCoverage", ["matched", "missing", "unused", "mismatched"])


def compare_with_checkpoint(tvars, init_checkpoint):
  """What a checkpoint would and would not initialise.

  Args:
    tvars: list of variables.
    init_checkpoint: str (see `resolve_checkpoint_path`).

  Returns:
    CheckpointCoverage of sorted lists: names `matched` with equal shapes;
    names `missing` in the checkpoint; names `unused`, in the checkpoint only,
    optimizer slots and the step left out; `mismatched` tuples (name, shape in
    the graph, shape in the checkpoint).
  """
  reader = tf.train.load_checkpoint(resolve_checkpoint_path(init_checkpoint))
  stored = reader.get_variable_to_shape_map()
  shapes = {_variable_name(v): v.shape.as_list() for v in tvars}
  common = sorted(set(shapes) & set(stored))
  slots = find_slots(stored)
  unused = [name for name in sorted(set(stored) - set(shapes))
            if name != "global_step" and name not in slots]
  return CheckpointCoverage(
      matched=[name for name in common if shapes[name] == stored[name]],
      missing=sorted(set(shapes) - set(stored)),
      unused=unused,
      mismatched=[(name, shapes[name], stored[name]) for name in common
                  if shapes[name] != stored[name]])


def find_slots(names):
  """Which of a checkpoint's variables are what an optimizer keeps on others.

  Such a slot is named like a variable of the model, with a part added, for
  example `output_bias/adam_m`.

  Args:
    names: iterable of str, all variables of a checkpoint or graph.

  Returns:
    dict of each slot's name to that of its variable.
  """
  names = set(names)
  owners = {}
  for name in names:
    for slash in re.finditer("/", name):
      if name[:slash.start()] in names:
        owners[name] = name[:slash.start()]
  return owners


def lower_scopes(num_layers, scope="bert"):
  """What the names of the variables in a model's lower part start with.

  Args:
    num_layers: int; 0 is the embeddings alone, N the first N layers, too, and
      -1 nothing.
    scope: str, variable scope of the model.

  Returns:
    list of str.
  """
  parts = ["embeddings"] + ["encoder/layer_%d" % index
                            for index in range(num_layers)]
  return ["%s/%s/" % (scope, part) for part in parts[:num_layers + 1]]


def find_used_variables(outputs, variables):
  """Those of the variables that an output tensor depends on, in a list.

  That counts what a local variable on the way gets its value from.
  """
  initializers = {variable.op.name: variable.initializer
                  for variable in tf.local_variables()}
  pending, seen = [tensor.op for tensor in outputs], set()
  while pending:
    op = pending.pop()
    if op.name not in seen:
      seen.add(op.name)
      pending.extend(tensor.op for tensor in op.inputs)
      pending.extend(op.control_inputs)
      if op.name in initializers:
        pending.append(initializers[op.name])
  return [variable for variable in variables if variable.op.name in seen]


def _variable_name(variable):
  return re.sub(r":\d+$", "", variable.name)


# Building blocks.


def gelu(x):
  """Gaussian Error Linear Unit, in its tanh approximation.

  Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)",
  arXiv:1606.08415, section 2. Matches google-research/bert.
  """
  inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
  return 0.5 * x * (1.0 + tf.tanh(inner))


def gelu_exact(x):
  """GELU by the error function, x times the normal distribution at x.

  What Hugging Face calls "gelu": right for checkpoints trained there.
  """
  return 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


# Those that `onednn_ops` applies together with a product.
_ONEDNN_ACTIVATIONS = {gelu: "gelu", gelu_exact: "gelu_exact",
                         tf.nn.relu: "relu", tf.tanh: "tanh"}


def get_activation(activation_string):
  """The function behind an activation's name in a config.

  Args:
    activation_string: "gelu", "gelu_exact", "relu", "tanh", "linear" (case
      does not matter); None or "" mean linear. Anything that is not a str is
      returned as it is.

  Returns:
    function of a tensor, or None for linear.

  Raises:
    ValueError: the name is unknown.
  """
  if not isinstance(activation_string, str):
    return activation_string
  functions = {"": None, "linear": None, "relu": tf.nn.relu, "gelu": gelu,
               "gelu_exact": gelu_exact, "tanh": tf.tanh}
  name = activation_string.lower()
  if name not in functions:
    raise ValueError(
        "Unsupported activation `%s`; there are %s." % (
            activation_string, ", ".join(sorted(filter(None, functions)))))
  return functions[name]


def dropout(input_tensor, dropout_prob):
  """Zeroes elements with probability `dropout_prob`, scaling up the others.

  Args:
    input_tensor: float tensor.
    dropout_prob: float, probability of dropping (not of keeping); None or 0
      return the tensor itself.
  """
  if not dropout_prob:
    return input_tensor
  shape = tf.shape(input_tensor)
  if fused_ops.are_seeds_kept():
    numbers = tf.random.stateless_uniform(
        shape, tf.bitcast(fused_ops.draw_seed(dropout_prob), tf.int32))
  elif input_tensor.dtype == tf.float32:
    return tf.nn.dropout(input_tensor, rate=dropout_prob)
  else:
    # Random numbers of 8 bits would miss the probability by a hundredth.
    numbers = tf.random.uniform(shape)
  kept = numbers >= dropout_prob
  return input_tensor * tf.cast(kept, input_tensor.dtype) * (
      1.0 / (1.0 - dropout_prob))


def layer_norm(input_tensor, name=None):
  """Layer normalisation over the last axis, with learnt scale and offset.

  Ba et al., arXiv:1607.06450, section 3. Variables `beta` and `gamma` [D],
  created in this order under `name` (default "LayerNorm").

  Args:
    input_tensor: float [..., D].
    name: str, variable scope.

  Returns:
    float [..., D].
  """
  with tf.variable_scope(name, default_name="LayerNorm"):
    gamma, beta = _norm_variables(input_tensor.shape.as_list()[-1])
    inputs = tf.cast(input_tensor, tf.float32)
    mean, variance = tf.nn.moments(inputs, axes=[-1], keepdims=True)
    output = tf.nn.batch_normalization(
        inputs, mean, variance, beta, gamma, LAYER_NORM_EPSILON)
    return tf.cast(output, input_tensor.dtype)


def _norm_variables(depth):
  """LayerNorm's gamma and beta, each [depth]."""
  beta = tf.get_variable("beta", [depth], initializer=tf.zeros_initializer())
  gamma = tf.get_variable("gamma", [depth], initializer=tf.ones_initializer())
  return gamma, beta


def layer_norm_and_dropout(input_tensor, dropout_prob, name=None):
  """`layer_norm`, then `dropout`."""
  return dropout(layer_norm(input_tensor, name), dropout_prob)


def create_initializer(initializer_range=0.02):
  """Normal distribution around 0, cut at two standard deviations."""
  return tf.truncated_normal_initializer(stddev=initializer_range)


def dense(matrix, units, initializer_range=0.02, activation=None, name="dense",
          product=fused_ops.affine):
  """activation(matrix * kernel + bias).

  Args:
    matrix: float [M, D].
    units: int, columns of the result.
    initializer_range: float, standard deviation of the initial kernel.
    activation: function or None.
    name: str, variable scope of `kernel` [D, units] and `bias` [units], which
      are float32.
    product: `fused_ops.affine`, or another function of matrix, kernel and
      bias there.

  Returns:
    float [M, units], of the matrix's type.
  """
  with tf.variable_scope(name):
    kernel, bias = _dense_variables(
        matrix.shape.as_list()[-1], units, initializer_range)
    output = product(matrix, kernel, bias)
    return activation(output) if activation else output


def _dense_variables(width, units, initializer_range):
  """A dense layer's kernel [width, units] and bias [units], both float32."""
  kernel = tf.get_variable(
      "kernel", [width, units],
      initializer=create_initializer(initializer_range))
  bias = tf.get_variable("bias", [units], initializer=tf.zeros_initializer())
  return kernel, bias


def embedding_lookup(input_ids, vocab_size, embedding_size=128,
                     initializer_range=0.02,
                     word_embedding_name="word_embeddings",
                     use_one_hot_embeddings=False):
  """Vectors of words.

  Args:
    input_ids: int [B, T] or [B, T, inputs].
    vocab_size: int, V.
    embedding_size: int, D.
    initializer_range: float, standard deviation of the initial table.
    word_embedding_name: str, the table's variable name.
    use_one_hot_embeddings: bool, multiply one-hot vectors with the table
      (better on TPUs) instead of gathering its rows.

  Returns:
    (float [B, T, D * inputs], float [V, D]): the vectors and the table.
  """
  if input_ids.shape.ndims == 2:
    input_ids = tf.expand_dims(input_ids, axis=-1)  # [B, T, 1]
  shape = get_shape_list(input_ids)
  table = tf.get_variable(
      word_embedding_name, [vocab_size, embedding_size],
      initializer=create_initializer(initializer_range))
  flat_ids = tf.reshape(input_ids, [-1])  # [B * T * inputs]
  if use_one_hot_embeddings:
    vectors = tf.matmul(tf.one_hot(flat_ids, depth=vocab_size), table)
  else:
    vectors = tf.gather(table, flat_ids)
  output = tf.reshape(
      vectors, shape[:-1] + [shape[-1] * embedding_size])  # [B, T, D * inputs]
  return output, table


def embedding_postprocessor(input_tensor, use_token_type=False,
                            token_type_ids=None, token_type_vocab_size=16,
                            token_type_embedding_name="token_type_embeddings",
                            use_position_embeddings=True,
                            position_embedding_name="position_embeddings",
                            initializer_range=0.02, max_position_embeddings=512,
                            dropout_prob=0.1):
  """Adds segment and position embeddings; then LayerNorm and dropout.

  Args:
    input_tensor: float [B, T, D], word embeddings.
    use_token_type: bool, add an embedding of `token_type_ids`.
    token_type_ids: int [B, T]; needed if `use_token_type`.
    token_type_vocab_size: int, number of segment ids.
    token_type_embedding_name: str, variable name.
    use_position_embeddings: bool, add an embedding of the position.
    position_embedding_name: str, variable name.
    initializer_range: float, standard deviation of the initial tables.
    max_position_embeddings: int, longest T the position table allows.
    dropout_prob: float, dropout of the result.

  Returns:
    float [B, T, D].

  Raises:
    ValueError: `use_token_type` without ids, or T known to be too long.
  """
  batch_size, length, width = get_shape_list(input_tensor, expected_rank=3)
  output = input_tensor
  if use_token_type:
    if token_type_ids is None:
      raise ValueError(
          "`token_type_ids` must be given if `use_token_type` is True.")
    vectors = _token_type_embeddings(
        tf.reshape(token_type_ids, [-1]), token_type_vocab_size, width,
        token_type_embedding_name, initializer_range)
    output += tf.reshape(vectors, [batch_size, length, width])  # [B, T, D]
  if use_position_embeddings:
    table = _position_table(max_position_embeddings, width,
                            position_embedding_name, initializer_range)
    with tf.control_dependencies(
        _check_positions(length, max_position_embeddings)):
      output += tf.slice(table, [0, 0], [length, -1])  # [T, D], over the batch
  return layer_norm_and_dropout(output, dropout_prob)


def _token_type_embeddings(flat_ids, vocab_size, width, name,
                           initializer_range):
  """int [M] -> float [M, D]."""
  table = tf.get_variable(
      name, [vocab_size, width],
      initializer=create_initializer(initializer_range))
  # So few rows that a product is faster than a gather on every device.
  return tf.matmul(tf.one_hot(flat_ids, depth=vocab_size), table)


def _position_table(max_position_embeddings, width, name, initializer_range):
  return tf.get_variable(
      name, [max_position_embeddings, width],
      initializer=create_initializer(initializer_range))


def _check_positions(length, max_position_embeddings):
  """Ops that fail where `length` (int or scalar tensor) has no position."""
  if isinstance(length, int):
    if length > max_position_embeddings:
      raise ValueError(
          "A sequence of %d tokens is longer than the model's "
          "max_position_embeddings, %d." % (length, max_position_embeddings))
    return []
  return [tf.debugging.assert_less_equal(
      length, max_position_embeddings,
      message="The sequence is longer than max_position_embeddings")]


def create_attention_mask_from_input_mask(from_tensor, to_mask):
  """A mask of which positions may attend to which.

  Args:
    from_tensor: [B, F] or [B, F, ...], only its shape counts.
    to_mask: int [B, T], 1 where there is something to attend to.

  Returns:
    float [B, F, T], `to_mask` repeated for every query.
  """
  from_shape = get_shape_list(from_tensor, expected_rank=[2, 3])
  batch_size, to_length = get_shape_list(to_mask, expected_rank=2)
  mask = tf.cast(tf.expand_dims(to_mask, 1), tf.float32)  # [B, 1, T]
  return tf.broadcast_to(mask, [batch_size, from_shape[1], to_length])


def attention_layer(from_tensor, to_tensor, attention_mask=None,
                    num_attention_heads=1, size_per_head=512, query_act=None,
                    key_act=None, value_act=None,
                    attention_probs_dropout_prob=0.0, initializer_range=0.02,
                    do_return_2d_tensor=False, batch_size=None,
                    from_seq_length=None, to_seq_length=None):
  """Multi-head attention from one tensor to another (or to itself).

  Vaswani et al., arXiv:1706.03762, section 3.2. Variables `query`, `key` and
  `value`, each with `kernel` and `bias`.

  Args:
    from_tensor: float [B, F, D], or [B * F, D].
    to_tensor: float [B, T, D], or [B * T, D].
    attention_mask: [B, F, T], or [B, 1, T] if the same for every query; 0
      where a query must not look.
    num_attention_heads: int, N.
    size_per_head: int, H.
    query_act: activation of the queries, or None.
    key_act: activation of the keys, or None.
    value_act: activation of the values, or None.
    attention_probs_dropout_prob: float, dropout of the probabilities.
    initializer_range: float, standard deviation of the initial kernels.
    do_return_2d_tensor: bool, return a matrix instead of sequences.
    batch_size: int or scalar tensor, B; needed for inputs of rank 2.
    from_seq_length: likewise F.
    to_seq_length: likewise T.

  Returns:
    float [B, F, N * H], or [B * F, N * H].

  Raises:
    ValueError: ranks differ, or a size needed is not given.
  """
  from_shape, to_shape = [get_shape_list(tensor, expected_rank=[2, 3])
                          for tensor in (from_tensor, to_tensor)]
  if len(from_shape) != len(to_shape):
    raise ValueError(
        "`from_tensor` and `to_tensor` must be of one rank, not %d and %d."
        % (len(from_shape), len(to_shape)))
  if len(from_shape) == 3:
    batch_size, from_seq_length = from_shape[:2]
    to_seq_length = to_shape[1]
  elif batch_size is None or from_seq_length is None or to_seq_length is None:
    raise ValueError(
        "Matrices say nothing of sequences: `batch_size`, `from_seq_length` "
        "and `to_seq_length` must all be given.")
  width = num_attention_heads * size_per_head

  def project(tensor, activation, name, length):
    matrix = dense(reshape_to_matrix(tensor), width, initializer_range,
                   get_activation(activation), name)
    heads = tf.reshape(matrix, [batch_size, length, num_attention_heads,
                                size_per_head])  # [B, length, N, H]
    return tf.transpose(heads, [0, 2, 1, 3])

  context = _attend(
      project(from_tensor, query_act, "query", from_seq_length),
      project(to_tensor, key_act, "key", to_seq_length),
      project(to_tensor, value_act, "value", to_seq_length),
      attention_mask, attention_probs_dropout_prob)
  context = tf.transpose(context, [0, 2, 1, 3])  # [B, F, N, H]
  if do_return_2d_tensor:
    return tf.reshape(context, [-1, width])  # [B * F, N * H]
  return tf.reshape(
      context, [batch_size, from_seq_length, width])  # [B, F, N * H]


def _attend(query, key, value, attention_mask, dropout_prob):
  """Scaled dot-product attention in each head.

  Args:
    query: float [B, N, F, H].
    key: float [B, N, T, H].
    value: float [B, N, T, H].
    attention_mask: [B, F or 1, T], or None.
    dropout_prob: float, dropout of the probabilities.

  Returns:
    float [B, N, F, H].
  """
  # Scaling the queries is the same as scaling the scores, which are more.
  query *= 1.0 / math.sqrt(query.shape.as_list()[-1])
  scores = tf.matmul(query, key, transpose_b=True)  # [B, N, F, T]
  if attention_mask is not None:
    attention_mask = tf.expand_dims(attention_mask, 1)  # [B, 1, F or 1, T]
  return tf.matmul(
      _probabilities(tf.cast(scores, tf.float32), attention_mask, query.dtype,
                     dropout_prob), value)


def _probabilities(scores, mask, dtype, dropout_prob):
  """dropout(softmax(scores)).

  Args:
    scores: float32 [..., T].
    mask: number [..., T], 0 where nothing may be seen, or None; it is
      broadcast.
    dtype: type of the result.
    dropout_prob: float.

  Returns:
    float [..., T].
  """
  if mask is not None:
    scores += (1.0 - tf.cast(mask, tf.float32)) * fused_ops.MASKED_SCORE
  return dropout(tf.cast(tf.nn.softmax(scores), dtype), dropout_prob)


def transformer_model(input_tensor, attention_mask=None, hidden_size=768,
                      num_hidden_layers=12, num_attention_heads=12,
                      intermediate_size=3072, intermediate_act_fn=gelu,
                      hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
                      initializer_range=0.02, do_return_all_layers=False):
  """The encoder: a stack of identical layers.

  Vaswani et al., arXiv:1706.03762, section 3.1, with LayerNorm after each
  residual sum.

  Args:
    input_tensor: float [B, T, D].
    attention_mask: [B, T, T], or [B, 1, T]; 0 where a token must not look.
    hidden_size: int, D.
    num_hidden_layers: int.
    num_attention_heads: int, N; divides `hidden_size`.
    intermediate_size: int, width of the feed-forward layer.
    intermediate_act_fn: function, its activation.
    hidden_dropout_prob: float, dropout before each residual sum.
    attention_probs_dropout_prob: float, dropout of attention probabilities.
    initializer_range: float, standard deviation of the initial kernels.
    do_return_all_layers: bool, return every layer's output.

  Returns:
    float [B, T, D], or a list of them, first layer first.

  Raises:
    ValueError: the heads do not divide the hidden size, or the input is not
      `hidden_size` wide.
  """
  batch_size, length, _ = get_shape_list(input_tensor, expected_rank=3)
  layout = _PaddedTokens(tf.ones([batch_size, length], tf.int32),
                         attention_mask=attention_mask)
  layers = _encode(
      reshape_to_matrix(input_tensor), layout, _EncoderSettings(
          hidden_size, num_hidden_layers, num_attention_heads,
          intermediate_size, intermediate_act_fn, hidden_dropout_prob,
          attention_probs_dropout_prob, initializer_range,
          layers_per_checkpoint=0))[1:]
  if do_return_all_layers:
    return [layout.to_sequences(layer) for layer in layers]
  return layout.to_sequences(layers[-1])


def _encode(matrix, layout, settings):
  """The encoder on a token matrix [M, D]: it and each layer's, in a list."""
  if settings.hidden_size % settings.num_heads:
    raise ValueError(
        "The hidden size (%d) is not a multiple of the number of attention "
        "heads (%d)." % (settings.hidden_size, settings.num_heads))
  width = matrix.shape.as_list()[-1]
  if width != settings.hidden_size:
    raise ValueError(
        "The width of the input (%d) and the hidden size (%d) must be equal "
        "for the residual sums." % (width, settings.hidden_size))

  layers, step = [matrix], settings.layers_per_checkpoint
  if layout.is_fused and compiled_functions.has_gpu() and not step:
    encode_layer = _compiled_layer(layout, settings)
  else:
    encode_layer = functools.partial(
        _encoder_layer_of_all, layout=layout, settings=settings)

  def encode_from(start, stop, matrix):
    outputs = []
    for index in range(start, stop):
      with tf.variable_scope("layer_%d" % index):
        matrix = encode_layer(matrix)
      outputs.append(matrix)
    return outputs

  if not step:
    return layers + encode_from(0, settings.num_layers, matrix)
  # The last layer by itself: `_LastLayer` may leave it out, not a part of it.
  last = settings.num_layers - 1
  starts = [*range(0, last, step), last]
  for start, stop in zip(starts, starts[1:] + [settings.num_layers]):
    layers += _compute_again(
        functools.partial(encode_from, start, stop), layers[-1])
  return layers


def _compiled_layer(layout, settings):
  """What computes a layer as one operation, compiled in both directions.

  On a GPU, it takes longer to start the operations of a layer one by one than
  to compute them. All layers are calls of one function of their variables:
  XLA compiles it for each number of rows and length of attention, but not for
  each layer.

  Args:
    layout: _PaddedTokens or _RealTokens, with `is_fused`.
    settings: _EncoderSettings.

  Returns:
    function of a float [M, D] to the same, to be called in a layer's scope.
  """
  # Outside, where what else reads the layout can use it, too.
  layout.prepare_heads(settings.num_heads)

  @compiled_functions.compiled
  def compute(matrix, variables, seeds):
    start = len(_scope_prefix())

    def take_variable(getter, name, *args, **kwargs):
      del getter, args, kwargs  # Part of the interface.
      return variables[name[start:]]

    with tf.variable_scope(
        tf.get_variable_scope(), custom_getter=take_variable
    ), fused_ops.kept_seeds(tf.unstack(seeds), are_used_again=True):
      return _encoder_layer_of_all(matrix, layout, settings)

  def encode_layer(matrix):
    start = len(_scope_prefix())
    variables = {variable.op.name[start:]: tf.convert_to_tensor(variable)
                 for variable in _layer_variables(settings)}
    # Drawn here: what XLA draws cannot be repeated by a seed. In the order of
    # a layer: after attention's softmax, and before each residual sum.
    return compute(matrix, variables, fused_ops.draw_seeds([
        settings.attention_dropout, settings.hidden_dropout,
        settings.hidden_dropout]))

  return encode_layer


def _scope_prefix():
  """What the names of variables begin with in the current scope."""
  name = tf.get_variable_scope().name
  return name + "/" if name else ""


def _layer_variables(settings):
  """Creates `_encoder_layer`'s variables in the current scope; in a list."""
  width, spread = settings.hidden_size, settings.initializer_range

  def projection(scope, in_width, out_width):
    with tf.variable_scope(scope):
      return _dense_variables(in_width, out_width, spread)

  def norm(scope):
    with tf.variable_scope(scope):
      return _norm_variables(width)

  variables = [projection("attention/self/" + name, width, width)
               for name in ("query", "key", "value")]
  variables += [
      projection("attention/output/dense", width, width),
      norm("attention/output/LayerNorm"),
      projection("intermediate/dense", width, settings.intermediate_size),
      projection("output/dense", settings.intermediate_size, width),
      norm("output/LayerNorm")]
  return [variable for pair in variables for variable in pair]


def _compute_again(function, matrix):
  """function(matrix), which keeps its argument only for the backward pass.

  That calls it again, with the same dropout. Chen et al., "Training Deep Nets
  with Sublinear Memory Cost", arXiv:1604.06174, section 4.

  Args:
    function: of a float [M, D] to a list of the same, with resource variables
      in the current scope.
    matrix: float [M, D].

  Returns:
    list of float [M, D].
  """
  scope, seeds = tf.get_variable_scope(), []

  @tf.custom_gradient
  def compute(matrix):
    with fused_ops.kept_seeds(seeds):
      outputs = function(matrix)

    # TensorFlow 1 wants `variables` or `**`, and nothing goes behind `*`.
    def gradients(*by_outputs, **keywords):
      variables = list(keywords.get("variables", ()))
      # Not before the gradients are there, and no operation that TensorFlow
      # could take for one of the forward pass.
      with tf.control_dependencies(by_outputs):
        copy = tf.identity(matrix)
      with tf.variable_scope(scope, reuse=True), fused_ops.kept_seeds(
          seeds, are_used_again=True):
        again = function(copy)
      by_matrix, *by_variables = tf.gradients(
          again, [copy] + variables, by_outputs)
      return by_matrix, by_variables

    return outputs, gradients

  return compute(matrix)


class _LastLayer:
  """The last layer at some tokens, computed anew for these alone.

  With the same variables. Where nothing else of the last layer is asked for,
  as in classification, TensorFlow leaves out the rest: most of that layer.

  Args:
    layers: list of float [M, D], from the embeddings to the last layer.
    layout: _PaddedTokens or _RealTokens.
    settings: _EncoderSettings.
    scope: variable scope of the encoder.
  """

  def __init__(self, layers, layout, settings, scope):
    self._layers, self._layout = layers, layout
    self._settings, self._scope = settings, scope

  def first_tokens(self):
    """float [B, D]: at the first of each sequence."""
    if isinstance(self._layout, _PaddedTokens):
      # As the original, op for op.
      return self._layout.first_tokens(self._layers[-1])
    return self._layout.restore_first_tokens(self._compute(
        self._layout.first_tokens(self._layers[-2]),
        _attend_from_first_tokens))

  def at(self, positions, is_needed):
    """See `BertModel.get_sequence_output_at`."""
    if isinstance(self._layout, _PaddedTokens):
      return tf.gather(
          self._layout.to_sequences(self._layers[-1]), positions, batch_dims=1)
    layout, rows = self._layout.choose(positions, is_needed)
    return layout.to_sequences(self._compute(
        _take_rows(self._layers[-2], rows),
        functools.partial(_self_attention, query_layout=layout)))

  def _compute(self, queries, attend):
    """[R, D] -> [R, D]; see `_encoder_layer`."""
    with tf.variable_scope(self._scope, reuse=True), tf.variable_scope(
        "layer_%d" % (self._settings.num_layers - 1)):
      return _encoder_layer(
          self._layers[-2], queries, attend, self._layout, self._settings)


def _encoder_layer_of_all(matrix, layout, settings):
  """`_encoder_layer` at all tokens, [M, D] -> [M, D]."""
  return _encoder_layer(matrix, matrix, _self_attention, layout, settings)


def _encoder_layer(matrix, queries, attend, layout, settings):
  """A layer's result at all tokens, or at some.

  Args:
    matrix: float [M, D].
    queries: float [R, D], the tokens to compute: the matrix, or rows of it.
    attend: `_self_attention` or another function of its arguments, which
      computes what the queries see.
    layout: _PaddedTokens or _RealTokens, of the matrix.
    settings: _EncoderSettings.

  Returns:
    float [R, D].
  """
  activation = settings.activation
  product = after_activation = _dense_product(layout)
  if layout.is_fused and activation is gelu:
    # Computed with what follows, which needs its result in both directions.
    activation, after_activation = None, fused_ops.gelu_dense
  elif layout.uses_onednn and activation in _ONEDNN_ACTIVATIONS:
    product = functools.partial(
        product, activation=_ONEDNN_ACTIVATIONS[activation])
    activation = None
  with tf.variable_scope("attention"):
    with tf.variable_scope("self"):
      context = attend(matrix, queries, layout, settings)
    with tf.variable_scope("output"):
      attended = _project_add_norm(
          context, queries, layout, settings, _dense_product(layout))
  with tf.variable_scope("intermediate"):
    wide = dense(attended, settings.intermediate_size,
                 settings.initializer_range, activation, product=product)
  with tf.variable_scope("output"):
    return _project_add_norm(wide, attended, layout, settings, after_activation)


def _dense_product(layout):
  """What multiplies by a kernel and adds a bias; see `dense`."""
  if layout.uses_onednn:
    return onednn_ops.dense
  return fused_ops.dense if layout.is_fused else fused_ops.affine


def _project_add_norm(branch, residual, layout, settings, product):
  """LayerNorm of the residual and of the branch after a dense layer.

  Args:
    branch: float [M, any width].
    residual: float [M, D].
    layout: _PaddedTokens or _RealTokens.
    settings: _EncoderSettings.
    product: see `dense`.

  Returns:
    float [M, D].
  """
  if layout.uses_onednn:
    product = functools.partial(product, residual=residual)
  output = dense(branch, settings.hidden_size, settings.initializer_range,
                 product=product)
  if not layout.is_fused:
    if not layout.uses_onednn:
      output = dropout(output, settings.hidden_dropout) + residual
    return _layer_norm(output, layout)
  with tf.variable_scope("LayerNorm"):
    gamma, beta = _norm_variables(settings.hidden_size)
  return fused_ops.dropout_add_norm(
      output, residual, gamma, beta, settings.hidden_dropout,
      LAYER_NORM_EPSILON)


def _layer_norm(matrix, layout):
  """`layer_norm`, by one kernel in prediction."""
  if not layout.uses_onednn:
    return layer_norm(matrix)
  with tf.variable_scope("LayerNorm"):
    gamma, beta = _norm_variables(matrix.shape.as_list()[-1])
  return onednn_ops.layer_norm(matrix, gamma, beta, LAYER_NORM_EPSILON)


def _self_attention(matrix, queries, layout, settings, query_layout=None):
  """What tokens see; variables as in `attention_layer`.

  Args:
    matrix: float [M, D], what they look at.
    queries: float [R, D], the tokens that look.
    layout: _PaddedTokens or _RealTokens, of the matrix.
    settings: _EncoderSettings.
    query_layout: that of the queries if it is another one, in the same groups.

  Returns:
    float [R, D].
  """
  query_layout = query_layout or layout
  query, key, value = [
      dense(rows, settings.hidden_size, settings.initializer_range, name=name,
            product=_dense_product(layout))
      for name, rows in
      (("query", queries), ("key", matrix), ("value", matrix))]
  contexts = [
      _attend_in_group(
          *heads, group._replace(query_mask=query_group.query_mask), layout,
          settings.attention_dropout)
      for *heads, group, query_group in zip(
          query_layout.split_heads(query, settings.num_heads),
          layout.split_heads(key, settings.num_heads),
          layout.split_heads(value, settings.num_heads),
          layout.groups, query_layout.groups)]
  return query_layout.merge_heads(contexts)


def _attend_in_group(query, key, value, group, layout, dropout_prob):
  """`_attend` for one group of sequences, as the layout computes it.

  Args:
    query: float [B', N, F, H].
    key: float [B', N, S, H].
    value: float [B', N, S, H].
    group: _SequenceGroup.
    layout: _PaddedTokens or _RealTokens.
    dropout_prob: float, dropout of the probabilities.

  Returns:
    float [B', N, F, H].
  """
  if layout.is_fused:
    return fused_ops.attention(
        query, key, value, group.query_mask, group.key_mask, dropout_prob)
  if layout.uses_onednn:
    return tf.matmul(fused_ops.attention_probabilities(
        query, key, group.key_mask), value)
  return _attend(query, key, value, group.attention_mask, dropout_prob)


def _attend_from_first_tokens(matrix, queries, layout, settings):
  """`_self_attention` for the first token of each sequence alone.

  Needs no keys and values: with kernels K and V, biases b and c, inputs x of a
  sequence and the probabilities p of one query q in one head,

    q (x K + b)' = (q K') x' + q b'   and   p (x V + c) = (p x) V + sum(p) c.

  On the left a row is multiplied for each token, on the right one for each
  sequence and head.

  Args:
    matrix: float [M, D].
    queries: float [B, D], the layout's first tokens of it.
    layout: _PaddedTokens or _RealTokens.
    settings: _EncoderSettings.

  Returns:
    float [B, D], in the same order.
  """
  num_heads = settings.num_heads
  size = settings.hidden_size // num_heads
  query = dense(queries, settings.hidden_size, settings.initializer_range,
                name="query", product=_dense_product(layout))
  query = tf.reshape(
      query * (1.0 / math.sqrt(size)), [-1, num_heads, size])  # [B, N, H]
  query = tf.transpose(query, [1, 0, 2])  # [N, B, H]
  kernel, bias = _dense_variables_by_heads("key", settings, matrix.dtype)
  query_of_inputs = tf.transpose(
      tf.matmul(query, kernel, transpose_b=True), [1, 0, 2])  # [B, N, D]
  query_of_bias = tf.transpose(
      tf.matmul(query, bias, transpose_b=True), [1, 0, 2])  # [B, N, 1]
  inputs = [tf.squeeze(heads, 1)
            for heads in layout.split_heads(matrix, 1)]  # [B', S, D]
  sizes = [get_shape_list(group)[0] for group in inputs]
  sums = [
      _sum_inputs(*args, settings.attention_dropout) for args in zip(
          tf.split(query_of_inputs, sizes), tf.split(query_of_bias, sizes),
          inputs, layout.groups)]
  summed, total = [
      tf.transpose(tf.concat(parts, 0), [1, 0, 2]) for parts in zip(*sums)]
  kernel, bias = _dense_variables_by_heads("value", settings, matrix.dtype)
  context = tf.matmul(summed, kernel) + total * bias  # [N, B, H]
  return tf.reshape(
      tf.transpose(context, [1, 0, 2]), [-1, settings.hidden_size])  # [B, D]


def _dense_variables_by_heads(name, settings, dtype):
  """A projection's kernel [N, D, H] and bias [N, 1, H]."""
  width, num_heads = settings.hidden_size, settings.num_heads
  with tf.variable_scope(name):
    variables = _dense_variables(width, width, settings.initializer_range)
  kernel, bias = [
      tf.reshape(tf.cast(variable, dtype), [-1, num_heads, width // num_heads])
      for variable in variables]  # [D, N, H] and [1, N, H]
  return tf.transpose(kernel, [1, 0, 2]), tf.transpose(bias, [1, 0, 2])


def _sum_inputs(query, offset, inputs, group, dropout_prob):
  """Sums of a group's inputs, weighted with probabilities for each head.

  Args:
    query: float [B', N, D], what scores the inputs.
    offset: float [B', N, 1], what is added to a query's scores.
    inputs: float [B', S, D].
    group: _SequenceGroup, with one mask for all queries of a sequence.
    dropout_prob: float, dropout of the probabilities.

  Returns:
    float [B', N, D], and the sums of the probabilities, [B', N, 1].
  """
  scores = tf.matmul(query, inputs, transpose_b=True)  # [B', N, S]
  # In 16 bits, a large number added to all would take digits off them.
  scores = tf.cast(scores, tf.float32) + tf.cast(offset, tf.float32)
  probabilities = _probabilities(
      scores, group.attention_mask, inputs.dtype, dropout_prob)
  total = tf.reduce_sum(
      tf.cast(probabilities, tf.float32), -1, keepdims=True)
  return tf.matmul(probabilities, inputs), tf.cast(total, inputs.dtype)


# Shapes.


def get_shape_list(tensor, expected_rank=None, name=None):
  """A tensor's shape: ints where known, scalar tensors where not.

  Args:
    tensor: tensor.
    expected_rank: None, an int, or a list of ints it must be one of.
    name: str, what to call the tensor in an error.

  Raises:
    ValueError: the rank is not the expected one.
  """
  if expected_rank is not None:
    assert_rank(tensor, expected_rank, name)
  static = tensor.shape.as_list()
  if None not in static:
    return static
  dynamic = tf.shape(tensor)
  return [dynamic[axis] if size is None else size
          for axis, size in enumerate(static)]


def reshape_to_matrix(input_tensor):
  """[..., D] -> [M, D]; a matrix is returned as it is.

  Raises:
    ValueError: the rank is below 2.
  """
  if input_tensor.shape.ndims < 2:
    raise ValueError(
        "A tensor of rank 2 or more is needed, not of shape %s."
        % input_tensor.shape)
  if input_tensor.shape.ndims == 2:
    return input_tensor
  return tf.reshape(
      input_tensor, [-1, input_tensor.shape.as_list()[-1]])  # [M, D]


def reshape_from_matrix(output_tensor, orig_shape_list):
  """[M, width] -> the original shape, but `width` wide.

  Undoes `reshape_to_matrix`.
  """
  if len(orig_shape_list) == 2:
    return output_tensor
  width = get_shape_list(output_tensor)[-1]
  return tf.reshape(
      output_tensor, list(orig_shape_list[:-1]) + [width])  # [..., width]


def assert_rank(tensor, expected_rank, name=None):
  """Checks a tensor's rank.

  Args:
    tensor: tensor.
    expected_rank: int, or a list of ints it must be one of.
    name: str, what to call the tensor in the error.

  Raises:
    ValueError: it has another rank.
  """
  allowed = ([expected_rank] if isinstance(expected_rank, int)
             else list(expected_rank))
  if tensor.shape.ndims not in allowed:
    raise ValueError(
        "Tensor `%s` has rank %s (shape %s), but rank %s is needed." % (
            # Eager tensors have no name.
            name or getattr(tensor, "op", None) and tensor.name or "input",
            tensor.shape.ndims, tensor.shape,
            " or ".join(str(rank) for rank in allowed)))
