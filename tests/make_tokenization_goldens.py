"""Makes tests/goldens/tokenization_* by running the original tokenization.py.

  python tests/make_tokenization_goldens.py --data_dir=../shared/data \\
    --original_module=site-packages/bert/tokenization.py

Run it under a Python that can import what the original needs: one that has the
package `bert` (bert-tensorflow; leave out --original_module), or this project's
with --original_module naming the file. Characters are limited to those whose
class has not changed since Unicode 3.2, so that every Python agrees on them.

Written: tokenization_vocab.txt, a vocabulary of a few hundred entries;
tokenization_strings.json, for each string the original's words and pieces,
cased and uncased; and with --data_dir tokenization_files.json, for real texts
and vocabularies the number of tokens and a digest of them.
"""

import argparse
import glob
import hashlib
import importlib.util
import json
import os
import random
import unicodedata

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIKI_LINES = 4000

# First and last code point of the ranges that random strings are drawn from.
RANGES = {
    "ascii": (0x20, 0x7E), "letters": (0x61, 0x7A), "controls": (0x00, 0x1F),
    "latin": (0xA0, 0x24F), "combining": (0x300, 0x36F),
    "greek": (0x370, 0x3FF), "cyrillic": (0x400, 0x4FF),
    "hebrew": (0x591, 0x5F4), "arabic": (0x60C, 0x6FE),
    "devanagari": (0x901, 0x970), "thai": (0xE01, 0xE5B),
    "jamo": (0x1100, 0x11F9), "accented": (0x1E00, 0x1FFE),
    "general": (0x2000, 0x2063), "symbols": (0x2100, 0x23CE),
    "kana": (0x3000, 0x30FF), "extension a": (0x3400, 0x4DB5),
    "ideographs": (0x4E00, 0x9FA5), "hangul": (0xAC00, 0xD7A3),
    "compatibility": (0xF900, 0xFA6A), "presentation": (0xFB00, 0xFEFF),
    "halfwidth": (0xFF01, 0xFFFD), "mathematical": (0x1D400, 0x1D7FF),
    "extension b": (0x20000, 0x2A6D6), "tags": (0xE0020, 0xE007F),
}

CHOSEN = [
    "", " ", " \t\r\n ", "Hello, World!", "John Johanson's house",
    "don't-stop (now) \"here\"...", "1,000.50 $5 100% ^_^ `~|\\ #1 @me",
    "http://example.com/a_b?q=1&r=[x]",
    "\u00c5ngstr\u00f6m \u00c9COLE na\u00efve",
    "\u0391\u03a3 \u0391\u03a3\u0391 \u039f\u0394\u039f\u03a3. \u03a3",
    "\u0391\u03a3.\u0392 \u0391\u03a3' \u0391\u03a3\u0301 "
    "\u0391\u03a3\u4e00\u0391",
    "\u0391\u03a3\u0000\u0392 \u0391\u03a3\u00ad \u0391\u03a3\u2028\u0392",
    "\u0130stanbul I\u011fd\u0131r STRASSE stra\u00dfe \ufb01ne",
    "\u4f60\u597dworld\u4e16\u754c \U00020000\U0002a6d6x \u3007\u3005",
    "\u30ac\u30ae\u30d1 \u304c\u304e \uff76\uff9e \ud55c\uad6d\uc5b4",
    "\u0939\u093f\u0928\u094d\u0926\u0940 "
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "a\u0300b\u0301\u0302 \u0301 \u0300\u0301x",
    "glued\x0btogether\x0cby\x85it",
    "a\x1cb\x1db\x1ec\x1fd \x7fe",
    "zero\u200bwidth\u200d soft\u00adhyphen\ufeff",
    "line\u2028two\u2029three", "wide\u3000nbsp\u00a0thin\u2009narrow\u202fend",
    "\u1680ogham\u2003em", "\x00null\x00 in\x00side \ufffd re\ufffdplaced",
    "lone \ud800 surrogate x\udc00y",
    "\u037e \u1fef \u2126 \u212a \u212b \u2329",
    "\u201cquoted\u201d \u2014 dash\u2026 don\u2019t "
    "\u00bfqu\u00e9? \u3002\u3001",
    "\U0001f600\U0001f44d ok \u2764\ufe0f", "[MASK] [SEP] [unused1] ##ing",
    "x" * 200, "x" * 201, "\u00e9" * 150, "\ud55c" * 67, "\ud55c" * 66,
    ("word" * 60) + " tail", "ta\tb\nnew\r\nline",
]


