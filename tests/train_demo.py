#!/usr/bin/env python3
"""Train the demo's model and plant outliers in it (development only; some minutes on one core).

    tests/train_demo.py [--steps 800] [--work FOLDER] [--plant-only] tests/demo

Writes model/ (config.json, model.safetensors in bf16, tokenizer.json) and expected_policies.txt.
The training text comes from make_demo_text.py with other seeds than the demo's text, which serves
as the held-out text here and for calibration. The plants bring sites into all three ranges of
FPTQ's policy without changing the function: see plant_outliers.py.
"""

import argparse
import json
import math
import os
import random
import shutil
import time

import numpy as np
import tokenizers
import torch
import transformers

import make_demo_text
import plant_outliers
import reference_logits

SEED = 20240229
SEQUENCE = 512
END = "<|endoftext|>"
# Qwen2's split pattern: digits one by one, letters with one space or mark in front.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONFIG = dict(
    hidden_size=192,
    intermediate_size=276,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=SEQUENCE,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
    vocab_size=1024,
)

V0, V1, MARGIN = 15.0, 150.0, 1.5
# What each site is to become, layer by layer: Static, Equalized or Dynamic. As in large models: the
# norms' outputs mostly between the thresholds, o_proj's input small, down_proj's mixed.
PLAN = {
    "attention_input": "SEEED",
    "attention_output": "SSSES",
    "mlp_input": "ESEED",
    "mlp_hidden": "SEDEE",
}
TARGET = {"S": 6.0, "E": 45.0, "D": 450.0}

README = """# The demo's model
A small LLaMA (5 layers, 192 wide, 6 heads with 2 key/value heads, hidden 276, vocabulary 1024, tied
embeddings, bf16), trained by `tests/train_demo.py` on text that `tests/make_demo_text.py` makes
from templates: no outside data, and under the project's licence. 276 is no multiple of a group
size, on purpose. The tokenizer is byte-level BPE with Qwen2's split pattern.

Held-out loss, nats a token, on the demo's text (made with another seed than the training's):

| step | loss |
|---|---|
{losses}
Then `tests/plant_outliers.py` planted outlier channels, as large models grow them, so that inputs
fall into all three ranges of FPTQ's policy; `../expected_policies.txt` has the answer for every
site. A planted channel's factor is divided out again in the weights that read it: all factors are
powers of two, and the logits are the same to the last bit.

{plants}
"""


def texts(count, seed):
    return [text for _, text in make_demo_text.documents(count, seed)]


def train_tokenizer(folder):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts(4000, seed=2), trainer)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}, file, indent=2)
    return tokenizer


def stream(tokenizer, documents):
    end = tokenizer.token_to_id(END)
    ids = [i for encoding in tokenizer.encode_batch(documents) for i in encoding.ids + [end]]
    return torch.tensor(ids)


def windows(ids, length):
    return ids[: len(ids) // length * length].view(-1, length)


def loss_of(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten()
    )


@torch.inference_mode()
def held_out_loss(model, held_out):
    return sum(loss_of(model, batch).item() for batch in held_out) / len(held_out)


def train(model, tokenizer, steps):
    ids = stream(tokenizer, texts(8000, seed=3))
    held_out = windows(stream(tokenizer, texts(480, seed=1)), SEQUENCE)[:64].split(8)
    data, generator = windows(ids, SEQUENCE), torch.Generator().manual_seed(SEED)
    print(
        f"{len(ids)} tokens to train on, {held_out[0].numel() * len(held_out)} held out", flush=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1, betas=(0.9, 0.95), weight_decay=0.05)
    log, begin = [], time.time()
    for step in range(steps + 1):
        if step % 100 == 0 or step == steps:
            log.append((step, held_out_loss(model, held_out)))
            print(
                f"step {step}: held-out loss {log[-1][1]:.4f}, {time.time() - begin:.0f} s",
                flush=True,
            )
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 30) * (0.03 + 0.97 * (1 - step / (steps + 1)))
        batch = data[torch.randint(len(data), (4,), generator=generator)]
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return log


