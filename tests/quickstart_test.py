"""Checks the bundled sample data: vocabulary, configuration and TSV files."""

import collections
import csv
import json
import pathlib
import string

import pytest

import tokenization

SAMPLE_DATA = pathlib.Path(__file__).resolve().parent.parent / "sample_data"
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
