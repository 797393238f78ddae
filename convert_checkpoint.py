"""Converts checkpoints: slimmer, averaged, and to and from Hugging Face.

Drop what only training needs (Adam's moments, two thirds of the file):

  python convert_checkpoint.py --to=slim \\
      --input=/tmp/mrpc_output/model.ckpt-343 --output=/tmp/mrpc/bert_model.ckpt

Average the weights of several checkpoints of one model:

  python convert_checkpoint.py --to=average --output=/tmp/mean/model.ckpt \\
      --input=/tmp/out/model.ckpt-300,/tmp/out/model.ckpt-343

A Hugging Face folder (model.safetensors or pytorch_model.bin, config.json,
vocab.txt) to bert_model.ckpt, bert_config.json and vocab.txt, and back, the
heads for pre-training, classification and question answering included:

  python convert_checkpoint.py --to=tensorflow --input=./hf --output=./bert
  python convert_checkpoint.py --to=huggingface --input=./bert --output=./hf

safetensors files need the package `safetensors`, not PyTorch;
pytorch_model.bin needs PyTorch. Weights keep every bit, except that 16- and
64-bit floats of Hugging Face models become float32. Output is written whole or
not at all, and never over something that is there already.

From Hugging Face and back again, all tensors are the same, with today's names:
bert_config.json also notes what has no place in the checkpoint (position_ids
and the like, the case of the tokenizer, names of labels). A folder without
vocab.txt has its vocabulary in tokenizer.json. Models for question answering
or masked words only may have no pooler; then neither has the checkpoint, and
run_classifier.py, which warns of it, starts with a random one.
"""

import io
import json
import os
import re

import numpy as np
import tensorflow.compat.v1 as tf
import tqdm
from absl import flags

import common_flags
import input_pipeline
import modeling

FLAGS = flags.FLAGS

CHECKPOINT_NAME = "bert_model.ckpt"
CONFIG_FILE = "bert_config.json"
VOCAB_FILE = "vocab.txt"
HUGGING_FACE_CONFIG_FILE = "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
ADDED_TOKENS_FILE = "added_tokens.json"
SAFETENSORS_FILE = "model.safetensors"

# Where a Hugging Face model may be, the best choice first. An index names the
# files that a large model is spread over.
_WEIGHT_FILES = (SAFETENSORS_FILE, SAFETENSORS_FILE + ".index.json",
                 "pytorch_model.bin", "pytorch_model.bin.index.json")

# Variables that belong to the training, not to the model or one of its
# variables.
_TRAINING_STATE = {"global_step", "beta1_power", "beta2_power"}

# Heads whose variables are not named by the rule of `hugging_face_name`.
_HEAD_NAMES = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
}

# Hugging Face's class for the heads found; the first fitting one is taken.
_ARCHITECTURES = (
    ({"classifier"}, "BertForSequenceClassification"),
    ({"squad"}, "BertForQuestionAnswering"),
    ({"predictions", "seq_relationship"}, "BertForPreTraining"),
    ({"predictions"}, "BertForMaskedLM"),
    ({"seq_relationship"}, "BertForNextSentencePrediction"),
    (set(), "BertModel"),
)

# Their head has the names of a sequence classifier's, but works otherwise.
_LOOK_LIKE_CLASSIFIERS = ("BertForTokenClassification",
                          "BertForMultipleChoice")

# Hugging Face's "gelu" is the exact one, ours the approximation by tanh.
_ACTIVATIONS_FROM_HUGGING_FACE = {
    "gelu": "gelu_exact", "gelu_python": "gelu_exact", "gelu_new": "gelu",
    "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu",
    "tanh": "tanh", "linear": "linear"}
_ACTIVATIONS_TO_HUGGING_FACE = {
    "gelu_exact": "gelu", "gelu": "gelu_new", "relu": "relu", "tanh": "tanh",
    "linear": "linear", "": "linear"}

# Keys that both configs have, with the values that Hugging Face's stands for
# where it leaves one out.
_HUGGING_FACE_DEFAULTS = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
    "type_vocab_size": 2, "initializer_range": 0.02}

# Keys that mean nothing to a BertConfig, kept for the way back.
_CARRIED_KEYS = ("id2label", "label2id", "problem_type", "layer_norm_eps")

# Another one, with the dtype and shape of each of the `_redundant_tensors`
# that a Hugging Face file had.
_REDUNDANT_KEY = "hugging_face_tensors"

# The masked LM head's names for what is stored elsewhere, too.
_COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias"}

# Of a Hugging Face tokenizer, what bert_config.json keeps for the way back.
_TOKENIZER_SETTINGS = ("do_lower_case", "strip_accents",
                       "tokenize_chinese_chars")

# Tokenizers that cut texts as tokenization.FullTokenizer does.
_TOKENIZER_CLASSES = (None, "BertTokenizer", "BertTokenizerFast",
                      "PreTrainedTokenizerFast", "TokenizersBackend")

# Embeddings without a token are there to make their number round, a multiple
# of 128 at most.
MAX_PADDING_ROWS = 127

# Types of a safetensors file. NumPy has no bfloat16, the upper half of a
# float32.
_FLOAT_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGER_TYPES = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
                  "U8": "|u1"}

# What TensorFlow raises where a checkpoint's file is damaged or cut off.
_READ_ERRORS = (tf.errors.OpError, RuntimeError, ValueError, IndexError)


# TensorFlow checkpoints.


def model_variables(names):
  """The variables that make up a model, without what training keeps on them.

  Args:
    names: iterable of str, all variables of a checkpoint.

  Returns:
    sorted list of str.
  """
  names = set(names)
  return sorted(names - _TRAINING_STATE - set(modeling.find_slots(names)))