def train_model(folder, steps):
    """Tokenizer, model in bf16 and loss.txt into the folder."""
    tokenizer = train_tokenizer(folder)
    config = transformers.LlamaConfig(
        **CONFIG, bos_token_id=None, pad_token_id=None, eos_token_id=tokenizer.token_to_id(END)
    )
    model = transformers.LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    log = train(model, tokenizer, steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    with open(os.path.join(folder, "loss.txt"), "w", encoding="utf-8") as file:
        file.writelines(f"{step} {loss:.4f}\n" for step, loss in log)


@torch.inference_mode()
def measure(folder, batches):
    """Maxima of every site for each batch of windows: {(layer, site): (batches, channels)}."""
    model, _ = reference_logits.load(folder, torch.float32)
    maxima, values = reference_logits.SiteMaxima(model), []
    for batch in batches:
        maxima.reset()
        model(batch)
        values.append({key: value.clone() for key, value in maxima.values.items()})
    return {key: torch.stack([value[key] for value in values]).numpy() for key in values[0]}


def plant_plan(source, target, maxima):
    """Bring every site to its place in PLAN with a few planted channels of different size."""
    model, rng, lines = plant_outliers.Model(source), random.Random(SEED), []
    for (layer, site), measured in maxima.items():
        aim = PLAN[site][layer]
        if site == "attention_output":  # of the key/value heads, whose channels several heads share
            shape = len(measured), model.kv_heads, model.heads // model.kv_heads, model.head_dim
            measured = measured.reshape(shape).max(2).reshape(len(measured), -1)
        low, high = measured.min(0), measured.max(0)
        if aim == "S":  # nothing to plant; all channels alike are made smaller where too near to V0
            chosen = [range(len(high))] if high.max() > V0 / MARGIN else []
        else:  # channels that are neither small nor very different from batch to batch
            steady = np.flatnonzero((low > 0.6 * high) & (high > np.median(high)))
            chosen = [[int(channel)] for channel in rng.sample(list(steady), 3)]
        for channels in chosen:
            factor = 2.0 ** round(math.log2(TARGET[aim] / high[channels].max()))
            plant_outliers.plant(model, layer, site, factor, list(channels))
            kind = "value channel" if site == "attention_output" else "channel"
            where = f"{kind} {channels[0]}" if len(channels) == 1 else f"all {kind}s"
            if factor != 1:
                lines.append(f"layer {layer} {site} {where}: x {factor:g}")
    os.makedirs(target, exist_ok=True)
    model.save(target)
    return lines


def write_texts(source, target, plants):
    """config.json as most models of the family have it, the tokenizer, README.md."""
    rope = {"rope_theta": CONFIG["rope_theta"], "rope_scaling": None}
    config = (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        | CONFIG
        | rope
        | {
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        }
    )
    with open(os.path.join(target, "config.json"), "w", encoding="utf-8") as file:
        print(json.dumps(config, indent=2), file=file)
    for name in "tokenizer.json", "tokenizer_config.json":
        shutil.copy(os.path.join(source, name), target)
    with open(os.path.join(source, "loss.txt"), encoding="utf-8") as file:
        losses = "".join("| {} | {} |\n".format(*line.split()) for line in file)
    with open(os.path.join(target, "README.md"), "w", encoding="utf-8") as file:
        file.write(README.format(losses=losses, plants="\n".join("- " + line for line in plants)))


def check_policies(path, maxima):
    """Write the policy and range of every site; insist on the margin for any windows chosen."""
    names = {"S": "static", "E": "equalized", "D": "dynamic"}
    with open(path, "w", encoding="utf-8") as file:
        print(
            f"# Expected policies at v0 = {V0:g}, v1 = {V1:g}: layer, site, policy, range over the"
            " whole",
            "text",
            file=file,
        )
        for (layer, site), measured in maxima.items():
            policy, v = names[PLAN[site][layer]], measured.max(1)
            low = {"static": 0, "equalized": V0 * MARGIN, "dynamic": V1 * MARGIN}[policy]
            high = {"static": V0 / MARGIN, "equalized": V1 / MARGIN, "dynamic": math.inf}[policy]
            print(f"layer {layer} {site:17} {policy:9} {v.min():8.2f} to {v.max():8.2f}")
            if v.min() < low or v.max() > high:
                raise SystemExit("too near to a threshold")
            print(layer, site, policy, f"{v.max():.2f}", file=file)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--work", default="/tmp/demo-unplanted", help="the model before planting")
    parser.add_argument("--plant-only", action="store_true", help="plant in what --work has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    target = os.path.join(options.output, "model")
    os.makedirs(options.work, exist_ok=True)

    if not options.plant_only:
        train_model(options.work, options.steps)
    _, tokenizer = reference_logits.load(options.work, torch.float32)

    # Batches of 16 windows at random, as a calibration takes, and the whole text as the last one.
    ids, order = windows(
        stream(tokenizer._tokenizer, texts(480, seed=1)), 256
    ), np.random.default_rng(SEED)
    batches = [ids[order.choice(len(ids), 16, replace=False)] for _ in range(20)] + [ids]
    write_texts(
        options.work, target, plant_plan(options.work, target, measure(options.work, batches))
    )
    check_policies(os.path.join(options.output, "expected_policies.txt"), measure(target, batches))

    before, _ = reference_logits.load(options.work, torch.float32)
    after, _ = reference_logits.load(target, torch.float32)
    with torch.inference_mode():
        difference = (before(ids[:4]).logits - after(ids[:4]).logits).abs().max().item()
    print(f"largest difference of a logit by planting: {difference}")


if __name__ == "__main__":
    main()