def load_original(path):
  """The original's module, by file or as the package `bert`."""
  if path:
    spec = importlib.util.spec_from_file_location("original", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  else:
    from bert import tokenization as module
  from absl import flags
  flags.FLAGS(["goldens"])  # The packaged original reads a flag per word.
  return module


def is_stable(char):
  """Whether the character's class and decomposition are those of 2002."""
  then = unicodedata.ucd_3_2_0
  return (then.category(char) == unicodedata.category(char) != "Cn" and
          then.decomposition(char) == unicodedata.decomposition(char))


def random_strings(number, rng):
  pools = [[char for char in map(chr, range(first, last + 1))
            if is_stable(char)] for first, last in RANGES.values()]
  for _ in range(number):
    chosen = [rng.choice(pools) for _ in range(rng.randint(1, 4))]
    yield "".join(rng.choice(rng.choice(chosen))
                  if rng.random() < 0.85 else " "
                  for _ in range(rng.randint(1, 30)))


def make_vocab(strings, original):
  """Special tokens, most characters, the 700 commonest pieces of the words."""
  words = set()
  for do_lower_case in (True, False):
    basic = original.BasicTokenizer(do_lower_case)
    for text in strings:
      words.update(word for word in basic.tokenize(text) if len(word) <= 20)
  counts = {}
  for word in sorted(words):
    # Surrogates cannot be written as UTF-8.
    word = word.encode("utf-8", "ignore").decode("utf-8")
    for start in range(len(word)):
      for end in range(start + 1, min(len(word), start + 6) + 1):
        piece = ("##" if start else "") + word[start:end]
        counts[piece] = counts.get(piece, 0) + end - start
  # Some characters are left out, so that there are unknown words too.
  characters = [piece for piece in sorted(counts)
                if len(piece.replace("##", "")) == 1 and ord(piece[-1]) % 16]
  longer = sorted((piece for piece in counts if len(piece) > 1),
                  key=lambda piece: (-counts[piece], piece))
  return SPECIAL + characters + [
      piece for piece in longer if piece not in characters][:700]


def write_json(name, value):
  with open(os.path.join(GOLDENS, name), "w") as writer:
    json.dump(value, writer, indent=0, separators=(",", ":"), sort_keys=True)
    writer.write("\n")


def make_strings(original, strings, vocab_file):
  rows = []
  for text in strings:
    row = {"text": text}
    for case, do_lower_case in (("cased", False), ("uncased", True)):
      tokenizer = original.FullTokenizer(vocab_file, do_lower_case)
      row[case] = {"words": tokenizer.basic_tokenizer.tokenize(text),
                   "pieces": tokenizer.tokenize(text)}
    rows.append(row)
  write_json("tokenization_strings.json", rows)


def make_files(original, data_dir):
  texts = glob.glob(os.path.join(data_dir, "text", "multilingual", "xquad.*"))
  texts.append(os.path.join(data_dir, "text", "wiki.sentences.txt"))
  rows = []
  for vocab in sorted(os.listdir(os.path.join(data_dir, "vocab"))):
    vocab_file = os.path.join(data_dir, "vocab", vocab, "vocab.txt")
    for do_lower_case in (True, False):
      tokenizer = original.FullTokenizer(vocab_file, do_lower_case)
      for text in sorted(texts):
        tokens = []
        with open(text, encoding="utf-8", newline="\n") as reader:
          for _, line in zip(range(WIKI_LINES), reader):
            tokens += tokenizer.tokenize(line)
        rows.append({
            "vocab": vocab, "do_lower_case": do_lower_case,
            "text": os.path.relpath(text, data_dir), "lines": WIKI_LINES,
            "tokens": len(tokens),
            "sha256": hashlib.sha256(" ".join(tokens).encode()).hexdigest()})
  write_json("tokenization_files.json", rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--original_module")
  parser.add_argument("--data_dir")
  arguments = parser.parse_args()
  original = load_original(arguments.original_module)
  strings = CHOSEN + list(random_strings(200, random.Random(20181011)))
  vocab_file = os.path.join(GOLDENS, "tokenization_vocab.txt")
  with open(vocab_file, "w", encoding="utf-8") as writer:
    writer.write("\n".join(make_vocab(strings, original)) + "\n")
  make_strings(original, strings, vocab_file)
  if arguments.data_dir:
    make_files(original, arguments.data_dir)


if __name__ == "__main__":
  main()