def _open_checkpoint(path):
  """(prefix, reader) of a checkpoint by any of its names."""
  prefix = modeling.resolve_checkpoint_path(path)
  try:
    reader = tf.train.load_checkpoint(prefix)
    names = reader.get_variable_to_shape_map()
  except _READ_ERRORS as error:
    raise _damaged(prefix, error) from None
  if "_CHECKPOINTABLE_OBJECT_GRAPH" in names:
    raise ValueError(
        "%s is an object checkpoint of TensorFlow 2 (Keras). Its variables do "
        "not have BERT's names, only those of Python attributes; convert it "
        "with the library that wrote it." % prefix)
  return prefix, reader


def _damaged(prefix, error):
  return ValueError(
      "The checkpoint %s cannot be read, a file of it is incomplete or "
      "damaged (%s). Copy it again, or take another one."
      % (prefix, str(error).split("\n")[0]))


def _read_variable(prefix, reader, name):
  try:
    return np.asarray(reader.get_tensor(name))
  except _READ_ERRORS as error:
    raise _damaged(prefix, error) from None


def _progress(items, what):
  return tqdm.tqdm(items, desc=what, unit="tensor", disable=None)


def _read_model(prefix, reader):
  """dict of name to array of the model's variables."""
  names = model_variables(reader.get_variable_to_shape_map())
  return {name: _read_variable(prefix, reader, name)
          for name in _progress(names, "reading")}


def write_checkpoint(values, prefix):
  """Writes `<prefix>.index` and `<prefix>.data-*`, whole or not at all.

  Args:
    values: dict of variable name to array.
    prefix: str, where no checkpoint is yet.
  """
  folder = prefix + ".incomplete"
  _delete_folder(folder)
  tf.gfile.MakeDirs(folder)
  try:
    partial = folder + "/checkpoint"
    _save(values, partial)
    # Without the index, which comes last, there is no checkpoint.
    for end in (".data-00000-of-00001", ".index"):
      tf.gfile.Rename(partial + end, prefix + end)
  finally:
    _delete_folder(folder)


def _delete_folder(folder):
  if tf.gfile.Exists(folder):
    tf.gfile.DeleteRecursively(folder)


def _save(values, prefix):
  names = sorted(values)
  config = tf.ConfigProto(device_count={"GPU": 0})
  with tf.Graph().as_default(), tf.Session(config=config) as session:
    inputs = [tf.placeholder(tf.as_dtype(values[name].dtype),
                             values[name].shape) for name in names]
    save = tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names,
        shape_and_slices=[""] * len(names), tensors=inputs)
    session.run(save, {tensor: values[name]
                       for tensor, name in zip(inputs, names)})


def _check_new_prefix(prefix):
  """Whether a checkpoint can be written there; to be asked before the work."""
  if re.search(r"\.(index|meta|data-\d{5}-of-\d{5})$", prefix):
    raise ValueError(
        "--output=%s must be a checkpoint's prefix, such as "
        "/tmp/slim/bert_model.ckpt, not one of its files." % prefix)
  if prefix.endswith("/") or tf.gfile.IsDirectory(prefix):
    raise ValueError(
        "--output=%s is a folder. Name a checkpoint's prefix in it, such as %s."
        % (prefix, prefix.rstrip("/") + "/" + CHECKPOINT_NAME))
  for name in _checkpoint_files(prefix):
    raise ValueError(
        "--output=%s: there is already %s. Name another one, or delete it."
        % (prefix, name))


def _checkpoint_files(prefix):
  folder, start = os.path.split(prefix)
  if not tf.gfile.IsDirectory(folder or "."):
    return []
  pattern = re.escape(start) + r"\.(index|meta|data-\d{5}-of-\d{5})"
  return sorted(os.path.join(folder, name)
                for name in tf.gfile.ListDirectory(folder or ".")
                if re.fullmatch(pattern, name))


def _megabytes(prefix):
  return sum(tf.gfile.Stat(name).length for name in _checkpoint_files(prefix)
             if not name.endswith(".meta")) / 1e6


def slim_checkpoint(checkpoint, output):
  """Copies a checkpoint's model, without optimizer slots and global step.

  Args:
    checkpoint: str (see `modeling.resolve_checkpoint_path`).
    output: str, prefix of the checkpoint to write.

  Raises:
    ValueError: there is no checkpoint, it is damaged, or `output` exists.
  """
  _check_new_prefix(output)
  prefix, reader = _open_checkpoint(checkpoint)
  values = _read_model(prefix, reader)
  write_checkpoint(values, output)
  tf.logging.info(
      "%s: %d variables, %.1f MB. Of %s: %d variables, %.1f MB.", output,
      len(values), _megabytes(output), prefix,
      len(reader.get_variable_to_shape_map()), _megabytes(prefix))


def average_checkpoints(checkpoints, output):
  """Writes the mean of several checkpoints of one model.

  Floats are summed in float64 and stored as what they were. Optimizer slots
  and global step are left out.

  Args:
    checkpoints: list of str (see `modeling.resolve_checkpoint_path`).
    output: str, prefix of the checkpoint to write.

  Raises:
    ValueError: fewer than two checkpoints, or not of the same model; one is
      missing or damaged; or `output` exists.
  """
  if len(checkpoints) < 2:
    raise ValueError(
        "To average takes two or more checkpoints, --input=FIRST,SECOND, not "
        "only %s." % ",".join(checkpoints))
  _check_new_prefix(output)
  opened = [_open_checkpoint(path) for path in checkpoints]
  names = _common_variables(opened)
  values = {name: _mean(name, opened)
            for name in _progress(names, "averaging")}
  write_checkpoint(values, output)
  tf.logging.info("%s: the mean of %s.", output,
                  ", ".join(prefix for prefix, _ in opened))


