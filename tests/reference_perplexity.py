#!/usr/bin/env python3
"""Perplexity and choices as transformers computes them, to compare `eval` with (development only).

    tests/reference_perplexity.py MODEL --json EVAL.json [--wikitext2 FILE] [--windows N]
                                  [--sequence-length N] [--piqa FOLDER] [--hellaswag FILE]
                                  [--arc-easy FILE] [--mmlu FOLDER] [--shots N] [--limit N]
                                  [--lambada FILE] [--winogrande FILE]

MODEL is a Hugging Face folder or a GGUF file. EVAL.json is what `fptq-pipeline eval --json` wrote for
the same sets and limits; each result is computed again, in float32, by the rules of
lm-evaluation-harness written down here once more, and compared. Without --json they are printed.
"""

import argparse
import csv
import json
import math
import os

import numpy as np
import torch
import transformers


def load(path):
    folder, file = os.path.split(path) if path.endswith(".gguf") else (path, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder or ".", gguf_file=file, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder or ".", gguf_file=file)
    return model.eval(), tokenizer


def positions(model):
    return getattr(model.config, "max_position_embeddings", 2048)


def log_probabilities(model, ids):
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(logits, -1)


def wikitext2(model, tokenizer, options):
    with open(options.wikitext2, encoding="utf-8", newline="\n") as file:
        lines = [line if line.strip() else "" for line in file]
    ids = tokenizer("\n\n".join(lines))["input_ids"]
    length = options.sequence_length or min(2048, positions(model))
    windows = len(ids) // length
    if options.windows:
        windows = min(windows, options.windows)
    losses = []
    for window in range(windows):
        row = ids[window * length : (window + 1) * length]
        scores = log_probabilities(model, row)
        losses.append(-scores[:-1].gather(1, torch.tensor(row[1:])[:, None]).mean().item())
    return math.exp(np.mean(losses))


def encode_pair(tokenizer, context, continuation):
    """lm_eval.api.model.TemplateLM._encode_pair"""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    first = tokenizer(context, add_special_tokens=False)["input_ids"]
    return first, whole[len(first) :]


def log_likelihood(model, tokenizer, context, continuation):
    first, rest = encode_pair(tokenizer, context, continuation)
    ids = (first + rest)[-(positions(model) + 1) :][:-1]
    scores = log_probabilities(model, ids)[-len(rest) :]
    return scores.gather(1, torch.tensor(rest)[:, None]).sum().item()


def read_lines(path, limit):
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    return [json.loads(line) for line in lines[: limit or None]]


def piqa(path, limit):
    with open(os.path.join(path, "valid-labels.lst"), encoding="utf-8") as file:
        labels = [int(line) for line in file]
    for item, label in zip(read_lines(os.path.join(path, "valid.jsonl"), limit), labels):
        yield f"Question: {item['goal']}\nAnswer:", [item["sol1"], item["sol2"]], label


def hellaswag(path, limit):
    for item in read_lines(path, limit):
        yield item["ctx"], item["endings"], item["label"]


def arc_easy(path, limit):
    for item in read_lines(path, limit):
        yield f"Question: {item['question']}\nAnswer:", item["choices"], item["answer"]


def question(row):
    choices = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row[1:5]))
    return f"{row[0].strip()}\n{choices}Answer:"


def mmlu(path, limit, shots):
    def rows(part, subject):
        name = os.path.join(path, part, f"{subject}_{part}.csv")
        with open(name, encoding="utf-8", newline="") as file:
            return list(csv.reader(file))[1:]

    subjects = sorted(name[: -len("_test.csv")] for name in os.listdir(os.path.join(path, "test")))
    questions = {subject: rows("test", subject) for subject in subjects}
    longest = max(map(len, questions.values()))
    order = [(i, s) for i in range(longest) for s in subjects if i < len(questions[s])]
    kept = set(order[: limit or None])
    for subject in subjects:
        text = (
            "The following are multiple choice questions (with answers) about"
            f" {subject.replace('_', ' ')}.\n\n"
        )
        for row in rows("dev", subject)[:shots]:
            text += f"{question(row)} {'ABCD'[int(row[5])]}\n\n"
        for i, row in enumerate(questions[subject]):
            if (i, subject) in kept:
                yield text + question(row), list("ABCD"), int(row[5])


def lambada(path, limit):
    for item in read_lines(path, limit):
        words = item["text"].split(" ")
        yield " ".join(words[:-1]), [words[-1]], None


def winogrande(path, limit):
    for item in read_lines(path, limit):
        before, _, after = item["sentence"].partition("_")
        contexts = [before + item["option1"], before + item["option2"]]
        yield contexts, [after.strip()] * 2, int(item["answer"]) - 1


def compare_items(name, model, tokenizer, items, ours):
    differing, ties, worst, right = 0, 0, 0.0, 0
    for index, (context, choices, answer) in enumerate(items):
        contexts = context if isinstance(context, list) else [context] * len(choices)
        pairs = zip(contexts, choices)
        values = np.array([log_likelihood(model, tokenizer, c, " " + text) for c, text in pairs])
        normalized = values / np.array([len(choice) for choice in choices])
        right += int(values.argmax()) == answer
        if ours is None:
            print(name, index, values, int(values.argmax()), int(normalized.argmax()), answer)
            continue
        item = ours["items"][index]
        worst = max(worst, np.abs(values - item["log_likelihoods"]).max())
        if answer is None:
            continue
        assert item["answer"] == answer, (name, index)
        for key, expected in (("choice", values), ("choice_norm", normalized)):
            if item[key] != int(expected.argmax()):
                gap = expected.max() - expected[item[key]]
                differing += 1
                ties += gap < 1e-3 * abs(expected.max())
                print(f"{name} item {index}: {key} {item[key]}, here {expected.argmax()}; {gap:g}")
    if ours is not None:
        assert len(ours["items"]) == index + 1
        print(
            f"{name}: {index + 1} items, {differing} choices differ ({ties} near ties), largest"
            f" difference of a log-likelihood {worst:.2e}; acc here {right / (index + 1):.4f},"
            f" there {ours['metrics']['acc']['value']:.4f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--json")
    for name in ("wikitext2", "piqa", "hellaswag", "arc-easy", "mmlu", "lambada", "winogrande"):
        parser.add_argument("--" + name)
    for name in ("windows", "sequence-length", "limit", "shots"):
        parser.add_argument("--" + name, type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    if options.json:
        with open(options.json, encoding="utf-8") as file:
            results = {result["set"]: result for result in json.load(file)["results"]}
    model, tokenizer = load(options.model)
    if options.wikitext2:
        expected = wikitext2(model, tokenizer, options)
        found = results.get("wikitext2", {}).get("metrics", {}).get("perplexity", {}).get("value")
        print(f"wikitext2: transformers {expected:.6f}, eval {found}")
        if found:
            print(f"relative difference {found / expected - 1:+.2e}")
    readers = {
        "piqa": piqa,
        "hellaswag": hellaswag,
        "arc_easy": arc_easy,
        "lambada": lambada,
        "winogrande": winogrande,
    }
    for name, reader in readers.items():
        path = getattr(options, name)
        if path:
            items = reader(path, options.limit)
            compare_items(name, model, tokenizer, items, results.get(name))
    if options.mmlu:
        items = mmlu(options.mmlu, options.limit, options.shots)
        compare_items("mmlu", model, tokenizer, items, results.get("mmlu"))


if __name__ == "__main__":
    main()
