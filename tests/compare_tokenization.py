"""Compares tokenization.py with the original on as much text as you like.

  python tests/compare_tokenization.py --data_dir=../shared/data \\
    --original_module=site-packages/bert/tokenization.py --strings=200000

Both sides run in this process, so under one version of the Unicode tables
(a Python with TensorFlow can import the original's file; see
make_tokenization_goldens.py). Compared are, with every vocabulary in
`<data_dir>/vocab`, cased and uncased: all lines of `<data_dir>/text`, and
random strings of any code points, from NUL to the last plane, lone surrogates
and words of over 200 characters included. Ends with status 1 at a difference,
which it prints.
"""

import argparse
import glob
import os
import random
import sys

import make_tokenization_goldens as goldens

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

import tokenization  # noqa: E402

LAST_CODE_POINT = 0x10FFFF
# What decides something: white space of all kinds, controls, replacement
# character, joiners, final sigma, combining marks, ideograph borders.
CRITICAL = (
    "\0\t\n\v\f\r\x1c\x1f \x85\xa0\xad\u1680\u2003\u200b\u200d\u2028\u2029"
    "\u202f\u3000\ufeff\ufffd\ud800\udfff\u03a3\u03c3\u0130\u0301\u0345\u3099"
    "\u33ff\u3400\u4dbf\u4dc0\u4e00\u9fff\uf900\ufaff\U0001ffff\U00020000"
    "\U0002a6df\U0002b81f\U0002ceaf\U0002ceb0\U0002fa1f\U000e0001\U0010ffff"
    "!'-.,#[]_`~")


def random_text(rng, words):
  """A str of up to a few hundred characters.

  Args:
    rng: random.Random.
    words: list of str, vocabulary entries to mix in.
  """
  ranges = list(goldens.RANGES.values())
  sources = [
      lambda: chr(rng.randint(0, LAST_CODE_POINT)),
      lambda: chr(rng.randint(0, 0xFFFF)),
      lambda: chr(rng.randint(*rng.choice(ranges))),
      lambda: chr(rng.randint(0x20, 0x7E)),
      lambda: rng.choice(CRITICAL),
      lambda: rng.choice(words).replace("##", ""),
      lambda: rng.choice(words) + " ",
  ]
  chosen = rng.sample(sources, rng.randint(1, 3))
  text = "".join(rng.choice(chosen)() for _ in range(rng.randint(1, 40)))
  if rng.random() < 0.01:
    text += rng.choice("aé漢\u0301\U0001d400") * rng.randint(190, 210)
  return text


def text_lines(data_dir):
  for path in sorted(glob.glob(os.path.join(data_dir, "text", "**", "*"),
                               recursive=True)):
    if os.path.isfile(path):
      with open(path, encoding="utf-8", errors="ignore", newline="\n") as text:
        yield from text


def compare(texts, pairs):
  """Number of texts; ends the program at the first that differs.

  Args:
    texts: iterable of str.
    pairs: list of (name, the original's FullTokenizer, ours).
  """
  number = 0
  for text in texts:
    number += 1
    for name, original, ours in pairs:
      expected, actual = original.tokenize(text), ours.tokenize(text)
      if expected != actual:
        sys.exit("%s: %r\n  original: %r\n  ours:     %r"
                 % (name, text, expected, actual))
      ids = original.convert_tokens_to_ids(expected)
      if ids != ours.convert_tokens_to_ids(actual):
        sys.exit("%s: other ids for %r" % (name, text))
  return number


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--original_module", help="see above")
  parser.add_argument("--data_dir", required=True)
  parser.add_argument("--strings", type=int, default=200000)
  parser.add_argument("--seed", type=int, default=1)
  parser.add_argument("--skip_files", action="store_true")
  arguments = parser.parse_args()
  original = goldens.load_original(arguments.original_module)
  pairs, words = [], []
  for path in sorted(glob.glob(
      os.path.join(arguments.data_dir, "vocab", "*", "vocab.txt"))):
    for lower in (True, False):
      ours = tokenization.FullTokenizer(path, do_lower_case=lower)
      name = "%s, do_lower_case=%s" % (path.split(os.sep)[-2], lower)
      pairs.append((name, original.FullTokenizer(path, lower), ours))
    words += list(ours.vocab)
  rng = random.Random(arguments.seed)
  count = compare((random_text(rng, words) for _ in range(arguments.strings)),
                  pairs)
  print("%d random strings: equal under %d tokenizers" % (count, len(pairs)))
  if not arguments.skip_files:
    count = compare(text_lines(arguments.data_dir), pairs)
    print("%d lines of text: equal under %d tokenizers" % (count, len(pairs)))


if __name__ == "__main__":
  main()
