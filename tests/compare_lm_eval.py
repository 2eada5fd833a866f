#!/usr/bin/env python3
"""Choices as lm-evaluation-harness makes them, compared with those of `eval` (development only).

    tests/compare_lm_eval.py MODEL EVAL.json [--piqa FOLDER] [--hellaswag FILE] [--arc-easy FILE]
                             [--mmlu FOLDER] [--tokenizer FILE]

MODEL is a Hugging Face folder or a GGUF file. EVAL.json is what `fptq-pipeline eval --json` wrote with
some `limit`; the same first items of each set go through lm-evaluation-harness's own tasks (prompts,
encoding, scores) with the model in float32. Prints for each set how many choices (acc and acc_norm)
differ, and for each that differs by how much the two best choices differ in log-likelihood.
--tokenizer: a tokenizer.json to use; what transformers makes of a GGUF file's tokenizer may lack steps
(digits one by one in SmolLM2's), while a checkpoint has it whole in /tokenizer_json.
"""

import argparse
import csv
import json
import os
import tempfile

import lm_eval
import lm_eval.models.huggingface
import lm_eval.tasks
import torch
import transformers


def load(path, tokenizer_file):
    folder, file = os.path.split(path) if path.endswith(".gguf") else (path, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder or ".", gguf_file=file, dtype=torch.float32
    )
    if tokenizer_file:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=tokenizer_file)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder or ".", gguf_file=file)
    # The prefix is for an empty context, which no set here has.
    return lm_eval.models.huggingface.HFLM(
        pretrained=model.eval(), tokenizer=tokenizer, batch_size=1, add_bos_token=False,
        prefix_token_id=0,
    )


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def piqa(folder):
    with open(os.path.join(folder, "valid-labels.lst"), encoding="utf-8") as file:
        labels = [int(line) for line in file]
    items = read_lines(os.path.join(folder, "valid.jsonl"))
    yield "piqa", "validation", [dict(item, label=label) for item, label in zip(items, labels)]


def hellaswag(path):
    docs = []
    for item in read_lines(path):
        activity, rest = item["ctx"].split(": ", 1)
        docs.append(
            {"activity_label": activity, "ctx_a": rest, "ctx_b": "", "endings": item["endings"],
             "label": str(item["label"])}
        )
    yield "hellaswag", "validation", docs


def arc_easy(path):
    docs = []
    for item in read_lines(path):
        labels = [str(i) for i in range(len(item["choices"]))]
        docs.append(
            {"id": item["id"], "question": item["question"], "answerKey": str(item["answer"]),
             "choices": {"text": item["choices"], "label": labels}}
        )
    yield "arc_easy", "test", docs


def mmlu(folder):
    for name in sorted(os.listdir(os.path.join(folder, "test"))):
        docs = []
        with open(os.path.join(folder, "test", name), encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                if row[0] == "question":  # some copies have a header, and indices for letters
                    continue
                answer = int(row[5]) if row[5].isdigit() else "ABCD".index(row[5])
                docs.append({"question": row[0], "choices": row[1:5], "answer": answer})
        yield "mmlu_" + name.removesuffix("_test.csv"), "test", docs


def shares(counts, limit):
    """How many of each subject there are when one of each is taken in turn until there are `limit`."""
    taken = [0] * len(counts)
    while sum(taken) < limit:
        for i, count in enumerate(counts):
            if taken[i] < count and sum(taken) < limit:
                taken[i] += 1
    return taken


def harness(model, task, split, docs):
    """(log-likelihoods of each choice) of each doc, in order."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "docs.jsonl")
        with open(file, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(doc) + "\n" for doc in docs)
        manager = lm_eval.tasks.TaskManager()
        entry = manager._factory._load_full_config(
            manager.task_index[task],
            {"dataset_path": "json", "dataset_name": None,
             "dataset_kwargs": {"data_files": {split: file}}, "num_fewshot": 0,
             "training_split": None, "fewshot_split": None, "validation_split": None,
             "test_split": None, split + "_split": split},
        )
        entry.pop("tag", None)
        results = lm_eval.simple_evaluate(
            model, tasks=[entry], log_samples=True, task_manager=manager, bootstrap_iters=0,
            cache_requests=False, verbosity="ERROR",
        )
    samples = sorted(next(iter(results["samples"].values())), key=lambda sample: sample["doc_id"])
    rows = []
    for sample in samples:
        likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
        lengths = [len(argument[1]) - 1 for argument in sample["arguments"]]
        rows.append((likelihoods, lengths))
    return rows


def best(values):
    return max(range(len(values)), key=lambda i: values[i])


def gap(values):
    ordered = sorted(values)
    return ordered[-1] - ordered[-2]


def compare(name, rows, items):
    differ = {"choice": [], "choice_norm": []}
    worst = 0.0
    for (likelihoods, lengths), item in zip(rows, items, strict=True):
        ours = item["log_likelihoods"]
        worst = max(worst, max(abs(a - b) for a, b in zip(likelihoods, ours, strict=True)))
        normed = [a / b for a, b in zip(likelihoods, lengths)]
        if best(likelihoods) != item["choice"]:
            differ["choice"].append(gap(likelihoods))
        if best(normed) != item["choice_norm"]:
            differ["choice_norm"].append(gap(normed))
    print(f"{name}: {len(items)} items, acc choices that differ: {len(differ['choice'])}, "
          f"acc_norm: {len(differ['choice_norm'])}; largest difference of a log-likelihood: {worst:.2g}")
    for kind, gaps in differ.items():
        for value in gaps:
            print(f"  {kind}: the two best are {value:.2g} apart")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("results")
    for name in ("piqa", "hellaswag", "arc-easy", "mmlu", "tokenizer"):
        parser.add_argument("--" + name)
    options = parser.parse_args()
    with open(options.results, encoding="utf-8") as file:
        results = {row["set"]: row for row in json.load(file)["results"]
                   if row["method"] == "full precision"}
    model = load(options.model, options.tokenizer)
    for name, reader in (("piqa", piqa), ("hellaswag", hellaswag), ("arc_easy", arc_easy),
                         ("mmlu", mmlu)):
        if getattr(options, name) is None:
            continue
        items, rows = results[name]["items"], []
        tasks = list(reader(getattr(options, name)))
        taken = shares([len(docs) for _, _, docs in tasks], len(items))
        for (task, split, docs), count in zip(tasks, taken, strict=True):
            rows += harness(model, task, split, docs[:count]) if count else []
        compare(name, rows, items)


main()
