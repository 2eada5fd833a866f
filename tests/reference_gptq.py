#!/usr/bin/env python3
"""Compare GPTQ checkpoints with an independent GPTQ in doubles (development only).

    tests/reference_gptq.py PROGRAM MODEL TEXT [--samples 4] [--length 256] [SECTION.KEY=VALUE ...]

Quantizes MODEL (a Hugging Face folder of the LLaMA family) in f32, calibrated with the beginning of
the file TEXT; runs the same tokens through transformers in double precision; rounds every linear by
the published algorithm (arXiv 2210.17323: Cholesky factor of the inverse, all columns updated), with
the checkpoint's equalization folded in; prints the share of equal integers, and the objective
tr((W - Wq) H (W - Wq)^T) beside that of rounding to nearest.
"""

import argparse
import json
import os
import subprocess
import tempfile

import h5py
import numpy as np
import torch
import transformers

READERS = {
    "self_attn.q_proj": None,
    "self_attn.k_proj": None,
    "self_attn.v_proj": "self_attn.o_proj",
    "self_attn.o_proj": None,
    "mlp.gate_proj": None,
    "mlp.up_proj": "mlp.down_proj",
    "mlp.down_proj": None,
}


def grid(weights):
    """Scales (rounded up to f16) and zero points of a group's rows, as kernels/quantize.h has them."""
    weights = weights.astype(np.float32)
    low = np.minimum(weights.min(1), 0)
    high = np.maximum(weights.max(1), 0)
    exact = (high - low) / np.float32(15)
    scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.maximum(scale.astype(np.float32), np.float32(2**-24))
    scale[high == low] = 1
    zero = np.rint(-8 - low / scale)
    zero[high == low] = 0
    return scale.astype(np.float64), zero.astype(np.float64)


def levels(weights, scale, zero):
    return np.clip(np.rint(weights / scale + zero), -8, 7)


def gptq(original, hessian, group):
    weights, columns = original.copy(), original.shape[1]
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    q, back = np.zeros_like(weights), np.zeros_like(weights)
    for i in range(columns):
        if i % group == 0:
            scale, zero = grid(weights[:, i : i + group])
        q[:, i] = levels(weights[:, i], scale, zero)
        back[:, i] = (q[:, i] - zero) * scale
        error = (weights[:, i] - back[:, i]) / upper[i, i]
        weights[:, i:] -= np.outer(error, upper[i, i:])
    return q, back


def nearest(weights, group):
    back = np.zeros_like(weights)
    for i in range(0, weights.shape[1], group):
        scale, zero = grid(weights[:, i : i + group])
        part = weights[:, i : i + group]
        back[:, i : i + group] = (levels(part, scale[:, None], zero[:, None]) - zero[:, None]) * scale[:, None]
    return back


def hessians(model, windows):
    sums = {}

    def keep(name):
        def hook(module, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).numpy()
            sums[name] = sums.get(name, 0) + x.T @ x

        return hook

    for name, module in model.named_modules():
        if any(name.endswith(reader) for reader in READERS):
            module.register_forward_pre_hook(keep(name))
    with torch.no_grad():
        for window in windows:
            model(torch.tensor(window)[None])
    return sums


def quantize(options, folder):
    with open(options.text, encoding="utf-8") as file:
        text = file.read(40 * options.samples * options.length)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer(text)["input_ids"]
    count = options.samples * options.length
    assert len(ids) > count, "the text is too short"
    with open(f"{folder}/text.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps({"text": text}) + "\n")
    settings = {
        "model.path": f'"{os.path.abspath(options.model)}"',
        "calibration.data": f'["{folder}/text.jsonl"]',
        "calibration.samples": options.samples,
        "calibration.sequence_length": options.length,
        "quantization.group_size": 64,
        "output.checkpoint": f'"{folder}/out.h5"',
        "run.precision": "f32",
    }
    arguments = [f"{key}={value}" for key, value in settings.items()] + options.settings
    with open(f"{folder}/empty.toml", "w", encoding="utf-8"):
        pass
    command = [options.program, "-q"] + [part for each in arguments for part in ("--set", each)]
    subprocess.run(command + [f"{folder}/empty.toml"], check=True, stdout=subprocess.DEVNULL)
    return np.array(ids[:count]).reshape(options.samples, options.length)


def row_scale(checkpoint, layer, consumer, rows):
    """What the rows are divided by: the equalization of the linear that reads them."""
    path = f"/model/layers/{layer}/{consumer.replace('.', '/')}/equalization"
    if consumer is None or path not in checkpoint:
        return np.ones(rows, np.float32)
    scale = checkpoint[path][:]
    if len(scale) == rows:
        return scale
    config = json.loads(checkpoint["config_json"][()])
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    return scale.reshape(groups, heads // groups, -1)[:, 0].reshape(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        windows = quantize(options, folder)
        checkpoint = h5py.File(f"{folder}/out.h5")
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float64).eval()
        sums = hessians(model, windows)
        equal = total = far = 0
        for name, hessian in sums.items():
            layer = name.split(".layers.")[1].split(".")[0]
            linear = name.split(".", 3)[3]
            group = checkpoint["/" + name.replace(".", "/")]
            weights = model.get_submodule(name).weight.detach().numpy().astype(np.float32)
            if READERS[linear]:
                inverse = np.float32(1) / row_scale(checkpoint, layer, READERS[linear], len(weights))
                weights = weights * inverse[:, None]
            scale = np.ones(weights.shape[1], np.float32)
            if "equalization" in group:
                scale = group["equalization"][:]
            weights = (weights * scale).astype(np.float64)
            hessian = hessian / np.outer(scale.astype(np.float64), scale.astype(np.float64))
            hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(len(hessian))
            size = int(group.attrs["group_size"])
            q, back = gptq(weights, hessian, size)
            stored = group["weight"][:].astype(np.float64)
            each = lambda name: np.repeat(group[name][:].astype(np.float64), size, 1)[:, : stored.shape[1]]
            error = weights - (stored - each("weight_zero_point")) * each("weight_scale")
            plain = weights - nearest(weights, size)
            objective = np.einsum("ij,jk,ik->", error, hessian, error)
            ratio = objective / np.einsum("ij,jk,ik->", plain, hessian, plain)
            same = (stored == q).sum()
            equal, total = equal + same, total + q.size
            far = max(far, np.abs(stored - q).max())
            print(f"{name:40} equal {same / q.size:.5%}, objective {ratio:.4f} of nearest's")
            assert ratio < 1
        print(f"{equal} of {total} integers equal ({equal / total:.5%}), the others within {far:.0f}")


if __name__ == "__main__":
    main()
