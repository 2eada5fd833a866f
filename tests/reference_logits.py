#!/usr/bin/env python3
"""Record what transformers computes for a model, to compare the program with (development only).

    tests/reference_logits.py MODEL OUTPUT [--tokens 256] [--every 1]

MODEL is a Hugging Face folder or a GGUF file; OUTPUT a folder, made here:

    index.txt        "NAME TYPE DIMENSION..." for each file NAME.TYPE, raw and little-endian, then
                     "site LAYER SITE CHANNELS" in the order of the maxima, and "bf16_error VALUE":
                     relative L2 error of transformers' own bf16 logits against its f32 logits
    ids.i32          (tokens) the input
    logits.f32       (tokens / every, vocabulary) at positions 0, every, 2 every ..., in float32
    logits_bf16.f32  the same, computed in bf16; only with --every 1
    maxima.f32       for each layer and site, each input channel's largest magnitude, in float32
    maxima_bf16.f32  the same, computed in bf16
"""

import argparse
import os

import numpy as np
import torch
import transformers

import make_demo_text

# The sites of a layer, in order, and a linear that reads each: by the names of LLaMA, BLOOM and StarCoder2.
SITES = {
    "attention_input": ("q_proj", "query_key_value"),
    "attention_output": ("o_proj", "dense"),
    "mlp_input": ("gate_proj", "dense_h_to_4h", "c_fc"),
    "mlp_hidden": ("down_proj", "dense_4h_to_h", "c_proj"),
}


def place(path):
    """The arguments that say where a model is."""
    folder, file = os.path.split(path) if path.endswith(".gguf") else (path, None)
    return {"pretrained_model_name_or_path": folder or ".", "gguf_file": file}


def load(path, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(**place(path), dtype=dtype).eval()


def decoder_layers(model):
    body = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    return body.layers if hasattr(body, "layers") else body.h


class SiteMaxima:
    """Largest magnitudes of the inputs of every (layer, site) while the model runs."""

    def __init__(self, model):
        self.values = {}
        for layer, block in enumerate(decoder_layers(model)):
            for site, readers in SITES.items():
                for name, module in block.named_modules():
                    if name.split(".")[-1] in readers:
                        self.values[layer, site] = torch.zeros(module.in_features)
                        module.register_forward_pre_hook(self.hook(layer, site))

    def hook(self, layer, site):
        def keep(_, inputs):
            maxima = inputs[0].detach().abs().flatten(0, -2).amax(0).float()
            self.values[layer, site] = torch.maximum(self.values[layer, site], maxima)

        return keep

    def reset(self):
        for value in self.values.values():
            value.zero_()


def fixed_ids(path, count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place(path))
    text = "\n".join(
        text for kind, text in make_demo_text.documents(100, seed=77) if kind == "Stories"
    )
    return np.array(tokenizer(text)["input_ids"][:count], dtype=np.int32)


def run(path, dtype, ids, every):
    model = load(path, dtype)
    maxima = SiteMaxima(model)
    with torch.inference_mode():
        logits = model(torch.tensor(ids.astype(np.int64))[None]).logits[0]
    loss = torch.nn.functional.cross_entropy(
        logits[:-1].float(), torch.tensor(ids[1:].astype(np.int64))
    )
    print(f"{path} {dtype}: {len(ids)} tokens, loss {loss:.4f}")
    return logits.float().numpy()[::every].copy(), maxima.values


def record(path, ids, output, every):
    """Run the model at `path` on `ids` in float32 and in bf16; write what the module's text lists."""
    torch.set_num_threads(1)
    os.makedirs(output, exist_ok=True)
    arrays = {"ids": ids}
    for suffix, dtype in (("", torch.float32), ("_bf16", torch.bfloat16)):
        logits, sites = run(path, dtype, ids, every)
        arrays["logits" + suffix] = logits
        arrays["maxima" + suffix] = np.concatenate([value.numpy() for value in sites.values()])
    exact, rounded = arrays["logits"], arrays["logits_bf16"]
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    if every != 1:
        del arrays["logits_bf16"]

    with open(os.path.join(output, "index.txt"), "w", encoding="utf-8") as index:
        for name, array in arrays.items():
            kind = "i32" if array.dtype == np.int32 else "f32"
            array.astype("<i4" if kind == "i32" else "<f4").tofile(
                os.path.join(output, f"{name}.{kind}")
            )
            print(name, kind, *array.shape, file=index)
        for (layer, site), value in sites.items():
            print("site", layer, site, value.numel(), file=index)
        print(f"bf16_error {error:.6e}", file=index)
    print(f"relative L2 error of the bf16 logits: {error:.3e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument(
        "--every", type=int, default=1, help="keep the logits of every so many tokens"
    )
    options = parser.parse_args()
    ids = fixed_ids(options.model, options.tokens)
    record(options.model, ids, options.output, options.every)


if __name__ == "__main__":
    main()
