"""Checks what quickstart.sh rests on: the sample data, and setup_env.sh.

The latter is run with Pythons that only say of which version they are.
"""

import collections
import csv
import json
import pathlib
import shutil
import string
import subprocess
import sys

import pytest

import tokenization

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLE_DATA = ROOT / "sample_data"
LABELS = ["complaint", "question", "thanks"]
# quickstart.sh passes --max_seq_length=32, [CLS] and [SEP] included.
MAX_TOKENS = 30


def _rows(name):
  path = SAMPLE_DATA / (name + ".tsv")
  with path.open(encoding="utf-8", newline="") as lines:
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _sentences(name):
  return [row["sentence"] for row in _rows(name)]


def _vocabulary():
  return (SAMPLE_DATA / "vocab.txt").read_text(encoding="utf-8").splitlines()


def test_vocabulary_opens_with_the_special_tokens():
  assert _vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_vocabulary_has_no_blank_or_repeated_entry():
  vocabulary = _vocabulary()
  assert len(set(vocabulary)) == len(vocabulary)
  assert all(token and token == token.strip() for token in vocabulary)


def test_every_lower_case_ascii_word_can_be_spelled():
  characters = string.ascii_lowercase + string.digits
  needed = set(characters + string.punctuation)
  needed.update("##" + character for character in characters)
  assert needed - set(_vocabulary()) == set()


def test_configuration_fits_the_vocabulary():
  config = json.loads((SAMPLE_DATA / "bert_config.json").read_text())
  assert config["vocab_size"] == len(_vocabulary())
  assert config["hidden_size"] % config["num_attention_heads"] == 0
  assert config["max_position_embeddings"] >= MAX_TOKENS + 2


@pytest.mark.parametrize("name,columns,rows", [
    ("train", ["sentence", "label"], 300),
    ("dev", ["sentence", "label"], 100),
    ("test", ["sentence"], 64),
])
def test_file_has_its_columns_and_rows(name, columns, rows):
  found = _rows(name)
  assert len(found) == rows
  for row in found:
    assert list(row) == columns
    assert all(value and value == value.strip() for value in row.values())


@pytest.mark.parametrize("name,smallest", [("train", 100), ("dev", 33)])
def test_labels_are_known_and_balanced(name, smallest):
  counts = collections.Counter(row["label"] for row in _rows(name))
  assert sorted(counts) == LABELS
  assert min(counts.values()) == smallest


def _words(sentence):
  words = tokenization.BasicTokenizer().tokenize(sentence)
  return " ".join(words).strip(".? !")


def test_no_sentence_occurs_twice_in_or_across_the_files():
  sentences = [_words(sentence) for name in ("train", "dev", "test")
               for sentence in _sentences(name)]
  counts = collections.Counter(sentences)
  assert [sentence for sentence, n in counts.items() if n > 1] == []


def test_vocabulary_counts_as_uncased():
  # One entry with a capital, and the scripts take the model for a cased one.
  assert [token for token in _vocabulary()[5:] if token != token.lower()] == []


def test_sentences_become_known_tokens_that_fit():
  tokenizer = tokenization.FullTokenizer(str(SAMPLE_DATA / "vocab.txt"))
  for name in ("train", "dev", "test"):
    for sentence in _sentences(name):
      tokens = tokenizer.tokenize(sentence)
      assert "[UNK]" not in tokens
      assert len(tokens) <= MAX_TOKENS


# setup_env.sh.


