"""Tests of common_flags.py: `pytest tests/common_flags_test.py`.

What concerns whole scripts runs in one other process (`probe`), because flags
and log handlers are shared by everything in a process.
"""

import json
import logging
import pathlib
import subprocess
import sys

import pytest
from absl import flags

import common_flags

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)

# Name, type and default of every flag of the original, script by script.
MODEL = [("bert_config_file", "string", None), ("init_checkpoint", "string",
                                                None)]
TOKENIZER = [("vocab_file", "string", None), ("do_lower_case", "bool", True)]
TRAINING = [
    ("output_dir", "string", None), ("do_train", "bool", False),
    ("train_batch_size", "int", 32), ("learning_rate", "float", 5e-5),
    ("save_checkpoints_steps", "int", 1000),
    ("iterations_per_loop", "int", 1000),
]
FINE_TUNING = [("num_train_epochs", "float", 3.0),
               ("warmup_proportion", "float", 0.1)]
EVALUATION = [("do_eval", "bool", False), ("eval_batch_size", "int", 8)]
PREDICTION = [("do_predict", "bool", False), ("predict_batch_size", "int", 8)]
TPU = [
    ("use_tpu", "bool", False), ("tpu_name", "string", None),
    ("tpu_zone", "string", None), ("gcp_project", "string", None),
    ("master", "string", None), ("num_tpu_cores", "int", 8),
]
FLAGS_OF = {
    "run_classifier": MODEL + TOKENIZER + TRAINING + FINE_TUNING +
                      EVALUATION + PREDICTION + TPU + [
                          ("max_seq_length", "int", 128),
                          ("data_dir", "string", None),
                          ("task_name", "string", None)],
    "run_squad": MODEL + TOKENIZER + TRAINING + FINE_TUNING + PREDICTION +
                 TPU + [
                     ("max_seq_length", "int", 384),
                     ("train_file", "string", None),
                     ("predict_file", "string", None),
                     ("doc_stride", "int", 128),
                     ("max_query_length", "int", 64),
                     ("n_best_size", "int", 20),
                     ("max_answer_length", "int", 30),
                     ("verbose_logging", "bool", False),
                     ("version_2_with_negative", "bool", False),
                     ("null_score_diff_threshold", "float", 0.0)],
}

PROBE = """
import importlib, json, logging, sys
from absl import flags
FLAGS = flags.FLAGS

def table():
  return {name: [FLAGS[name].flag_type(), FLAGS[name].default]
          for name in FLAGS}

result = {}
import run_classifier
result["run_classifier"] = table()
result["tf_logger_filters"] = len(logging.getLogger("tensorflow").filters)
result["parsed"] = FLAGS.is_parsed()
result["key flags"] = sorted(
    flag.name for flag in FLAGS.get_key_flags_for_module(run_classifier))
import run_squad
result["run_squad"] = table()
for name, argument in [("do_lower", "--do_lower=False"),
                       ("nodo_lower", "--nodo_lower")]:
  FLAGS.unparse_flags()
  FLAGS.do_lower_case = True
  FLAGS(["run_squad", argument])
  result[name] = FLAGS.do_lower_case
FLAGS(["run_squad", "--do_lower_case=False", "--max_seq_length=7",
       "--labels=a,b"])
importlib.reload(run_classifier)
importlib.reload(run_squad)
result["reloaded"] = [FLAGS.do_lower_case, FLAGS.max_seq_length, FLAGS.labels]
json.dump(result, sys.stdout)
"""


@pytest.fixture(scope="module")
def probe():
  process = subprocess.run(
      [sys.executable, "-c", PROBE], cwd=ROOT, stdout=subprocess.PIPE,
      check=True, universal_newlines=True)
  return json.loads(process.stdout)


@pytest.mark.parametrize("script", FLAGS_OF)
def test_original_flags_keep_name_type_and_default(probe, script):
  for name, kind, default in FLAGS_OF[script]:
    assert probe[script][name] == [kind, default], name


def test_help_lists_the_shared_flags_under_the_script(probe):
  names = {name for name, _, _ in FLAGS_OF["run_classifier"]}
  assert names <= set(probe["key flags"])


def test_importing_scripts_parses_no_flag_and_touches_no_logger(probe):
  assert probe["parsed"] is False
  assert probe["tf_logger_filters"] == 0


def test_do_lower_is_an_alias_in_both_spellings(probe):
  assert probe["do_lower"] is False
  assert probe["nodo_lower"] is False


def test_reloading_a_script_keeps_parsed_values(probe):
  assert probe["reloaded"] == [False, 7, ["a", "b"]]


def test_a_second_script_in_the_process_declares_its_flags(probe):
  assert probe["run_squad"]["doc_stride"] == ["int", 128]
  assert probe["run_squad"]["task_name"] == ["string", None]


# What flag parsing leaves over.


NAMES = ["do_lower_case", "do_predict", "do_train", "train_batch_size"]


def warnings_of(leftovers, typed=()):
  return common_flags.leftover_argument_warnings(
      leftovers, NAMES, ["prog"] + list(typed))


def test_nothing_left_over_is_no_warning():
  assert warnings_of([], ["--do_train"]) == []


@pytest.mark.parametrize("argument, nearest", [
    ("--dopredict", "--do_predict"),
    ("--do-lower-case=False", "--do_lower_case"),
    ("-train_batchsize=3", "--train_batch_size"),
])
def test_an_unknown_flag_comes_with_the_nearest_name(argument, nearest):
  (message,) = warnings_of([argument])
  assert "`%s`" % argument in message
  assert "%s?" % nearest in message


