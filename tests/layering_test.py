"""Keeps the modules in their layers: imports, TensorFlow use and FLAGS reads.

Leaves import no project module, estimators imports modeling, scripts import
leaves and estimators, never each other. `violations` holds the rules and takes
source text, so every rule is shown to bite on a small snippet; then it is run
on the project's files.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What each module may import from the project.
ALLOWED_IMPORTS = {
    "__init__": set(),
    "modeling": {"compiled_functions", "fused_ops", "onednn_ops"},
    # Compiled chains of elementwise operations, for the model in training.
    "fused_ops": {"compiled_functions", "onednn_ops"},
    "onednn_ops": {"compiled_functions"},
    # Where XLA compiles, for those who have parts of a graph compiled.
    "compiled_functions": set(),
    "tokenization": set(),
    "optimization": {"compiled_functions"},
    "input_pipeline": set(),
    "common_flags": set(),
    # Questions and answers as text and logits, for run_squad and predictor.
    "squad": {"tokenization", "input_pipeline"},
    # Trained models on disk, for the scripts that export and for predictor.
    "saved_models": {"modeling", "input_pipeline"},
    # Estimator made of sessions, where TensorFlow has none.
    "session_estimator": set(),
    # input_pipeline for its safe way of writing a file.
    "estimators": {
        "modeling", "input_pipeline", "session_estimator",
        "compiled_functions"},
    "create_pretraining_data": {
        "tokenization", "input_pipeline", "common_flags"},
    "run_pretraining": {
        "modeling", "fused_ops", "optimization", "input_pipeline",
        "common_flags", "estimators"},
    "run_classifier": {
        "modeling", "tokenization", "optimization", "input_pipeline",
        "common_flags", "estimators", "saved_models"},
    "run_squad": {
        "modeling", "tokenization", "optimization", "input_pipeline",
        "common_flags", "estimators", "squad", "saved_models"},
    "extract_features": {
        "modeling", "tokenization", "input_pipeline", "common_flags",
        "estimators", "saved_models"},
    "predictor": {
        "tokenization", "input_pipeline", "common_flags", "squad",
        "saved_models"},
    "convert_checkpoint": {"modeling", "input_pipeline", "common_flags"},
}
SCRIPTS = {
    "create_pretraining_data", "run_pretraining", "run_classifier",
    "run_squad", "extract_features", "predictor", "convert_checkpoint",
}
PROJECT_NAMES = set(ALLOWED_IMPORTS) | {"tests", "benchmarks"}

# Parts of TensorFlow that nobody uses; `estimator` is for one module only.
FORBIDDEN_PARTS = {"contrib", "layers", "keras"}
FORBIDDEN_PACKAGES = {"keras", "tf_keras", "tensorflow_estimator"}

# Given FLAGS as an argument, these look at the flags' names, not their values.
TAKE_FLAG_NAMES = {"list", "set", "sorted", "leftover_argument_warnings"}

# One declares a flag that hands its value on to another, one parses them all.
HANDLE_ALL_FLAGS = ("common_flags", {"define_alias", "_parse_flags"})

MAIN_OR_VALIDATION = {"main", "validate_flags_or_throw"}


def violations(module, source):
  """Lists what `source`, the text of `<module>.py`, may not do.

  Args:
    module: name of the module, without ".py".
    source: its Python text.

  Returns:
    Messages "<module>.py:<line>: <what is wrong>"; none when all is well.
  """
  if module not in ALLOWED_IMPORTS:
    return ["%s.py:1: unknown module; say in tests/layering_test.py's "
            "ALLOWED_IMPORTS what it may import (and in SCRIPTS if it is one)"
            % module]
  tree = ast.parse(source)
  found = (_import_violations(module, tree) +
           _tensorflow_violations(module, tree) +
           _flags_violations(module, tree))
  return ["%s.py:%d: %s" % (module, line, message)
          for line, message in sorted(found)]


def _imports(tree):
  """Yields (line, dotted name, name it is bound to) of every import."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield (node.lineno, alias.name,
               alias.asname or alias.name.split(".")[0])
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        dotted = ".".join(filter(None, [node.module, alias.name]))
        yield node.lineno, dotted, alias.asname or alias.name
    elif isinstance(node, ast.Call) and node.args:
      name = getattr(node.func, "attr", getattr(node.func, "id", None))
      if name in ("import_module", "__import__"):
        for value in _literals(node.args[0]):
          yield node.lineno, str(value).lstrip("."), None