def _common_variables(opened):
  """Names of the model's variables, after a check that all have the same."""
  (first_prefix, first), *others = opened
  shapes = first.get_variable_to_shape_map()
  dtypes = first.get_variable_to_dtype_map()
  names = model_variables(shapes)
  for prefix, reader in others:
    other_shapes = reader.get_variable_to_shape_map()
    other_dtypes = reader.get_variable_to_dtype_map()
    different = set(names).symmetric_difference(model_variables(other_shapes))
    if different:
      raise ValueError(
          "%s and %s are not of the same model: only one of them has %s."
          % (first_prefix, prefix, ", ".join(sorted(different))))
    for name in names:
      if (shapes[name], dtypes[name]) != (other_shapes[name],
                                          other_dtypes[name]):
        raise ValueError(
            "%s and %s are not of the same model: `%s` is %s %s in one and "
            "%s %s in the other." % (
                first_prefix, prefix, name, dtypes[name].name, shapes[name],
                other_dtypes[name].name, other_shapes[name]))
  return names


def _mean(name, opened):
  """The mean of a variable; one that is not float must be the same in all."""
  first = _read_variable(*opened[0], name)
  if not tf.as_dtype(first.dtype).is_floating:
    for prefix, reader in opened[1:]:
      if not np.array_equal(first, _read_variable(prefix, reader, name)):
        raise ValueError(
            "`%s` is %s and differs between %s and %s; only floats can be "
            "averaged." % (name, first.dtype, opened[0][0], prefix))
    return first
  total = first.astype(np.float64)
  for prefix, reader in opened[1:]:
    total += _read_variable(prefix, reader, name).astype(np.float64)
  return np.asarray(total / len(opened)).astype(first.dtype)


# Names and shapes of the model.


def encoder_shapes(config):
  """Shapes of the variables of a `modeling.BertModel`.

  Args:
    config: modeling.BertConfig.

  Returns:
    dict of name to list of int.
  """
  depth = config.hidden_size
  shapes = {
      "bert/embeddings/word_embeddings": [config.vocab_size, depth],
      "bert/embeddings/token_type_embeddings": [config.type_vocab_size, depth],
      "bert/embeddings/position_embeddings": [
          config.max_position_embeddings, depth]}
  shapes.update(_layer_norm_shapes("bert/embeddings", depth))
  for index in range(config.num_hidden_layers):
    layer = "bert/encoder/layer_%d/" % index
    for part in ("query", "key", "value"):
      shapes.update(
          _dense_shapes(layer + "attention/self/" + part, depth, depth))
    shapes.update(
        _dense_shapes(layer + "attention/output/dense", depth, depth))
    shapes.update(_layer_norm_shapes(layer + "attention/output", depth))
    shapes.update(_dense_shapes(
        layer + "intermediate/dense", depth, config.intermediate_size))
    shapes.update(_dense_shapes(
        layer + "output/dense", config.intermediate_size, depth))
    shapes.update(_layer_norm_shapes(layer + "output", depth))
  shapes.update(_dense_shapes("bert/pooler/dense", depth, depth))
  return shapes


def head_shapes(config):
  """Shapes of the variables of all heads, None for the number of labels.

  Args:
    config: modeling.BertConfig.

  Returns:
    dict of the head's name to dict of variable name to list of int or None.
  """
  depth = config.hidden_size
  predictions = {"cls/predictions/output_bias": [config.vocab_size]}
  predictions.update(
      _dense_shapes("cls/predictions/transform/dense", depth, depth))
  predictions.update(_layer_norm_shapes("cls/predictions/transform", depth))
  return {
      "predictions": predictions,
      "seq_relationship": {
          "cls/seq_relationship/output_weights": [2, depth],
          "cls/seq_relationship/output_bias": [2]},
      "classifier": {"output_weights": [None, depth], "output_bias": [None]},
      "squad": {"cls/squad/output_weights": [2, depth],
                "cls/squad/output_bias": [2]}}


def _dense_shapes(scope, rows, columns):
  return {scope + "/kernel": [rows, columns], scope + "/bias": [columns]}


def _layer_norm_shapes(scope, depth):
  return {scope + "/LayerNorm/beta": [depth],
          scope + "/LayerNorm/gamma": [depth]}


def find_heads(config, names):
  """Which heads a model has.

  Args:
    config: modeling.BertConfig.
    names: iterable of str, its variables.

  Returns:
    set of names in `head_shapes`: those of which any variable is there.
  """
  names = set(names)
  return {head for head, shapes in head_shapes(config).items()
          if names.intersection(shapes)}


def _expected_shapes(config, names, source):
  """Shapes of the variables that a model with some of them must have.

  The pooler may be missing where no head reads it. It is not made up then: a
  random one in a file would look like a trained one.
  """
  heads = find_heads(config, names)
  shapes = encoder_shapes(config)
  poolers = [name for name in shapes if name.startswith("bert/pooler/")]
  if not set(names).intersection(poolers) and not heads.intersection(
      ("classifier", "seq_relationship")):
    tf.logging.warning(
        "%s has no pooler, and the converted model has none either: "
        "fine-tuning it as a classifier starts with a random one. Answering "
        "questions needs none.", source)
    for name in poolers:
      del shapes[name]
  for head in heads:
    shapes.update(head_shapes(config)[head])
  return shapes


