#!/usr/bin/env python3
"""Compare logits and maxima of tool_logits with what reference_logits.py recorded (needs numpy).

    tests/compare_logits.py [--limit ERROR] REFERENCE_FOLDER LABEL=OUT ...

OUT.logits holds (tokens, vocabulary) raw float32 for the reference's ids, OUT.maxima (may be
missing) the maxima of every site in the reference's order. Prints relative L2 errors against
transformers' float32 run, next to those of its own bf16 run. Exit status 1 when the error of
the logits or of any site's maxima is beyond ERROR.
"""

import argparse
import os
import sys

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
                data = np.fromfile(
                    os.path.join(folder, f"{name}.{rest[0]}"), "<" + rest[0].replace("32", "4")
                )
                arrays[name] = data.reshape([int(size) for size in rest[1:]])
    return arrays, sites, facts


def relative_error(values, reference):
    return np.linalg.norm(values - reference) / np.linalg.norm(reference)


def largest_site_error(values, reference, sites):
    """The worst site's relative L2 error of its maxima, and which it is."""
    errors, begin = [], 0
    for _, _, channels in sites:
        part = slice(begin, begin + channels)
        errors.append(relative_error(values[part], reference[part]))
        begin += channels
    layer, site, _ = sites[np.argmax(errors)]
    return np.max(errors), f"layer {layer} {site}"


def report(label, logits, maxima, reference, sites):
    """Print one line; the largest of its errors."""
    if maxima is None:
        print(f"{label:24} logits {logits:.3e}")
        return logits
    error, where = largest_site_error(maxima, reference["maxima"], sites)
    print(
        f"{label:24} logits {logits:.3e}   maxima"
        f" {relative_error(maxima, reference['maxima']):.3e}, worst {error:.3e} ({where})"
    )
    return max(logits, error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=np.inf)
    parser.add_argument("reference")
    parser.add_argument("runs", nargs="*", metavar="LABEL=OUT")
    options = parser.parse_args()
    reference, sites, facts = read_reference(options.reference)
    kept, vocabulary = reference["logits"].shape
    every = len(reference["ids"]) // kept

    report("transformers bf16", facts["bf16_error"], reference["maxima_bf16"], reference, sites)
    worst = 0.0
    for run in options.runs:
        label, _, path = run.partition("=")
        logits = np.fromfile(path + ".logits", "<f4").reshape(-1, vocabulary)[::every]
        maxima = np.fromfile(path + ".maxima", "<f4") if os.path.exists(path + ".maxima") else None
        error = relative_error(logits, reference["logits"])
        worst = np.maximum(worst, report(label, error, maxima, reference, sites))  # NaN stays
        agree = np.mean(logits.argmax(1) == reference["logits"].argmax(1))
        print(f"{'':24} same most likely token at {100 * agree:.1f}% of positions")
    if not worst <= options.limit:
        sys.exit(f"an error is beyond {options.limit:g}")


if __name__ == "__main__":
    main()
