#!/usr/bin/env python3
"""Compare logits and maxima with what reference_logits.py recorded (numpy; development only).

    tests/compare_logits.py REFERENCE_FOLDER LABEL=LOGITS.f32[,MAXIMA.f32] ...

LOGITS.f32 holds (tokens, vocabulary) raw float32 for the reference's ids, MAXIMA.f32 the maxima of every
site in the reference's order. Prints relative L2 errors against transformers' float32 run, next to the
error of transformers' own bf16 run.
"""

import argparse
import os

import numpy as np


def read_reference(folder):
    arrays, sites, facts = {}, [], {}
    with open(os.path.join(folder, "index.txt"), encoding="utf-8") as index:
        for line in index:
            name, *rest = line.split()
            if name == "site":
                sites.append((int(rest[0]), rest[1], int(rest[2])))
            elif len(rest) == 1:
                facts[name] = float(rest[0])
            else:
                data = np.fromfile(os.path.join(folder, f"{name}.{rest[0]}"), "<" + rest[0].replace("32", "4"))
                arrays[name] = data.reshape([int(size) for size in rest[1:]])
    return arrays, sites, facts


def relative_error(values, reference):
    return np.linalg.norm(values - reference) / np.linalg.norm(reference)


def largest_site_error(values, reference, sites):
    """The worst site's relative L2 error of its maxima, and which it is."""
    worst, begin = (-1.0, ""), 0
    for layer, site, channels in sites:
        part = slice(begin, begin + channels)
        worst = max(worst, (relative_error(values[part], reference[part]), f"layer {layer} {site}"))
        begin += channels
    return worst


def report(label, logits, maxima, reference, sites):
    line = f"{label:24} logits {logits:.3e}"
    if maxima is not None:
        error, where = largest_site_error(maxima, reference["maxima"], sites)
        line += f"   maxima {relative_error(maxima, reference['maxima']):.3e}, worst {error:.3e} ({where})"
    print(line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference")
    parser.add_argument("runs", nargs="*", metavar="LABEL=LOGITS.f32[,MAXIMA.f32]")
    options = parser.parse_args()
    reference, sites, facts = read_reference(options.reference)
    kept, vocabulary = reference["logits"].shape
    every = len(reference["ids"]) // kept

    report("transformers bf16", facts["bf16_error"], reference["maxima_bf16"], reference, sites)
    for run in options.runs:
        label, _, files = run.partition("=")
        logits, *maxima = files.split(",")
        ours = np.fromfile(logits, "<f4").reshape(-1, vocabulary)
        if len(ours) != kept:
            ours = ours[::every]
        report(label, relative_error(ours, reference["logits"]),
               np.fromfile(maxima[0], "<f4") if maxima else None, reference, sites)
        agree = np.mean(ours.argmax(1) == reference["logits"].argmax(1))
        print(f"{'':24} same most likely token at {100 * agree:.1f}% of positions")


if __name__ == "__main__":
    main()
