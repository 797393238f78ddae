"""Trained models as TensorFlow SavedModels: written whole, read back checked.

  saved_models.write("/tmp/export", build_signatures, checkpoint, assets)
  signatures, settings, vocab_file = saved_models.load(session, "/tmp/export")

A model written here takes `input_ids`, `input_mask` and `segment_ids`, int32
[B, T] with any B and T, and no labels. TensorFlow Serving and
`tf.saved_model.load` read it. Vocabulary, config and settings lie beside it as
assets, so that `predictor.py` needs nothing else.
"""

import json
import os
import tempfile

import tensorflow.compat.v1 as tf

import input_pipeline
import modeling

# Files in the folder `assets`.
SETTINGS_FILE = "bert_export.json"
VOCAB_FILE = "vocab.txt"
CONFIG_FILE = "bert_config.json"

# Names of the model's inputs, in the order in which BertModel takes them.
INPUTS = ("input_ids", "input_mask", "segment_ids")


def check_export_dir(export_dir):
  """Whether a model can be written there; to be asked before the work.

  Args:
    export_dir: str or None, when nothing is to be exported.

  Raises:
    ValueError: there is something already.
  """
  if not export_dir or not tf.gfile.Exists(export_dir):
    return
  if not tf.gfile.IsDirectory(export_dir) or tf.gfile.ListDirectory(export_dir):
    raise ValueError(
        "--export_dir=%s is there already. Name a folder that does not exist "
        "(TensorFlow Serving wants a number for its last part, such as "
        "/models/bert/1), or delete it." % export_dir)


def make_assets(vocab_file, config, **settings):
  """What lies beside an exported model.

  Args:
    vocab_file: str, copied as it is.
    config: modeling.BertConfig.
    **settings: what else is needed to predict, JSON values by name; among
      them `kind` ("classifier", "squad", "features"), `do_lower_case` and
      `max_seq_length`.

  Returns:
    dict of file name to bytes.
  """
  with tf.gfile.GFile(vocab_file, "rb") as reader:
    vocab = reader.read()
  return {VOCAB_FILE: vocab,
          CONFIG_FILE: config.to_json_string().encode("utf-8"),
          SETTINGS_FILE: (json.dumps(settings, indent=2, sort_keys=True) +
                          "\n").encode("utf-8")}


def write(export_dir, build_signatures, checkpoint, assets):
  """Writes a model, whole or not at all.

  Args:
    export_dir: str, folder to make.
    build_signatures: function that builds the model, from a dict of the three
      inputs to a dict of signature name to dict of output name to tensor. One
      signature must be "serving_default".
    checkpoint: str or None, where the weights come from.
    assets: dict of file name to bytes.

  Raises:
    ValueError: the checkpoint lacks a variable that an output depends on, or
      one has another shape there.
  """
  if not checkpoint:
    raise ValueError(
        "There is no trained model to export: no checkpoint in --output_dir, "
        "and no --init_checkpoint.")
  with tf.Graph().as_default(), tf.Session() as session:
    inputs = {name: tf.placeholder(tf.int32, [None, None], name)
              for name in INPUTS}
    # TensorFlow 1 would make variables that TensorFlow 2 cannot load as such.
    with tf.variable_scope(tf.get_variable_scope(), use_resource=True):
      signatures = build_signatures(inputs)
    _restore(session, checkpoint, [
        tensor for outputs in signatures.values()
        for tensor in outputs.values()])
    with input_pipeline.atomic_folder(export_dir) as partial:
      _save(session, partial, inputs, signatures, assets)
  tf.logging.info("Exported the model of %s to %s", checkpoint, export_dir)


def _restore(session, checkpoint, outputs):
  """Gives the graph's variables their values.

  Those that no output depends on may be missing, as the pooler is in Hugging
  Face's models for question answering.

  Raises:
    ValueError: another one is missing, or a shape differs.
  """
  variables = tf.global_variables()
  coverage = modeling.compare_with_checkpoint(variables, checkpoint)
  used = {variable.op.name for variable in
          modeling.find_used_variables(outputs, variables)}
  unfit = [name for name in coverage.missing if name in used]
  unfit += [name for name, _, _ in coverage.mismatched]
  if unfit:
    raise ValueError(
        "The checkpoint %s cannot be exported: %d of the model's variables are "
        "not in it, or of another shape, for example %s. Give the --output_dir "
        "of the training run, with the flags it was trained with."
        % (checkpoint, len(unfit), unfit[-1]))
  stored = [v for v in variables if v.op.name not in coverage.missing]
  session.run(tf.variables_initializer(
      [v for v in variables if v.op.name in coverage.missing]))
  tf.train.Saver(stored).restore(
      session, modeling.resolve_checkpoint_path(checkpoint))