def _check_shapes(found, expected, source):
  """Compares a model with what its config says.

  Args:
    found: dict of tensor name to list of int.
    expected: likewise, None where any size will do.
    source: str, for the messages.

  Raises:
    ValueError: a tensor is missing, or has another shape.
  """
  missing = sorted(set(expected) - set(found))
  if missing:
    raise ValueError(
        "%s is not the whole model that its config describes. It lacks %d "
        "tensors: %s." % (source, len(missing), ", ".join(missing)))
  for name, shape in sorted(expected.items()):
    fits = len(shape) == len(found[name]) and all(
        size in (None, actual) for size, actual in zip(shape, found[name]))
    if not fits:
      raise ValueError(
          "%s: `%s` has the shape %s, but according to the config it should "
          "be %s. Model and config do not belong together."
          % (source, name, list(found[name]),
             ["any" if size is None else size for size in shape]))
  unknown = sorted(set(found) - set(expected))
  if unknown:
    tf.logging.warning(
        "%s: %d tensors are no part of BERT or a head known here, and are left "
        "out: %s", source, len(unknown), ", ".join(unknown))


def hugging_face_name(name):
  """What Hugging Face calls a variable, within its BertModel or as a head.

  For example "bert/encoder/layer_0/output/dense/kernel" becomes
  "encoder.layer.0.output.dense.weight", which is the transposed matrix.

  Args:
    name: str, a variable's name here.
  """
  if name in _HEAD_NAMES:
    return _HEAD_NAMES[name]
  name = re.sub(r"^bert/", "", name)
  name = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name)
  name = re.sub(r"/(kernel|gamma)$", "/weight", name)
  name = re.sub(r"/beta$", "/bias", name)
  name = re.sub(r"_embeddings$", "_embeddings/weight", name)
  return name.replace("/", ".")


def _is_transposed(name):
  return name.endswith("/kernel")


def _redundant_tensors(tensors, config):
  """Tensors that some Hugging Face files have, but that follow from the rest.

  They are no variables here. bert_config.json notes which there were, and the
  way back makes them again.

  Args:
    tensors: dict of name to array, names without "bert.".
    config: modeling.BertConfig.

  Returns:
    dict of name to (array, str that says what it is).
  """
  length = config.max_position_embeddings
  redundant = {
      "embeddings.position_ids": (
          np.arange(length), "the numbers 0 to %d" % (length - 1)),
      "embeddings.token_type_ids": (
          np.zeros([length], np.int64), "%d zeros" % length)}
  for name, original in _COPIES.items():
    if "cls.predictions.bias" in tensors and original in tensors:
      redundant[name] = (tensors[original], "those of `%s`" % original)
  return redundant


def _take_redundant(tensors, config, source):
  """Removes the redundant tensors and notes them in the config."""
  bias = "cls.predictions.decoder.bias"
  if bias in tensors:
    tensors.setdefault(_COPIES[bias], tensors[bias])
  noted = {}
  for name, (value, what) in _redundant_tensors(tensors, config).items():
    if name not in tensors:
      continue
    tensor = tensors.pop(name)
    if not np.array_equal(np.squeeze(tensor), np.squeeze(value)):
      raise ValueError(
          "%s: the values of `%s` should be %s. Here they cannot be others, so "
          "this model cannot be converted." % (source, name, what))
    noted[name] = [tensor.dtype.name, list(tensor.shape)]
  if noted:
    setattr(config, _REDUNDANT_KEY, noted)


def _add_redundant(tensors, config, config_file):
  """Makes the tensors that `_take_redundant` noted, as far as they still fit.

  What the config's sizes or heads have become since then counts.
  """
  noted = getattr(config, _REDUNDANT_KEY, {})
  try:
    for name, (value, _) in _redundant_tensors(tensors, config).items():
      if name in noted:
        dtype, shape = noted[name]
        ones = [1] * (len(shape) - value.ndim)
        tensors[name] = value.astype(dtype).reshape(
            ones + list(value.shape))  # [1, P], [P], or as the original.
  except (TypeError, ValueError):
    raise ValueError(
        "%s: `%s` should hold [dtype, shape] by name, not %r. Delete it; no "
        "weight is lost." % (config_file, _REDUNDANT_KEY, noted)) from None


# Files of both kinds of model.


def _read_json(path):
  if not tf.gfile.Exists(path):
    raise ValueError("%s is missing." % path)
  with tf.gfile.GFile(path, "rb") as reader:
    content = reader.read()
  try:
    values = json.loads(content.decode("utf-8"))
  except ValueError as error:
    raise ValueError("%s is damaged: %s" % (path, error)) from None
  if not isinstance(values, dict):
    raise ValueError("%s must hold a JSON object, not %s."
                     % (path, type(values).__name__))
  return values


def _read_vocab(path):
  """A vocab.txt's bytes and its tokens."""
  tokens = list(input_pipeline.read_text_lines(path))
  with tf.gfile.GFile(path, "rb") as reader:
    return reader.read(), tokens


def _check_vocab_size(tokens, config, path):
  """Compares a vocabulary with the embeddings.

  With another model's vocabulary no script would fail, and all results would
  mean nothing. So a vocabulary that is far too small is an error, too.
  """
  padding = config.vocab_size - len(tokens)
  if 0 <= padding <= MAX_PADDING_ROWS:
    return
  raise ValueError(
      "%s has %d tokens, but the model has embeddings of %d (`vocab_size`). "
      "They do not belong together.%s" % (
          path, len(tokens), config.vocab_size, "" if padding < 0 else
          " If they do, use a %s with a further line for each of the other "
          "embeddings: [unused_1], [unused_2] and so on." % VOCAB_FILE))


def _looks_lower_cased(tokens):
  """Whether no token has a capital letter; [CLS] and the like do not count."""
  return not any(re.search("[A-Z]", token) for token in tokens
                 if not re.fullmatch(r"\[.*\]", token))


