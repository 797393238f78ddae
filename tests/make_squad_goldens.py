"""Makes tests/goldens/squad_* with the published original.

  python3.7 -m pip install bert-tensorflow==1.0.4 tensorflow==1.15.5
  python3.7 tests/make_squad_goldens.py

Writes two small question files and a vocabulary (all made up here), and what
the original makes of them: every field of every feature, and the three answer
files for random logits. `run_squad_test.py` compares ours with them.
"""

import gzip
import json
import os
import random
import string
import tempfile

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")

# Lengths, stride and so on of the features; "data" names a question file.
FEATURE_CASES = [
    {"data": "v1", "max_seq_length": 64, "doc_stride": 16,
     "max_query_length": 10, "lower": True, "training": True},
    {"data": "v1", "max_seq_length": 40, "doc_stride": 7,
     "max_query_length": 6, "lower": False, "training": True},
    {"data": "v1", "max_seq_length": 48, "doc_stride": 100,
     "max_query_length": 0, "lower": True, "training": False},
    {"data": "v2", "max_seq_length": 128, "doc_stride": 64,
     "max_query_length": 16, "lower": True, "training": True},
    {"data": "v2", "max_seq_length": 33, "doc_stride": 9,
     "max_query_length": 5, "lower": False, "training": False},
]

# Answers from logits rounded to so many decimals: 0 makes many ties.
ANSWER_CASES = [
    {"data": "v1", "seed": 1, "decimals": 3, "n_best_size": 20,
     "max_answer_length": 30, "threshold": 0.0, "lower": True},
    {"data": "v1", "seed": 2, "decimals": 0, "n_best_size": 5,
     "max_answer_length": 8, "threshold": 0.0, "lower": False},
    {"data": "v1", "seed": 3, "decimals": 0, "n_best_size": 1,
     "max_answer_length": 30, "threshold": 0.0, "lower": True},
    {"data": "v2", "seed": 4, "decimals": 3, "n_best_size": 20,
     "max_answer_length": 30, "threshold": 0.0, "lower": True},
    {"data": "v2", "seed": 5, "decimals": 0, "n_best_size": 30,
     "max_answer_length": 20, "threshold": -2.0, "lower": True},
    {"data": "v2", "seed": 6, "decimals": 1, "n_best_size": 64,
     "max_answer_length": 6, "threshold": 1.5, "lower": False},
]

ANSWER_FEATURES = {"max_seq_length": 64, "doc_stride": 20,
                   "max_query_length": 10}

# Everything that splits or joins words somewhere: what the reader splits at,
# what only Python's or Unicode's idea of a space splits at, and joiners.
SPACES = [" "] * 45 + ["  ", "\t", "\n", "\u202f", "\u00a0", "\u3000", "\u2028",
                       "\u2009", "\x0b", "\x1c", "\x85", "\u200d", "\u00ad"]
WORDS = (
    "the The of in and to was is a an John Smith (1895-1943). Smith's U.S.A. "
    "caf\u00e9 Stra\u00dfe \u0130stanbul na\u00efve fianc\u00e9e, 1,000 $5 50% "
    "\u5317\u4eac \u5927\u5b66 \u304c\u3093 \u043c\u0438\u0440 \u03a3\u03af"
    "\u03c3\u03c5\u03c6\u03bf\u03c2 electronics Japanese Japan bank river "
    "don't re-use e-mail \"quoted\" [sic] x=y under_score end. What Who When "
    "year name first second third King Queen, North South").split()


def random_logits(seed, unique_id, length, decimals):
  """A list of float [length], the same in every Python."""
  rng = random.Random(seed * 1000003 + unique_id)
  return [round(rng.uniform(-8.0, 8.0), decimals) for _ in range(length)]


def _make_context(rng, num_words):
  context = rng.choice(["", "", "", " ", "\n"])
  for _ in range(num_words):
    context += rng.choice(WORDS) + rng.choice(SPACES)
  return context


def _make_question(rng, context, question_id, impossible):
  question = " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 14)))
  while True:
    start = rng.randrange(len(context))
    text = context[start:start + rng.randint(1, 40)]
    if text.strip():
      break
  answers = [] if impossible else [{"text": text, "answer_start": start}]
  entry = {"id": question_id, "question": question + "?", "answers": answers}
  if impossible is not None:
    entry["is_impossible"] = impossible
  return entry