def _literals(node):
  """list of the value that a literal stands for; of nothing for other nodes."""
  try:
    return [ast.literal_eval(node)]
  except ValueError:
    return []


def _import_violations(module, tree):
  found = []
  for line, dotted, _ in _imports(tree):
    imported = dotted.split(".")[0]
    if module in SCRIPTS and imported in SCRIPTS:
      found.append((line, "a script imports the script %s" % imported))
    elif imported in PROJECT_NAMES - ALLOWED_IMPORTS[module]:
      found.append((line, "may not import %s" % imported))
    elif module == "common_flags" and imported == "tensorflow":
      found.append((line, "common_flags works without TensorFlow"))
  return found


def _tensorflow_violations(module, tree):
  forbidden = set(FORBIDDEN_PARTS)
  packages = set(FORBIDDEN_PACKAGES)
  if module == "estimators":
    packages.discard("tensorflow_estimator")
  else:
    forbidden.add("estimator")
  found = []
  tensorflow_names = set()
  for line, dotted, bound_name in _imports(tree):
    package = dotted.split(".")[0]
    if package == "tensorflow":
      tensorflow_names.add(bound_name)
      for part in forbidden.intersection(dotted.split(".")):
        found.append((line, "uses TensorFlow's %s" % part))
    elif package in packages:
      found.append((line, "uses %s" % package))
  for node in ast.walk(tree):
    part = _part_taken(node, tensorflow_names)
    if part in forbidden:
      found.append((node.lineno, "uses TensorFlow's %s" % part))
  return found


def _part_taken(node, roots):
  """The `x` of `tf.x`, `tf.compat.x`, `getattr(tf, "x")`, otherwise None."""
  if isinstance(node, ast.Attribute):
    part, owner = node.attr, node.value
  elif (isinstance(node, ast.Call) and len(node.args) > 1 and
        getattr(node.func, "id", None) == "getattr" and
        _literals(node.args[1])):
    owner, part = node.args[0], _literals(node.args[1])[0]
  else:
    return None
  while isinstance(owner, ast.Attribute):
    owner = owner.value
  return part if getattr(owner, "id", None) in roots else None


def _flags_violations(module, tree):
  parents = {child: node for node in ast.walk(tree)
             for child in ast.iter_child_nodes(node)}
  found = [(line, "imports FLAGS under another name")
           for line, dotted, bound_name in _imports(tree)
           if dotted.endswith("flags.FLAGS") and bound_name != "FLAGS"]
  readers = set()
  for node in ast.walk(tree):
    if not _mentions_flags(node) or _asks_for_names(node, parents):
      continue
    if module not in SCRIPTS:
      functions = _enclosing_functions(node, parents)
      names = [function.name for function in functions]
      if (module == HANDLE_ALL_FLAGS[0] and
          HANDLE_ALL_FLAGS[1].intersection(names)):
        continue
      found.append((node.lineno, "FLAGS is for scripts"))
      continue
    functions = _enclosing_functions(node, parents)
    if _binds_flags(node, parents) and not functions:
      continue
    if functions and _may_read_flags(functions[-1].name):
      if _looked_up(node, parents) is None:
        readers.add(functions[-1].name)
    elif not _resolves_keyword(node, functions, parents):
      found.append((node.lineno, "reads FLAGS outside main; take a trailing "
                    'keyword `x=None` and resolve it as FLAGS["x"].value'))
  return found + _indirect_reads(tree, parents, readers - MAIN_OR_VALIDATION)