def _write_file(path, content):
  if isinstance(content, dict):
    content = (json.dumps(content, indent=2, sort_keys=True,
                          ensure_ascii=False) + "\n").encode("utf-8")
  with tf.gfile.GFile(path, "wb") as writer:
    writer.write(content)


def _check_new_folder(path):
  """Whether a model can be written there; to be asked before the work."""
  if not tf.gfile.Exists(path):
    return
  if not tf.gfile.IsDirectory(path) or tf.gfile.ListDirectory(path):
    raise ValueError(
        "--output=%s is there already. Name a folder that does not exist, or "
        "delete it." % path)


# Hugging Face to TensorFlow.


def hugging_face_to_tensorflow(folder, output):
  """Converts a Hugging Face BERT to a checkpoint with config and vocabulary.

  Args:
    folder: str, with config.json, vocab.txt or tokenizer.json, and the
      weights in one of `_WEIGHT_FILES`.
    output: str, folder to make.

  Raises:
    ValueError: a file is missing or damaged; the files do not belong together;
      the model is not one that `modeling.BertModel` can compute; a package is
      not installed; or `output` exists.
  """
  _check_new_folder(output)
  if not tf.gfile.IsDirectory(folder):
    raise ValueError(
        "There is no folder %s (--input). It must be that of a Hugging Face "
        "model: %s, %s and %s." % (folder, HUGGING_FACE_CONFIG_FILE,
                                   VOCAB_FILE, SAFETENSORS_FILE))
  config = _config_from_hugging_face(
      os.path.join(folder, HUGGING_FACE_CONFIG_FILE))
  vocab, tokens = _vocab_from_hugging_face(folder, config)
  for key, value in _tokenizer_settings(folder, tokens).items():
    setattr(config, key, value)
  tensors = _simplify_names(_read_hugging_face_tensors(folder), folder)
  values = _to_variables(tensors, config, folder)
  with input_pipeline.atomic_folder(output) as partial:
    tf.gfile.MakeDirs(partial)
    write_checkpoint(values, os.path.join(partial, CHECKPOINT_NAME))
    _write_file(os.path.join(partial, CONFIG_FILE), config.to_dict())
    _write_file(os.path.join(partial, VOCAB_FILE), vocab)
  tf.logging.info(
      "%s: %d variables, hidden_act %s. Use it with --do_lower_case=%s.",
      os.path.join(output, CHECKPOINT_NAME), len(values), config.hidden_act,
      config.do_lower_case)


def _config_from_hugging_face(path):
  """modeling.BertConfig out of a config.json."""
  given = _read_json(path)
  for key, expected in (("model_type", "bert"), ("is_decoder", False),
                        ("position_embedding_type", "absolute")):
    if given.get(key) not in (None, expected):
      raise ValueError("%s: only models with `%s` %r can be converted, not %r."
                       % (path, key, expected, given[key]))
  for architecture in given.get("architectures") or []:
    if architecture in _LOOK_LIKE_CLASSIFIERS:
      raise ValueError("%s: no script here has the head of a %s."
                       % (path, architecture))
  values = {key: given.get(key, default)
            for key, default in _HUGGING_FACE_DEFAULTS.items()}
  values.update((key, given[key]) for key in _CARRIED_KEYS if key in given)
  if values["hidden_act"] not in _ACTIVATIONS_FROM_HUGGING_FACE:
    raise ValueError(
        "%s: unknown activation `hidden_act` %r; there are %s." % (
            path, values["hidden_act"],
            ", ".join(sorted(_ACTIVATIONS_FROM_HUGGING_FACE))))
  values["hidden_act"] = _ACTIVATIONS_FROM_HUGGING_FACE[values["hidden_act"]]
  epsilon = values.pop("layer_norm_eps", modeling.LAYER_NORM_EPSILON)
  if epsilon != modeling.LAYER_NORM_EPSILON:
    values["layer_norm_eps"] = epsilon
    tf.logging.warning(
        "%s: the model was trained with `layer_norm_eps` %r; here it is always "
        "%r. Results will differ a little.", path, epsilon,
        modeling.LAYER_NORM_EPSILON)
  try:
    return modeling.BertConfig.from_dict(values)
  except ValueError as error:
    raise ValueError("%s: %s" % (path, error)) from None


def _vocab_from_hugging_face(folder, config):
  """(bytes of vocab.txt, list of its tokens).

  transformers 5 writes tokenizer.json only. Tokens that were added to the
  vocabulary of a trained model are in a file of their own beside vocab.txt.
  """
  path = os.path.join(folder, VOCAB_FILE)
  tokenizer_path = os.path.join(folder, TOKENIZER_FILE)
  added_path = os.path.join(folder, ADDED_TOKENS_FILE)
  if tf.gfile.Exists(path):
    content, tokens = _read_vocab(path)
    if not tf.gfile.Exists(added_path):
      _check_vocab_size(tokens, config, path)
      return content, tokens
    path, added = added_path, _read_json(added_path)
  elif tf.gfile.Exists(tokenizer_path):
    path = tokenizer_path
    tokens, added = _vocab_of_tokenizer(path)
  else:
    raise ValueError(
        "The vocabulary %s is missing, and there is no %s. The model cannot be "
        "used without; download it, too." % (path, TOKENIZER_FILE))
  tokens = _add_tokens(tokens, added, path)
  _check_vocab_size(tokens, config, path)
  return "".join(token + "\n" for token in tokens).encode("utf-8"), tokens


