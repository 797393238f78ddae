"""Records of the original's create_pretraining_data.py, as digests.

  python tests/make_pretraining_goldens.py --data_dir=../shared/data \
    --original_python=reference/bin/python

writes tests/goldens/pretraining.json and the vocabulary of the cases that need
no data, tests/goldens/pretraining_vocab.txt. `--original_python` is a Python
with the published package `bert` (bert-tensorflow 1.0.4, TensorFlow 1.15). The
test imports this file for how a case's input is cut and its records digested.
"""

import argparse
import collections
import hashlib
import json
import os
import re
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDENS = os.path.join(HERE, "goldens", "pretraining.json")
SAMPLE_VOCAB = os.path.join(HERE, "goldens", "pretraining_vocab.txt")
SAMPLE_TEXT = os.path.join(os.path.dirname(HERE), "sample_text.txt")

WIKI = "text/wiki.sentences.txt"
UNCASED = "vocab/uncased_base/vocab.txt"
CASED = "vocab/cased_base/vocab.txt"

# name: (inputs, vocabulary, outputs, flags). An input is a file and the range
# of its lines; None stands for the sample's text and vocabulary.
CASES = {
    "sample": ([(None, 0, 1000)], None, 1,
               {"max_seq_length": 32, "max_predictions_per_seq": 5,
                "dupe_factor": 4}),
    "sample_cased_two_outputs": (
        [(None, 0, 30), (None, 30, 1000)], None, 2,
        {"max_seq_length": 64, "max_predictions_per_seq": 20,
         "dupe_factor": 3, "random_seed": 1, "do_lower_case": False,
         "masked_lm_prob": 0.5}),
    "sample_one_document_shortest": (
        [(None, 0, 9)], None, 1,
        {"max_seq_length": 5, "max_predictions_per_seq": 1,
         "short_seq_prob": 1.0}),
    "wiki_defaults": ([(WIKI, 0, 3000)], UNCASED, 1, {"dupe_factor": 2}),
    "wiki_cased_three_files": (
        [(WIKI, 10000, 10500), (WIKI, 20001, 20350), (WIKI, 50000, 50777)],
        CASED, 3,
        {"do_lower_case": False, "max_seq_length": 64,
         "max_predictions_per_seq": 10, "dupe_factor": 3, "random_seed": 7}),
    "wiki_long": (
        [(WIKI, 60000, 64000)], UNCASED, 2,
        {"max_seq_length": 512, "max_predictions_per_seq": 77,
         "short_seq_prob": 0.5, "masked_lm_prob": 0.25, "dupe_factor": 2,
         "random_seed": -3}),
    "wiki_large_vocabulary": (
        [(WIKI, 70000, 70400)], "vocab/multi_cased/vocab.txt", 1,
        {"do_lower_case": False, "dupe_factor": 2, "max_seq_length": 100,
         "max_predictions_per_seq": 3, "short_seq_prob": 0.0}),
    "chinese": ([("text/multilingual/xquad.zh.txt", 0, 400)],
                "vocab/chinese_base/vocab.txt", 1,
                {"max_seq_length": 40, "dupe_factor": 2}),
    "naughty_strings": ([("text/multilingual/naughty_strings.txt", 0, 600)],
                        UNCASED, 1, {"dupe_factor": 2, "random_seed": 0}),
}


def make_inputs(case, folder, data_dir):
  """Writes a case's input files; returns (their paths, vocabulary path)."""
  inputs, vocab, _, _ = CASES[case]
  paths = []
  for number, (name, start, end) in enumerate(inputs):
    source = os.path.join(str(data_dir), name) if name else SAMPLE_TEXT
    with open(source, "rb") as reader:
      lines = reader.read().split(b"\n")[start:end]
    paths.append(os.path.join(str(folder), "input-%d.txt" % number))
    with open(paths[-1], "wb") as writer:
      writer.write(b"\n".join(lines))
  vocab = os.path.join(str(data_dir), vocab) if vocab else SAMPLE_VOCAB
  return paths, vocab


def read_records(path, compression=None):
  """Parsed records: a list of dicts of feature name to list of numbers."""
  import tensorflow.compat.v1 as tf
  options = tf.io.TFRecordOptions(compression) if compression else None
  records = []
  for data in tf.io.tf_record_iterator(path, options):
    features = tf.train.Example.FromString(data).features.feature
    records.append({
        name: list(feature.int64_list.value) or list(feature.float_list.value)
        for name, feature in features.items()})
  return records


def digest(records):
  """[number of records, SHA-256 of their contents]."""
  state = hashlib.sha256()
  for record in records:
    state.update(json.dumps(record, sort_keys=True).encode())
  return [len(records), state.hexdigest()]


def make_vocabulary():
  """Characters, frequent words and frequent word ends of the sample text."""
  with open(SAMPLE_TEXT, encoding="utf-8") as reader:
    words = re.findall(r"\w+", reader.read())
  words += [word.lower() for word in words]
  counts = collections.Counter(words)
  ends = collections.Counter(
      word[-length:] for word in words for length in (2, 3)
      if len(word) > length)
  letters = sorted({letter for word in words for letter in word})
  entries = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  entries += list(".,;:!?'\"()«»、。，“”।،-")
  # A few letters are left out, so that there are unknown words.
  entries += [x for x in letters if x not in "qxßщЖ丽ぺ"]
  entries += ["##" + x for x in letters if x not in "qxßщЖ"]
  entries += sorted(x for x, n in counts.items() if n > 3 and len(x) > 1)
  entries += sorted("##" + x for x, n in ends.items() if n > 7)
  with open(SAMPLE_VOCAB, "w", encoding="utf-8") as writer:
    writer.write("\n".join(entries) + "\n")


def run_original(case, python, data_dir):
  """Digests of the output files that the original makes for a case."""
  _, _, num_outputs, options = CASES[case]
  with tempfile.TemporaryDirectory() as folder:
    paths, vocab = make_inputs(case, folder, data_dir)
    outputs = [os.path.join(folder, "output-%d" % number)
               for number in range(num_outputs)]
    command = [python, "-m", "bert.create_pretraining_data",
               "--input_file=" + ",".join(paths), "--vocab_file=" + vocab,
               "--output_file=" + ",".join(outputs)]
    command += ["--%s=%s" % item for item in options.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return [digest(read_records(path)) for path in outputs]


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--original_python", required=True)
  parser.add_argument("--data_dir", required=True)
  arguments = parser.parse_args()
  make_vocabulary()
  results = {}
  for case in CASES:
    results[case] = run_original(
        case, arguments.original_python, arguments.data_dir)
    print(case, results[case])
  with open(GOLDENS, "w") as writer:
    json.dump(results, writer, indent=1)
    writer.write("\n")


if __name__ == "__main__":
  main()