def test_a_flag_like_no_other_comes_without_a_name():
  (message,) = warnings_of(["--xyzzy"])
  assert "--xyzzy" in message and "mean" not in message


def test_a_word_after_a_boolean_flag_is_explained():
  (message,) = warnings_of(["False"], ["--do_lower_case", "False"])
  assert "--do_lower_case False" in message
  assert "--do_lower_case=False" in message


def test_each_of_several_words_is_blamed_on_its_own_flag():
  typed = ["--do_train", "True", "--do_predict", "True"]
  first, second = warnings_of(["True", "True"], typed)
  assert "--do_train=True" in first
  assert "--do_predict=True" in second


def test_a_stray_word_is_named():
  (message,) = warnings_of(["MRPC"], ["MRPC", "--do_train"])
  assert "`MRPC`" in message and "--do_train" not in message


# Running a script.


@pytest.fixture
def log():
  """Messages of the "tensorflow" logger, which is restored afterwards."""
  logger = logging.getLogger("tensorflow")
  before = (logger.propagate, list(logger.filters), logger.level)
  lines = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  yield lines
  logger.removeHandler(handler)
  logger.propagate, logger.filters[:], level = before
  logger.setLevel(level)


def raiser_in(folder, error):
  """A `main` that raises `error`, in code of a file in `folder`."""
  code = compile("def main(argv):\n  raise error", folder + "/script.py",
                 "exec")
  namespace = {"error": error}
  exec(code, namespace)
  return namespace["main"]


def test_a_value_error_of_the_project_ends_the_run_with_its_message(log):
  main = common_flags.script_main(raiser_in(ROOT, ValueError("x.tsv: bad")))
  with pytest.raises(SystemExit) as exit_info:
    main(["prog"])
  # A str as the code: printed on standard error, and the status is 1.
  assert exit_info.value.code == "ERROR: x.tsv: bad"


@pytest.mark.parametrize("folder, error", [
    ("/elsewhere", ValueError("deep inside")),
    (ROOT + "/subfolder", ValueError("deep inside")),
    (ROOT, KeyError("deep inside")),
])
def test_every_other_error_keeps_its_traceback(log, folder, error):
  main = common_flags.script_main(raiser_in(folder, error))
  with pytest.raises(type(error), match="deep inside"):
    main(["prog"])


def test_main_gets_its_arguments_and_its_result_is_passed_on(log):
  main = common_flags.script_main(lambda argv: argv + ["done"])
  assert main(["prog"]) == ["prog", "done"]


def test_leftover_arguments_are_logged_before_main_runs(log):
  common_flags.script_main(lambda argv: log.append("main"))(
      ["prog", "--xyzzy"])
  assert "--xyzzy" in log[0]
  assert log[1:] == ["main"]


def test_notices_of_deprecation_are_dropped_and_others_are_not(log):
  def main(argv):
    del argv
    logger = logging.getLogger("tensorflow")
    logger.warning("%s is deprecated and will be removed", "f")
    logger.warning("kept")

  common_flags.script_main(main)(["prog"])
  assert log == ["kept"]


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import tensorflow.compat.v1 as tf
from absl import flags
import common_flags
common_flags.define_training_flags()

def main(_):
  tf.logging.set_verbosity(tf.logging.INFO)
  tf.logging.info("a line of the run")
  raise ValueError("foreign")

flags.mark_flag_as_required("output_dir")
common_flags.run(main)
"""


def run_script(folder, *arguments):
  return subprocess.run(
      [sys.executable, "-c", SCRIPT.format(root=ROOT), *arguments],
      cwd=str(folder), stderr=subprocess.PIPE, universal_newlines=True)


@pytest.mark.parametrize("arguments, flag", [
    ((), "--output_dir"), (("--output_dir=o", "--log_steps=x"), "--log_steps")])
def test_a_command_line_that_cannot_be_ends_without_a_stack(
    tmp_path, arguments, flag):
  process = run_script(tmp_path, *arguments)
  assert process.returncode == 1
  assert "\nERROR: flag %s=" % flag in "\n" + process.stderr
  assert "Traceback" not in process.stderr


def test_log_lines_reach_standard_error_once(tmp_path):
  process = run_script(tmp_path, "--output_dir=o", "--do_trian")
  assert process.returncode != 0
  assert process.stderr.count("a line of the run") == 1
  assert process.stderr.count("Did you mean --do_train?") == 1
  assert "Traceback" in process.stderr


def test_declaring_all_groups_twice_is_harmless():
  saved = {name: flags.FLAGS[name] for name in flags.FLAGS}
  try:
    for _ in range(2):
      common_flags.define_model_flags()
      common_flags.define_tokenizer_flags(64)
      common_flags.define_training_flags()
      common_flags.define_fine_tuning_flags()
      common_flags.define_evaluation_flags()
      common_flags.define_prediction_flags()
      common_flags.define_tpu_flags()
    assert flags.FLAGS["max_seq_length"].default == 64
  finally:
    # Other tests in this process rely on their scripts' defaults.
    for name in list(flags.FLAGS):
      if name in saved:
        flags.FLAGS.__dict__["__flags"][name] = saved[name]
      else:
        delattr(flags.FLAGS, name)