def _vocab_of_tokenizer(path):
  """(list of tokens, dict of added token to id) of a tokenizer.json."""
  tokenizer = _read_json(path)
  try:
    model = tokenizer["model"]
    # The first releases did not name the kind.
    kind = model.get("type") or (
        "WordPiece" if "continuing_subword_prefix" in model else "unknown")
    if kind == "WordPiece":
      ids = model["vocab"]
      tokens = sorted(ids, key=ids.get)
      added = {token["content"]: token["id"]
               for token in tokenizer.get("added_tokens") or ()}
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError("%s is damaged: %s" % (path, error)) from None
  if kind != "WordPiece":
    raise ValueError("%s: the vocabulary is of the kind %s; only WordPiece can "
                     "be converted." % (path, kind))
  for key, expected in (("continuing_subword_prefix", "##"),
                        ("unk_token", "[UNK]")):
    if model.get(key, expected) != expected:
      raise ValueError("%s: `%s` is %r, and only vocabularies with %r can be "
                       "converted." % (path, key, model[key], expected))
  if [ids[token] for token in tokens] != list(range(len(tokens))):
    raise ValueError("%s: the tokens' ids are not 0 to %d, each once."
                     % (path, len(tokens) - 1))
  return tokens, added


def _add_tokens(tokens, added, path):
  """The tokens with those that were added behind them.

  Args:
    tokens: list of str, by id.
    added: dict of str to id; those whose id is one in `tokens` do not count.
    path: str, for the messages.
  """
  try:
    more = sorted((index, token) for token, index in added.items()
                  if index not in range(len(tokens)))
    fits = [index for index, _ in more] == list(
        range(len(tokens), len(tokens) + len(more)))
  except TypeError:
    fits = False
  if not fits:
    raise ValueError(
        "%s: the ids of the added tokens should go on from %d, the number of "
        "the others, each once: %s." % (path, len(tokens), added))
  if more:
    tf.logging.warning(
        "%s adds %d tokens to the vocabulary: %s. transformers finds them "
        "anywhere in a text, tokenization.py only as WordPiece tokens.", path,
        len(more), ", ".join(str(token) for _, token in more))
  tokens = tokens + [token for _, token in more]
  for token in tokens:
    if not isinstance(token, str) or re.search(r"[\r\n]", token):
      raise ValueError("%s: the token %r cannot be a line of %s."
                       % (path, token, VOCAB_FILE))
  return tokens


def _tokenizer_settings(folder, tokens):
  """What is known of a Hugging Face tokenizer beside its vocabulary.

  Args:
    folder: str, that of the model.
    tokens: list of str, the vocabulary: looked at for capital letters where
      neither tokenizer_config.json nor tokenizer.json tells the case.

  Returns:
    dict of bool: `do_lower_case`, and those of `_TOKENIZER_SETTINGS` that are
    not as tokenization.FullTokenizer has them.
  """
  settings = {}
  path = os.path.join(folder, TOKENIZER_FILE)
  if tf.gfile.Exists(path):
    settings.update(_normalizer_settings(_read_json(path), path))
  path = os.path.join(folder, TOKENIZER_CONFIG_FILE)
  if tf.gfile.Exists(path):
    described = _read_json(path)
    settings.update((key, described[key]) for key in _TOKENIZER_SETTINGS
                    if isinstance(described.get(key), bool))
    if described.get("tokenizer_class") not in _TOKENIZER_CLASSES:
      tf.logging.warning(
          "%s: a `tokenizer_class` %s cuts texts into other tokens than "
          "tokenization.py does.", path, described["tokenizer_class"])
  do_lower_case = settings.setdefault(
      "do_lower_case", _looks_lower_cased(tokens))
  for key, usual in (("strip_accents", do_lower_case),
                     ("tokenize_chinese_chars", True)):
    if settings.setdefault(key, usual) == usual:
      del settings[key]
    else:
      tf.logging.warning(
          "%s: the tokenizer has `%s` %r, unlike the scripts here: some texts "
          "become other tokens.", folder, key, settings[key])
  return settings


def _normalizer_settings(tokenizer, path):
  """The part of `_tokenizer_settings` that a tokenizer.json's dict holds."""
  settings = {}
  try:
    normalizer = tokenizer.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    settings["do_lower_case"] = any(
        part.get("type") == "Lowercase" or part.get("lowercase") is True
        for part in parts)
    for part in parts:
      for key, theirs in (("strip_accents", "strip_accents"),
                          ("tokenize_chinese_chars", "handle_chinese_chars")):
        if isinstance(part.get(theirs), bool):
          settings[key] = part[theirs]
  except (AttributeError, TypeError) as error:
    raise ValueError("%s is damaged: %s" % (path, error)) from None
  return settings


def _read_hugging_face_tensors(folder):
  """dict of name to array, out of the first of `_WEIGHT_FILES`."""
  there = [name for name in _WEIGHT_FILES
           if tf.gfile.Exists(os.path.join(folder, name))]
  if not there:
    raise ValueError("%s holds no weights: none of %s is there."
                     % (folder, ", ".join(_WEIGHT_FILES)))
  names = [there[0]]
  if there[0].endswith(".index.json"):
    weight_map = _read_json(os.path.join(folder, there[0])).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
      raise ValueError("%s has no `weight_map` with the names of the files."
                       % os.path.join(folder, there[0]))
    names = sorted(set(weight_map.values()))
  tensors = {}
  for name in names:
    path = os.path.join(folder, name)
    if not tf.gfile.Exists(path):
      raise ValueError("%s is missing, which %s names." % (path, there[0]))
    with tf.gfile.GFile(path, "rb") as reader:
      content = reader.read()
    decode = (_decode_safetensors if name.endswith(".safetensors")
              else _decode_pytorch)
    tensors.update(decode(content, path))
  return tensors


