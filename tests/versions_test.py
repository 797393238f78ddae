"""Runs that another TensorFlow goes on with: `pytest tests/versions_test.py`.

BERT_OTHER_PYTHON names the Python of an environment with another TensorFlow;
without it, these tests are skipped.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
OTHER_PYTHON = os.environ.get("BERT_OTHER_PYTHON")

pytestmark = pytest.mark.skipif(
    not OTHER_PYTHON, reason="BERT_OTHER_PYTHON names no other Python.")


def run(python, output_dir, *flags):
  """run_classifier.py on the sample data, five steps an epoch."""
  data = str(ROOT / "sample_data")
  result = subprocess.run(
      [python, str(ROOT / "run_classifier.py"), "--task_name=custom",
       "--data_dir=" + data, "--vocab_file=" + data + "/vocab.txt",
       "--bert_config_file=" + data + "/bert_config.json",
       "--text_column=sentence", "--label_column=label",
       "--max_seq_length=32", "--train_batch_size=60", "--learning_rate=1e-3",
       "--seed=1", "--output_dir=" + str(output_dir)] + list(flags),
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  assert result.returncode == 0, result.stdout.decode()[-3000:]


def weights(folder, step):
  """dict of name to array, optimizer slots included."""
  reader = tf.train.load_checkpoint(
      os.path.join(str(folder), "model.ckpt-%d" % step))
  return {name: reader.get_tensor(name)
          for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("is_other_first", [True, False])
def test_a_run_goes_on_under_another_tensorflow(tmp_path, is_other_first):
  pythons = [sys.executable, OTHER_PYTHON]
  first, second = pythons[::-1] if is_other_first else pythons
  run(first, tmp_path / "one", "--do_train", "--num_train_epochs=1",
      "--do_predict")
  shutil.copytree(str(tmp_path / "one"), str(tmp_path / "two"))
  run(second, tmp_path / "two", "--do_predict")
  answers = [np.loadtxt(str(tmp_path / name / "test_results.tsv"))
             for name in ("one", "two")]
  np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-5)

  run(second, tmp_path / "two", "--do_train", "--num_train_epochs=2",
      "--do_eval")
  trained = weights(tmp_path / "one", 5)
  # A run writes down at once what it goes on from.
  resumed, end = weights(tmp_path / "two", 5), weights(tmp_path / "two", 10)
  assert set(resumed) == set(end) == set(trained)
  assert [name for name in trained if name.endswith("/adam_v")]
  for name, value in trained.items():
    np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    assert end[name].shape == value.shape
  assert (trained["global_step"], end["global_step"]) == (5, 10)
  results = (tmp_path / "two" / "eval_results.txt").read_text()
  assert "global_step = 10\n" in results