def _save(session, folder, inputs, signatures, assets):
  """Writes the session's graph and variables as a SavedModel."""
  with tempfile.TemporaryDirectory() as asset_folder:
    paths = []
    for name, content in assets.items():
      paths.append(os.path.join(asset_folder, name))
      with open(paths[-1], "wb") as writer:
        writer.write(content)
    builder = tf.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session, [tf.saved_model.SERVING],
        signature_def_map={
            name: tf.saved_model.predict_signature_def(inputs, outputs)
            for name, outputs in signatures.items()},
        assets_collection=[
            tf.constant(path, name="asset") for path in paths],
        strip_default_attrs=True)
    builder.save()


def load(session, export_dir):
  """Loads a model into a session's graph.

  Args:
    session: tf.Session.
    export_dir: str.

  Returns:
    (signatures, settings, vocab_file): dict of name to SignatureDef; dict of
    what `make_assets` was given; str, path.

  Raises:
    ValueError: a file is missing or damaged, vocabulary and model do not
      belong together, or a newer TensorFlow wrote the model.
  """
  _check_files(export_dir)
  settings = _read_json(os.path.join(export_dir, "assets", SETTINGS_FILE))
  _check_vocab(export_dir)
  try:
    with session.graph.as_default():
      meta_graph = tf.saved_model.loader.load(
          session, [tf.saved_model.SERVING], export_dir)
  except (tf.errors.OpError, RuntimeError, OSError, ValueError) as error:
    raise ValueError(_why_not_loaded(export_dir, error)) from None
  return (meta_graph.signature_def, settings,
          os.path.join(export_dir, "assets", VOCAB_FILE))


def _why_not_loaded(export_dir, error):
  """The message for an error that TensorFlow met in loading a model."""
  reason = str(error).split("\n")[0]
  version = _exporting_version(export_dir)
  if version and _major_minor(version) > _major_minor(tf.__version__):
    return ("The model in %s was exported with TensorFlow %s, and this one, "
            "%s, cannot read it. Export it with this one (--export_dir): newer "
            "ones read what older ones wrote. TensorFlow's reason: %s"
            % (export_dir, version, tf.__version__, reason))
  return ("The model in %s cannot be loaded, a file in it is damaged: %s. "
          "Export it again with --export_dir." % (export_dir, reason))


def _exporting_version(export_dir):
  """The version of TensorFlow that wrote a model; None if it is damaged."""
  # No public name has this message; protobuf comes with TensorFlow.
  from google.protobuf.message import DecodeError
  from tensorflow.core.protobuf import saved_model_pb2
  with tf.gfile.GFile(os.path.join(export_dir, "saved_model.pb"), "rb") as file:
    content = file.read()
  try:
    model = saved_model_pb2.SavedModel.FromString(content)
  except DecodeError:
    return None
  return (model.meta_graphs[0].meta_info_def.tensorflow_version
          if model.meta_graphs else None)


def _major_minor(version):
  """ "2.15.1" or "2.16.0-rc1" -> [2, 15] or [2, 16]."""
  return [int(number) for number in version.split(".")[:2]]


def _check_files(export_dir):
  if not tf.gfile.IsDirectory(export_dir):
    raise ValueError("There is no folder %s (--export_dir)." % export_dir)
  for name in ("saved_model.pb", "variables/variables.index",
               "assets/" + SETTINGS_FILE, "assets/" + VOCAB_FILE,
               "assets/" + CONFIG_FILE):
    if not tf.gfile.Exists(os.path.join(export_dir, name)):
      raise ValueError(
          "%s is not a whole model that was exported here: it has no %s. "
          "Export it again with --export_dir." % (export_dir, name))


def _read_json(path):
  with tf.gfile.GFile(path, "r") as reader:
    text = reader.read()
  try:
    return json.loads(text)
  except ValueError as error:
    raise ValueError("%s is damaged: %s" % (path, error)) from None


def _check_vocab(export_dir):
  """Compares the number of lines with the model's embeddings."""
  assets = os.path.join(export_dir, "assets")
  config = _read_json(os.path.join(assets, CONFIG_FILE))
  size = sum(1 for _ in input_pipeline.read_text_lines(
      os.path.join(assets, VOCAB_FILE)))
  if size > config["vocab_size"]:
    raise ValueError(
        "%s: %s has %d tokens and the model %d. They do not belong together."
        % (assets, VOCAB_FILE, size, config["vocab_size"]))