def _is_buffer(name):
  """Whether a tensor holds ids, so that it may be of integers."""
  return name.endswith((".position_ids", ".token_type_ids"))


def _import_safetensors():
  try:
    import safetensors.numpy
  except ImportError:
    raise ValueError(
        "This needs the package safetensors (PyTorch is not needed): "
        "pip install safetensors") from None
  return safetensors


def _decode_safetensors(content, path):
  """dict of name to array, float32 but for ids, of a safetensors file's bytes.
  """
  safetensors = _import_safetensors()
  try:
    stored = safetensors.deserialize(content)
  except safetensors.SafetensorError as error:
    raise ValueError(
        "%s (%d bytes) is incomplete or damaged: %s. Download it again."
        % (path, len(content), error)) from None
  tensors = {}
  for name, tensor in stored:
    types = dict(_FLOAT_TYPES, **(_INTEGER_TYPES if _is_buffer(name) else {}))
    if tensor["dtype"] not in types:
      raise ValueError("%s: `%s` is of type %s; only %s can be converted." % (
          path, name, tensor["dtype"], ", ".join(sorted(types))))
    flat = np.frombuffer(tensor["data"], types[tensor["dtype"]])
    if tensor["dtype"] == "BF16":
      flat = (flat.astype("<u4") << 16).view("<f4")
    if not _is_buffer(name):
      flat = flat.astype(np.float32, copy=False)
    tensors[name] = flat.reshape(tensor["shape"])  # As in the file.
  return tensors


def _decode_pytorch(content, path):
  """dict of name to array, float32 but for ids, of a PyTorch file's bytes.

  Tensors only: Python code that a file may hold is not run.
  """
  try:
    import torch
  except ImportError:
    raise ValueError(
        "%s needs PyTorch: pip install torch. A %s needs only the small "
        "package safetensors; many models have both."
        % (path, SAFETENSORS_FILE)) from None
  try:
    stored = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True)
  except Exception as error:  # Of many kinds, zip and pickle errors among them.
    raise ValueError(
        "%s (%d bytes) is incomplete, damaged, or holds more than tensors: %s"
        % (path, len(content), str(error).split("\n")[0])) from None
  if not isinstance(stored, dict):
    raise ValueError("%s must hold tensors by name, not %s."
                     % (path, type(stored).__name__))
  tensors = {}
  for name, tensor in stored.items():
    is_buffer = _is_buffer(name)
    if not torch.is_tensor(tensor) or not (
        is_buffer or tensor.is_floating_point()):
      raise ValueError("%s: `%s` is not a tensor of floats, but %s." % (
          path, name, getattr(tensor, "dtype", type(tensor).__name__)))
    if not is_buffer or tensor.dtype == torch.bfloat16:
      tensor = tensor.float()
    tensors[name] = tensor.detach().numpy()
  return tensors


def _simplify_names(tensors, source):
  """Today's names, without the "bert." before those of the encoder."""
  simplified = {}
  for name, tensor in tensors.items():
    short = re.sub(r"^bert\.", "", name)
    short = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", short)
    short = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", short)
    if short in simplified:
      raise ValueError("%s holds `%s` twice, under an old and a new name."
                       % (source, name))
    simplified[short] = tensor
  return simplified


def _to_variables(tensors, config, source):
  """dict of variable name to array, from tensors with simplified names.

  What makes no variable is noted in `config`.
  """
  _take_redundant(tensors, config, source)
  all_names = list(encoder_shapes(config))
  for shapes in head_shapes(config).values():
    all_names.extend(shapes)
  present = [name for name in all_names if hugging_face_name(name) in tensors]
  expected = _expected_shapes(config, present, source)
  _check_shapes(
      {name: tensor.shape for name, tensor in tensors.items()},
      {hugging_face_name(name): shape[::-1] if _is_transposed(name) else shape
       for name, shape in expected.items()}, source)
  values = {}
  for name in expected:
    tensor = tensors[hugging_face_name(name)]
    values[name] = tensor.T if _is_transposed(name) else tensor
  return values


# TensorFlow to Hugging Face.


def tensorflow_to_hugging_face(checkpoint, output, config_file=None,
                               vocab_file=None, do_lower_case=None):
  """Converts a checkpoint to a folder that Hugging Face's libraries load.

  Args:
    checkpoint: str (see `modeling.resolve_checkpoint_path`).
    output: str, folder to make.
    config_file: str; bert_config.json beside the checkpoint when None.
    vocab_file: str; vocab.txt beside the checkpoint when None.
    do_lower_case: bool; when None, what the config says if the model was
      converted here, else whether the vocabulary has no capital letters.

  Raises:
    ValueError: a file is missing or damaged; the files do not belong together;
      safetensors is not installed; or `output` exists.
  """
  _check_new_folder(output)
  safetensors = _import_safetensors()
  prefix, reader = _open_checkpoint(checkpoint)
  folder = os.path.dirname(prefix)
  config_file = config_file or os.path.join(folder, CONFIG_FILE)
  if not tf.gfile.Exists(config_file):
    raise ValueError("The model's config %s is missing. Name it by "
                     "--bert_config_file." % config_file)
  config = modeling.BertConfig.from_json_file(config_file)
  vocab_file = vocab_file or os.path.join(folder, VOCAB_FILE)
  if not tf.gfile.Exists(vocab_file):
    raise ValueError("The vocabulary %s is missing. Name it by --vocab_file."
                     % vocab_file)
  vocab, tokens = _read_vocab(vocab_file)
  _check_vocab_size(tokens, config, vocab_file)
  if do_lower_case is None:
    do_lower_case = getattr(
        config, "do_lower_case", _looks_lower_cased(tokens))
  tensors, heads = _to_hugging_face_tensors(
      prefix, reader, config, config_file)
  described = _config_to_hugging_face(config, config_file, heads, tensors)
  tokenizer = {key: getattr(config, key) for key in _TOKENIZER_SETTINGS
               if hasattr(config, key)}
  tokenizer.update(tokenizer_class="BertTokenizer", do_lower_case=do_lower_case,
                   model_max_length=config.max_position_embeddings)
  with input_pipeline.atomic_folder(output) as partial:
    tf.gfile.MakeDirs(partial)
    _write_file(os.path.join(partial, SAFETENSORS_FILE),
                safetensors.numpy.save(tensors, {"format": "pt"}))
    _write_file(os.path.join(partial, HUGGING_FACE_CONFIG_FILE), described)
    _write_file(os.path.join(partial, VOCAB_FILE), vocab)
    _write_file(os.path.join(partial, TOKENIZER_CONFIG_FILE), tokenizer)
  tf.logging.info(
      "%s: %d tensors, %s, hidden_act %s, do_lower_case %s.", output,
      len(tensors), described["architectures"][0], described["hidden_act"],
      do_lower_case)