def make_questions(seed, version_2):
  """A SQuAD file's content, with contexts of 3 to 110 words."""
  rng = random.Random(seed)
  paragraphs = []
  for index, num_words in enumerate([3, 12, 25, 40, 60, 110]):
    context = _make_context(rng, num_words)
    questions = []
    for number in range(4):
      impossible = rng.random() < 0.3 if version_2 else None
      questions.append(_make_question(
          rng, context, "q%d-%d" % (index, number), impossible))
    paragraphs.append({"context": context, "qas": questions})
  return {"version": "2.0" if version_2 else "1.1",
          "data": [{"title": "Made up", "paragraphs": paragraphs}]}


def make_vocab():
  """Special tokens, single characters and a few longer pieces."""
  characters = sorted(set("".join(WORDS) + string.ascii_lowercase
                          + string.digits + string.punctuation))
  pieces = ["the", "was", "john", "smith", "cafe", "japan", "japanese", "bank",
            "electro", "##nics", "##er", "river", "queen", "king", "north",
            "John", "Smith", "Japan", "##ese", "und", "##18", "18", "##95"]
  return (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + characters
          + ["##" + char for char in characters if char.isalnum()] + pieces)


def input_path(name):
  return os.path.join(GOLDENS, "squad_%s.json" % name)


def _write_inputs():
  for name, seed, version_2 in (("v1", 11, False), ("v2", 12, True)):
    with open(input_path(name), "w") as writer:
      json.dump(make_questions(seed, version_2), writer)
      writer.write("\n")
  with open(os.path.join(GOLDENS, "squad_vocab.txt"), "wb") as writer:
    writer.write(("\n".join(make_vocab()) + "\n").encode("utf-8"))


def feature_fields(feature):
  """All fields of a feature, as JSON keeps them."""
  fields = dict(vars(feature))
  for name in ("token_to_orig_map", "token_is_max_context"):
    fields[name] = sorted([key, value] for key, value in fields[name].items())
  return fields


def _features(run_squad, tokenization, case, training):
  run_squad.FLAGS([
      "make", "--version_2_with_negative=%s" % (case["data"] == "v2"),
      "--null_score_diff_threshold=%s" % case.get("threshold", 0.0)])
  tokenizer = tokenization.FullTokenizer(
      os.path.join(GOLDENS, "squad_vocab.txt"), do_lower_case=case["lower"])
  examples = run_squad.read_squad_examples(
      input_path(case["data"]), is_training=training)
  features = []
  sizes = {name: case.get(name, ANSWER_FEATURES[name])
           for name in ANSWER_FEATURES}
  run_squad.convert_examples_to_features(
      examples, tokenizer, is_training=training, output_fn=features.append,
      **sizes)
  return examples, features


def _answers(run_squad, tokenization, case):
  examples, features = _features(run_squad, tokenization, case, False)
  results = []
  for feature in features:
    logits = [random_logits(case["seed"] + side, feature.unique_id,
                            len(feature.input_ids), case["decimals"])
              for side in (0, 100)]
    results.append(run_squad.RawResult(feature.unique_id, *logits))
  folder = tempfile.mkdtemp()
  names = ["predictions.json", "nbest_predictions.json", "null_odds.json"]
  run_squad.write_predictions(
      examples, features, results, case["n_best_size"],
      case["max_answer_length"], case["lower"],
      *[os.path.join(folder, name) for name in names])
  contents = {}
  for name in sorted(os.listdir(folder)):
    with open(os.path.join(folder, name)) as reader:
      contents[name] = reader.read()
  return contents


def main():
  from bert import run_squad, tokenization

  _write_inputs()
  goldens = {"features": [], "answers": []}
  for case in FEATURE_CASES:
    examples, features = _features(
        run_squad, tokenization, case, case["training"])
    goldens["features"].append({
        "case": case, "examples": [vars(example) for example in examples],
        "features": [feature_fields(feature) for feature in features]})
  for case in ANSWER_CASES:
    goldens["answers"].append(
        {"case": case, "files": _answers(run_squad, tokenization, case)})
  path = os.path.join(GOLDENS, "squad_goldens.json.gz")
  with open(path, "wb") as raw, gzip.GzipFile("", "wb", mtime=0,
                                              fileobj=raw) as writer:
    writer.write(json.dumps(goldens, sort_keys=True).encode("ascii"))
  print("%s: %d feature sets, %d answer sets, %d bytes" % (
      path, len(goldens["features"]), len(goldens["answers"]),
      os.path.getsize(path)))


if __name__ == "__main__":
  main()
