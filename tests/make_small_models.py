#!/usr/bin/env python3
"""Make the small random models of tests/golden and record their logits (development only).

    tests/make_small_models.py [NAME ...]

Each is built by transformers from the real configuration class of its family, all parameters drawn
anew (as initialised, norms are 1 and biases 0, and attention is nearly uniform), and saved with
save_pretrained as tests/golden/NAME/model. reference_logits.py records the rest of the folder.
"""

import json
import os
import sys

import gguf
import numpy as np
import safetensors.torch
import torch
import transformers

import reference_logits

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
TOKENS, EVERY, VOCABULARY = 80, 2, 64

BLOOM = {"vocab_size": VOCABULARY, "layer_norm_epsilon": 1e-5}
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# name: (configuration class, its arguments, type of the weights)
MODELS = {
    "bloom8": (
        transformers.BloomConfig,
        {"hidden_size": 32, "n_layer": 2, "n_head": 8, **BLOOM},
        torch.bfloat16,
    ),
    "bloom12": (
        transformers.BloomConfig,
        {"hidden_size": 24, "n_layer": 4, "n_head": 12, **BLOOM},
        torch.float16,
    ),
    "llama_mha": (
        transformers.LlamaConfig,
        {**LLAMA, "num_attention_heads": 4, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        torch.float16,
    ),
    "llama_gqa": (
        transformers.LlamaConfig,
        {**LLAMA, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8},
        torch.float16,
    ),
    "llama3": (
        transformers.LlamaConfig,
        {**LLAMA, "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": LLAMA3_ROPE},
        torch.bfloat16,
    ),
    "mistral": (
        transformers.MistralConfig,
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 24},
        torch.bfloat16,
    ),
    "qwen2": (
        transformers.Qwen2Config,
        {**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
        torch.bfloat16,
    ),
    "starcoder2": (
        transformers.Starcoder2Config,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 72,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "sliding_window": 24,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        torch.bfloat16,
    ),
}


def draw_parameters(model):
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.data.normal_(1, 0.2)
        elif parameter.dim() == 1:
            parameter.data.normal_(0, 0.2)
        elif "embed" in name:
            parameter.data.normal_(0, 1)
        else:  # queries and keys large enough for attention that is far from uniform
            parameter.data.normal_(0, 1.2 * parameter.shape[1] ** -0.5)


def rename_as_published(folder):
    """BLOOM as it was first published: no "transformer." in the names, older keys of config.json."""
    path = os.path.join(folder, "model.safetensors")
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for new, old in (("hidden_size", "n_embed"), ("n_head", "num_attention_heads")):
        config[old] = config.pop(new)
    config["architectures"] = ["BloomModel"]
    config["seq_length"] = 2048
    del config["tie_word_embeddings"]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def write_bloom_gguf(model, path):
    """As llama.cpp's converter does: rows of q, k and v apart."""
    config = model.config
    writer = gguf.GGUFWriter(path, "bloom")
    writer.add_context_length(2048)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(4 * config.hidden_size)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BLOOM, config.n_layer)
    for name, tensor in model.transformer.state_dict().items():
        array = tensor.float().numpy()
        if "query_key_value" in name:
            heads = array.reshape(config.n_head, 3, config.hidden_size // config.n_head, -1)
            array = heads.swapaxes(0, 1).reshape(array.shape)
        array = np.ascontiguousarray(array, np.float32 if array.ndim == 1 else np.float16)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(name):
    config_class, arguments, dtype = MODELS[name]
    torch.manual_seed(sum(name.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config_class(**arguments)).float()
    draw_parameters(model)
    model = model.to(dtype)
    output = os.path.join(GOLDEN, name)
    folder = os.path.join(output, "model")
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    if name == "bloom12":
        rename_as_published(folder)
        write_bloom_gguf(model, os.path.join(output, "model.gguf"))
    ids = np.random.default_rng(1).integers(0, VOCABULARY, TOKENS).astype(np.int32)
    reference_logits.record(folder, ids, output, EVERY)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)