def _to_hugging_face_tensors(prefix, reader, config, config_file):
  """(dict of tensor name to array, set of the heads' names)."""
  stored = reader.get_variable_to_shape_map()
  found = {name: stored[name] for name in model_variables(stored)}
  expected = _expected_shapes(config, found, prefix)
  _check_shapes(found, expected, prefix)
  heads = find_heads(config, found)
  tensors = {}
  for name in _progress(sorted(expected), "reading"):
    value = _read_variable(prefix, reader, name)
    tensors[hugging_face_name(name)] = np.ascontiguousarray(
        value.T if _is_transposed(name) else value, np.float32)
  _add_redundant(tensors, config, config_file)
  if heads:  # BertModel, saved by itself, does not have the prefix.
    tensors = {re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name):
               value for name, value in tensors.items()}
  return tensors, heads


def _config_to_hugging_face(config, config_file, heads, tensors):
  """dict, the content of config.json."""
  values = {key: getattr(config, key) for key in _HUGGING_FACE_DEFAULTS}
  activation = (config.hidden_act or "").lower()
  if activation not in _ACTIVATIONS_TO_HUGGING_FACE:
    raise ValueError("%s: unknown activation `hidden_act` %r; there are %s." % (
        config_file, config.hidden_act,
        ", ".join(sorted(filter(None, _ACTIVATIONS_TO_HUGGING_FACE)))))
  architecture = next(name for needed, name in _ARCHITECTURES
                      if needed <= heads)
  values.update(
      architectures=[architecture], model_type="bert", pad_token_id=0,
      position_embedding_type="absolute",
      hidden_act=_ACTIVATIONS_TO_HUGGING_FACE[activation],
      layer_norm_eps=modeling.LAYER_NORM_EPSILON)
  values.update((key, getattr(config, key)) for key in _CARRIED_KEYS
                if hasattr(config, key))
  if "classifier" in heads:
    num_labels = len(tensors["classifier.bias"])
    if len(values.get("id2label") or {}) != num_labels:
      labels = ["LABEL_%d" % index for index in range(num_labels)]
      values["id2label"] = dict(enumerate(labels))
      values["label2id"] = {label: i for i, label in enumerate(labels)}
  return values


# The command.


def main(_):
  """Converts as the flags say."""
  tf.logging.set_verbosity(tf.logging.INFO)
  if FLAGS.to == "average":
    average_checkpoints(FLAGS.input, FLAGS.output)
    return
  if len(FLAGS.input) != 1:
    raise ValueError("--input=%s: --to=%s takes one input."
                     % (",".join(FLAGS.input), FLAGS.to))
  if FLAGS.to == "slim":
    slim_checkpoint(FLAGS.input[0], FLAGS.output)
  elif FLAGS.to == "tensorflow":
    hugging_face_to_tensorflow(FLAGS.input[0], FLAGS.output)
  else:
    tensorflow_to_hugging_face(
        FLAGS.input[0], FLAGS.output, FLAGS.bert_config_file,
        FLAGS.vocab_file, FLAGS.do_lower_case)


if __name__ == "__main__":
  common_flags.DEFINE_enum(
      "to", None, ["slim", "average", "tensorflow", "huggingface"],
      "slim: a checkpoint without optimizer slots and global step. average: "
      "the mean of several. tensorflow: from a Hugging Face folder. "
      "huggingface: to one.")
  common_flags.DEFINE_list(
      "input", None,
      "What to convert: a checkpoint (a prefix, one of its files, or a "
      "directory whose newest is meant); for --to=average several, separated "
      "by commas; for --to=tensorflow a Hugging Face model's folder.")
  common_flags.DEFINE_string(
      "output", None,
      "What to write; must not exist yet. For --to=slim and average a "
      "checkpoint's prefix, such as /tmp/slim/bert_model.ckpt, otherwise a "
      "folder.")
  common_flags.DEFINE_string(
      "bert_config_file", None,
      "--to=huggingface: the model's bert_config.json. Unset: the one beside "
      "the checkpoint.")
  common_flags.DEFINE_string(
      "vocab_file", None,
      "--to=huggingface: the model's vocab.txt. Unset: the one beside the "
      "checkpoint.")
  common_flags.DEFINE_bool(
      "do_lower_case", None,
      "--to=huggingface: whether the tokenizer lower-cases. Unset: as noted "
      "when the model was converted here, else whether the vocabulary has no "
      "capital letters.")
  flags.mark_flags_as_required(["to", "input", "output"])
  common_flags.run(main)