def make_python(path, version, has_venv=True):
  """Writes a program that answers `-c CODE` like a Python of that version."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
      "#!/bin/sh\nshift; code=$1; shift\n"
      "exec '%s' -c \"import sys; sys.version_info = (%s, 0)\n"
      '%s$code" "$@"\n'
      % (sys.executable, version.replace(".", ", "),
         "" if has_venv else "sys.modules['ensurepip'] = None\n"))
  path.chmod(0o755)


def bash(folder, command, **variables):
  """Runs a command after a copy of setup_env.sh, with `folder/bin` as PATH."""
  (folder / "bin").mkdir(exist_ok=True)
  for name in ("cat", "cksum", "dirname"):
    if not (folder / "bin" / name).exists():
      (folder / "bin" / name).symlink_to(shutil.which(name))
  for name in ("setup_env.sh", "requirements.txt", "requirements-dev.txt"):
    shutil.copy(str(ROOT / name), str(folder / name))
  return subprocess.run(
      [shutil.which("bash"), "-c", command], cwd=str(folder),
      env=dict(PATH=str(folder / "bin"), HOME=str(folder), **variables),
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)


def functions(command):
  return "setup_only_functions=yes; source ./setup_env.sh; " + command


@pytest.mark.parametrize("on_path, of_pyenv, expected", [
    # TensorFlow 2.15's, wherever they are; then newer ones, then older ones.
    ("3.7 3.8 3.9 3.12 3.13", "3.10", "3.10"),
    ("3.9 3.10 3.11", "", "3.11"),
    ("3.7 3.8 3.13", "3.12", "3.12"),
    ("3.7 3.8", "3.13", "3.13"),
    ("3.7", "3.8", "3.8"),
    ("", "3.7", "3.7"),
    ("3.6 3.14", "2.7", "")])
def test_the_python_of_tensorflow_2_15_is_preferred(
    tmp_path, on_path, of_pyenv, expected):
  for version in on_path.split():
    make_python(tmp_path / "bin" / ("python" + version), version)
  for version in of_pyenv.split():
    make_python(tmp_path / ".pyenv" / "versions" / (version + ".1") / "bin" /
                "python", version)
  result = bash(tmp_path, functions(
      'python=$(find_python); [ -z "$python" ] || version_of "$python"'))
  assert (result.stdout.strip(), result.stderr) == (expected, "")


def test_a_python3_of_any_version_is_found_and_one_without_venv_is_not(
    tmp_path):
  make_python(tmp_path / "bin" / "python3.11", "3.11", has_venv=False)
  make_python(tmp_path / "bin" / "python3", "3.8")
  result = bash(tmp_path, functions("find_python"))
  assert result.stdout == "python3\n"


@pytest.mark.parametrize("version, has_venv", [
    ("3.6", True), ("3.14", True), ("3.11", False)])
def test_an_unsuitable_python_is_refused_in_one_line(
    tmp_path, version, has_venv):
  make_python(tmp_path / "bin" / "mine", version, has_venv)
  result = bash(tmp_path, "source ./setup_env.sh", PYTHON="mine")
  assert result.returncode == 1
  assert result.stderr == (
      "setup: error: PYTHON=mine is not Python 3.7 to 3.13 with the venv "
      "module\n")
  assert not (tmp_path / ".venv").exists()


def test_without_any_python_the_remedy_is_named_in_one_line(tmp_path):
  result = bash(tmp_path, "source ./setup_env.sh")
  assert result.returncode == 1
  assert result.stderr.count("\n") == 1
  assert "needs Python 3.7 to 3.13" in result.stderr
  assert "set PYTHON=/path/to/python" in result.stderr


def test_an_environment_of_another_python_is_not_used(tmp_path):
  make_python(tmp_path / ".venv" / "bin" / "python", "3.8")
  make_python(tmp_path / "bin" / "wanted", "3.12")
  check = functions("venv_runs && echo runs")
  assert bash(tmp_path, check).stdout == "runs\n"
  assert bash(tmp_path, check, PYTHON="wanted").stdout == ""
  assert bash(tmp_path, check.replace(
      "venv_runs", "use_venv .venv-3.12; venv_runs")).stdout == ""


def test_another_requirement_makes_the_stamp_another(tmp_path):
  commands = ("", "", "tensorflow=1.15.5; ", "echo '#' >>requirements.txt; ")
  stamps = [bash(tmp_path, functions(command + "requirements_checksum")).stdout
            for command in commands]
  assert stamps[0] == stamps[1] != ""
  assert len(set(stamps)) == 3


def test_versions_that_lack_a_python_are_left_out_with_a_message(tmp_path):
  (tmp_path / ".ci").mkdir()
  shutil.copy(str(ROOT / ".ci" / "versions.sh"), str(tmp_path / ".ci"))
  result = bash(tmp_path, "source .ci/versions.sh")
  assert (result.returncode, result.stderr) == (0, "")
  assert result.stdout == (
      "setup: no Python 3.12 or 3.13: the newest TensorFlow is not tested\n"
      "setup: no Python 3.7: the oldest TensorFlow is not tested\n")