def _may_read_flags(function_name):
  return function_name in MAIN_OR_VALIDATION or function_name.startswith("_")


def _mentions_flags(node):
  """Whether `node` is `FLAGS` (not as an assignment's target) or `x.FLAGS`."""
  if isinstance(node, ast.Name):
    return node.id == "FLAGS" and isinstance(node.ctx, ast.Load)
  return isinstance(node, ast.Attribute) and node.attr == "FLAGS"


def _binds_flags(node, parents):
  """Whether `node` is the right-hand side of `FLAGS = flags.FLAGS`."""
  parent = parents[node]
  return (isinstance(parent, ast.Assign) and parent.value is node and
          all(getattr(target, "id", None) == "FLAGS"
              for target in parent.targets))


def _asks_for_names(node, parents):
  """Whether `node` is in `name in FLAGS` or the like, which reads no value."""
  parent = parents[node]
  if isinstance(parent, ast.Call):
    return (node in parent.args and
            getattr(parent.func, "id", None) in TAKE_FLAG_NAMES)
  return (isinstance(parent, ast.Compare) and node is not parent.left and
          all(isinstance(op, (ast.In, ast.NotIn)) for op in parent.ops))


def _looked_up(node, parents):
  """The index in `FLAGS[index].value`, which works unparsed, or None."""
  subscript = parents[node]
  if not isinstance(subscript, ast.Subscript) or subscript.value is not node:
    return None
  if getattr(parents[subscript], "attr", None) != "value":
    return None
  index = subscript.slice
  # Before Python 3.9 there is a node in between.
  return index.value if type(index).__name__ == "Index" else index


def _resolves_keyword(node, functions, parents):
  """Whether a keyword of default None is given its flag's value at `node`."""
  names_looked_up = _literals(_looked_up(node, parents))
  for function in functions:
    arguments = function.args
    names = [a.arg for a in arguments.args[::-1]]
    with_default = list(zip(names, arguments.defaults[::-1]))
    with_default += zip((a.arg for a in arguments.kwonlyargs),
                        arguments.kw_defaults)
    if any(argument in names_looked_up and _literals(default) == [None]
           for argument, default in with_default):
      return True
  return False


def _enclosing_functions(node, parents):
  """The functions that `node` is in, the outermost last."""
  functions = []
  while node in parents:
    node = parents[node]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      functions.append(node)
  return functions


def _indirect_reads(tree, parents, readers):
  """Public functions that use a private helper which reads FLAGS.

  A helper that uses such a helper counts as one, so the set grows until a
  pass over the tree adds nothing.
  """
  while True:
    uses = [(node.lineno, functions[-1].name, used)
            for node in ast.walk(tree)
            for used in [getattr(node, "id", getattr(node, "attr", None))]
            for functions in [_enclosing_functions(node, parents)]
            if used in readers and functions]
    more = {user for _, user, _ in uses if user.startswith("_")} - readers
    if not more:
      return [(line, "%s uses %s, which reads FLAGS" % (user, used))
              for line, user, used in uses if not _may_read_flags(user)]
    readers = readers | more


