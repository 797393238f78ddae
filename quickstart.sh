#!/usr/bin/env bash
# Makes the environment if need be, then trains, evaluates and predicts with a
# small BERT on sample_data/: tells questions, complaints and thanks apart.
#
#   ./quickstart.sh [output folder, default ./quickstart_output]

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

case "$#${1:-}" in
  0 | 1[!-]*) ;;
  *) fail "usage: $0 [output folder]" ;;
esac
output=${1:-quickstart_output}
marker="$output/.made_by_quickstart"

# A second run starts over; a folder that something else filled is left alone.
if [ -f "$marker" ]; then
  rm -rf "$output"
elif [ -e "$output" ] && [ -n "$(ls -A "$output")" ]; then
  fail "$output is not empty and not from an earlier quickstart;" \
    "name another folder: $0 FOLDER"
fi
mkdir -p "$output"
: >"$marker"

"$venv_python" "$root/run_classifier.py" \
  --task_name=custom \
  --data_dir="$root/sample_data" \
  --text_column=sentence \
  --label_column=label \
  --vocab_file="$root/sample_data/vocab.txt" \
  --bert_config_file="$root/sample_data/bert_config.json" \
  --do_train \
  --do_eval \
  --do_predict \
  --max_seq_length=32 \
  --train_batch_size=8 \
  --learning_rate=4e-4 \
  --num_train_epochs=25 \
  --output_dir="$output"

"$venv_python" - "$root/sample_data/test.tsv" "$output" <<'PYTHON'
"""Prints the dev accuracy and the first few predictions."""
import csv
import sys


def rows(path):
  with open(path, encoding="utf-8", newline="") as lines:
    yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


test_file, output = sys.argv[1:]
with open(output + "/eval_results.txt", encoding="utf-8") as lines:
  results = dict(line.strip().split(" = ") for line in lines)
print("\nPredictions for sample_data/test.tsv, the first five:")
for _, example, answer in zip(range(5), rows(test_file),
                              rows(output + "/predictions.tsv")):
  print("  {} -> {} ({:.2f})".format(
      example["sentence"], answer["prediction"],
      float(answer["probability"])))
print("Dev accuracy: {:.2f}. A guess gets 0.34. All results: {}".format(
    float(results["eval_accuracy"]), output))
PYTHON
