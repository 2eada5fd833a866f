#!/usr/bin/env python3
"""Plant outlier channels in a model without changing what it computes (development only).

    tests/plant_outliers.py IN OUT [--seed 0] --plant LAYER:SITE:FACTOR[:COUNT] ...

IN and OUT are Hugging Face folders (LLaMA, Mistral, Qwen2, BLOOM). Each plant multiplies COUNT (1)
channels, chosen by the seed, of the site's input by FACTOR, a power of two (so that bf16 and f16
stay exact), and divides the columns that read them:

    attention_input   weight (and bias) of the norm in front          | q, k, v columns
    attention_output  rows (and bias) of v; the same channel of every | o columns
                      query head that shares the key/value head
    mlp_input         weight (and bias) of the norm in front          | gate, up columns
    mlp_hidden        rows (and bias) of up; not for BLOOM            | down columns
"""

import argparse
import glob
import json
import math
import os
import random
import shutil

import torch
from safetensors.torch import load_file, save_file


class Model:
    """The tensors of a folder, by name, and the few facts about attention that planting needs."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        self.files = {
            path: load_file(path)
            for path in sorted(glob.glob(os.path.join(folder, "*.safetensors")))
        }
        self.place = {name: tensors for tensors in self.files.values() for name in tensors}
        self.bloom = config["model_type"] == "bloom"
        if self.bloom:
            self.heads = self.kv_heads = config["n_head"]
            named = any(name.startswith("transformer.") for name in self.place)
            self.prefix = "transformer.h" if named else "h"
            hidden = config.get("hidden_size") or config["n_embed"]
        else:
            self.heads = config["num_attention_heads"]
            self.kv_heads = config.get("num_key_value_heads", self.heads)
            self.prefix = "model.layers"
            hidden = config["hidden_size"]
        self.head_dim = config.get("head_dim") or hidden // self.heads

    def multiply(self, name, axis, index, factor):
        """Multiply rows (axis 0) or columns (axis 1) `index` of a tensor; must be exact."""
        tensor = self.place[name][name]
        part = tensor[index] if axis == 0 else tensor[:, index]
        scaled = part * factor
        if not torch.equal(scaled / factor, part):
            raise SystemExit(f"{name}: {tensor.dtype} cannot hold it multiplied by {factor}")
        if axis == 0:
            tensor[index] = scaled
        else:
            tensor[:, index] = scaled

    def save(self, folder):
        for path, tensors in self.files.items():
            save_file(
                tensors, os.path.join(folder, os.path.basename(path)), metadata={"format": "pt"}
            )


def site_of(model, layer, site):
    """(writers, readers) of a site: modules by name."""
    block = f"{model.prefix}.{layer}."
    llama = {
        "attention_input": (
            ["input_layernorm"],
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ),
        "attention_output": (["self_attn.v_proj"], ["self_attn.o_proj"]),
        "mlp_input": (["post_attention_layernorm"], ["mlp.gate_proj", "mlp.up_proj"]),
        "mlp_hidden": (["mlp.up_proj"], ["mlp.down_proj"]),
    }
    bloom = {
        "attention_input": (["input_layernorm"], ["self_attention.query_key_value"]),
        "attention_output": (["self_attention.query_key_value"], ["self_attention.dense"]),
        "mlp_input": (["post_attention_layernorm"], ["mlp.dense_h_to_4h"]),
    }
    sites = bloom if model.bloom else llama
    if site not in sites:
        raise SystemExit(f"{site}: cannot be planted; known are {', '.join(sites)}")
    writers, readers = sites[site]
    return [block + name for name in writers], [block + name for name in readers]


def plant(model, layer, site, factor, channels):
    """Multiply input channels (attention_output: channels of the key/value heads) of a site."""
    if math.frexp(factor)[0] != 0.5:
        raise SystemExit(f"{factor} is no power of two")
    writers, readers = site_of(model, layer, site)
    rows = columns = torch.tensor(channels)
    if site == "attention_output":
        head, within = rows // model.head_dim, rows % model.head_dim
        share = model.heads // model.kv_heads
        columns = torch.cat([(head * share + i) * model.head_dim + within for i in range(share)])
        if model.bloom:
            rows = (head * 3 + 2) * model.head_dim + within
    for writer in writers:
        model.multiply(writer + ".weight", 0, rows, factor)
        if writer + ".bias" in model.place:
            model.multiply(writer + ".bias", 0, rows, factor)
    for reader in readers:
        model.multiply(reader + ".weight", 1, columns, 1 / factor)


def channel_count(model, layer, site):
    _, readers = site_of(model, layer, site)
    if site == "attention_output":
        return model.kv_heads * model.head_dim
    return model.place[readers[0] + ".weight"][readers[0] + ".weight"].shape[1]


def copy_others(source, target):
    """Everything of a model folder but its weights."""
    os.makedirs(target, exist_ok=True)
    for path in glob.glob(os.path.join(source, "*")):
        if os.path.isfile(path) and not path.endswith(".safetensors"):
            shutil.copy(path, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plant", action="append", required=True, metavar="LAYER:SITE:FACTOR[:COUNT]"
    )
    options = parser.parse_args()

    model, rng = Model(options.source), random.Random(options.seed)
    for text in options.plant:
        layer, site, factor, count, *_ = (text + ":1").split(":")
        channels = sorted(rng.sample(range(channel_count(model, layer, site)), int(count)))
        plant(model, layer, site, float(factor), channels)
        print(f"layer {layer} {site}: x{factor} in channels {channels}")
    copy_others(options.source, options.target)
    model.save(options.target)


if __name__ == "__main__":
    main()