def _modules():
  return sorted(path.stem for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("module", _modules())
def test_module_keeps_to_its_layer(module):
  source = (ROOT / (module + ".py")).read_text(encoding="utf-8")
  assert violations(module, source) == []


def test_the_table_lists_the_modules_that_exist():
  # The reverse does not hold: the table is ahead of scripts to come.
  assert set(_modules()) <= set(ALLOWED_IMPORTS)
  assert SCRIPTS < set(ALLOWED_IMPORTS)


REJECTED = [
    # Imports.
    ("modeling", "import tokenization", "may not import tokenization"),
    ("optimization", "from modeling import gelu", "may not import modeling"),
    ("estimators", "import optimization", "may not import optimization"),
    ("estimators", "import run_squad", "may not import run_squad"),
    ("run_pretraining", "import tokenization", "may not import tokenization"),
    ("create_pretraining_data", "import modeling", "may not import modeling"),
    ("modeling", "from . import tokenization", "may not import tokenization"),
    ("modeling", "from .tokenization import x", "may not import tokenization"),
    ("modeling", "def f():\n  import estimators", "modeling.py:2: may not"),
    ("modeling", "try:\n  import estimators\nexcept ImportError: pass",
     "may not import estimators"),
    ("modeling", "import os, estimators", "may not import estimators"),
    ("modeling", "importlib.import_module('estimators')", "may not import"),
    ("modeling", "__import__('estimators')", "may not import estimators"),
    ("run_squad", "import benchmarks.speed", "may not import benchmarks"),
    ("run_squad", "from tests import conftest", "may not import tests"),
    ("run_squad", "import run_classifier",
     "a script imports the script run_classifier"),
    ("run_squad", "def main(_):\n  from run_classifier import create_model",
     "a script imports the script run_classifier"),
    ("helpers", "", "unknown module; say in tests/layering_test.py"),
    ("common_flags", "import tensorflow.compat.v1 as tf",
     "works without TensorFlow"),
    ("common_flags", "def f():\n  from tensorflow import flags",
     "works without TensorFlow"),
    # TensorFlow.
    ("run_squad", "import tensorflow.compat.v1 as tf\ntf.estimator.ModeKeys",
     "run_squad.py:2: uses TensorFlow's estimator"),
    ("modeling", "import tensorflow\ntensorflow.compat.v1.estimator",
     "uses TensorFlow's estimator"),
    ("modeling", "import tensorflow as t\ngetattr(t, 'estimator')",
     "uses TensorFlow's estimator"),
    ("modeling", "from tensorflow.compat.v1 import estimator",
     "uses TensorFlow's estimator"),
    ("modeling", "import tensorflow_estimator", "uses tensorflow_estimator"),
    ("modeling", "import tensorflow.compat.v1 as tf\ntf.layers.dense(x, 2)",
     "uses TensorFlow's layers"),
    ("estimators", "import tensorflow as tf\ntf.contrib.tpu.RunConfig()",
     "uses TensorFlow's contrib"),
    ("modeling", "import tensorflow as tf\ntf.keras.Model()",
     "uses TensorFlow's keras"),
    ("modeling", "from tensorflow import keras", "uses TensorFlow's keras"),
    ("estimators", "import keras", "uses keras"),
    ("modeling", "import tf_keras", "uses tf_keras"),
    # FLAGS.
    ("modeling", "from absl import flags\nFLAGS = flags.FLAGS",
     "FLAGS is for scripts"),
    ("estimators", "def _f():\n  return flags.FLAGS.output_dir",
     "FLAGS is for scripts"),
    ("common_flags", "def f():\n  return flags.FLAGS.seed",
     "FLAGS is for scripts"),
    ("common_flags", "def f():\n  return vars(flags.FLAGS)",
     "FLAGS is for scripts"),
    ("run_squad", "def f():\n  return FLAGS.seed", "outside main"),
    ("run_squad", "def f():\n  return flags.FLAGS.seed", "outside main"),
    ("run_squad", "LIMIT = FLAGS.seed", "outside main"),
    ("run_squad", "def f(seed=FLAGS.seed): pass", "outside main"),
    ("run_squad", "def f():\n  def main():\n    return FLAGS.seed",
     "outside main"),
    ("run_squad", "class C:\n  def f(self):\n    return FLAGS.seed",
     "outside main"),
    ("run_squad", "def f():\n  values = FLAGS\n  return values.seed",
     "outside main"),
    ("run_squad", "def f():\n  return FLAGS['seed'].value", "outside main"),
    ("run_squad", "def f(seed):\n  return FLAGS['seed'].value",
     "outside main"),
    ("run_squad", "def f(seed=None):\n  return FLAGS['other'].value",
     "outside main"),
    ("run_squad", "def f(seed=None):\n  return FLAGS['seed'].default",
     "outside main"),
    ("run_squad", "from absl.flags import FLAGS as F", "under another name"),
    ("run_squad",
     "def _seed():\n  return FLAGS.seed\ndef public():\n  return _seed()",
     "run_squad.py:4: public uses _seed, which reads FLAGS"),
    ("run_squad",
     "def _a():\n  return FLAGS.seed\ndef _b():\n  return _a()\n"
     "def public():\n  return map(_b, [1])",
     "public uses _b, which reads FLAGS"),
]


@pytest.mark.parametrize("module,source,message", REJECTED)
def test_violation_is_found(module, source, message):
  found = violations(module, source)
  assert len(found) == 1
  assert message in found[0]


ACCEPTED = [
    ("estimators", "import modeling\nimport tensorflow.compat.v1 as tf\n"
     "tf.estimator.tpu.TPUEstimator"),
    ("run_squad", "import modeling, tokenization, optimization\n"
     "import input_pipeline, common_flags, estimators, os, collections"),
    ("modeling", "import tensorflow.compat.v1 as tf\n"
     "config.layers + tf.nn.relu(self.estimator)"),
    ("common_flags", "def define(alias):\n  if alias not in flags.FLAGS:\n"
     "    flags.DEFINE_alias(alias, 'x')"),
    ("common_flags", "leftover_argument_warnings(argv, flags.FLAGS)"),
    ("run_squad", "FLAGS = flags.FLAGS\ndef main(_):\n  print(FLAGS.seed)"),
    ("run_squad", "def validate_flags_or_throw(config):\n  FLAGS.seed"),
    ("run_squad", "def _train():\n  FLAGS.seed\ndef main(_):\n  _train()"),
    ("run_squad", "def _train():\n  def input_fn():\n    return FLAGS.seed"),
    ("run_squad", "def f(x, seed=None):\n  if seed is None:\n"
     "    seed = FLAGS['seed'].value"),
    ("run_squad", "def f(x, *, y, seed=None):\n  FLAGS['seed'].value"),
    ("create_pretraining_data",
     "def _resolved(value, name):\n"
     "  return FLAGS[name].value if value is None else value\n"
     "def f(seed=None):\n  return _resolved(seed, 'seed')"),
]


@pytest.mark.parametrize("module,source", ACCEPTED)
def test_permitted_code_passes(module, source):
  assert violations(module, source) == []


# Runs in a fresh process: pytest's own has state of other tests.
IMPORT_ALL = """
import importlib, logging, os, random, sys
import numpy as np
import tensorflow.compat.v1 as tf
from absl import flags, logging as absl_logging

def state():
  return {
      "operations in the default graph":
          len(tf.get_default_graph().get_operations()),
      "eager execution": getattr(
          tf, "executing_eagerly_outside_functions", tf.executing_eagerly)(),
      "control flow version": tf.control_flow_v2_enabled(),
      "TensorFlow's verbosity": tf.logging.get_verbosity(),
      "absl's verbosity": absl_logging.get_verbosity(),
      "root logger": (logging.root.level, list(logging.root.handlers)),
      "flags parsed": flags.FLAGS.is_parsed(),
      "command line": list(sys.argv),
      "environment": dict(os.environ),
      "random states": (random.getstate(), str(np.random.get_state())),
  }

# Outside of a graph, operations would run at once and leave no trace.
graph = tf.Graph().as_default()
graph.__enter__()
before = state()
for round in ("import", "reload"):
  for name in sys.argv[1:]:
    if round == "import":
      importlib.import_module(name)
    else:
      importlib.reload(sys.modules[name])
    after = state()
    for key, value in before.items():
      assert after[key] == value, "%s of %s changes: %s" % (round, name, key)
"""


def test_importing_every_module_changes_nothing():
  result = subprocess.run(
      [sys.executable, "-c", IMPORT_ALL] + _modules(), cwd=str(ROOT),
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  assert result.returncode == 0, result.stdout[-2000:]
