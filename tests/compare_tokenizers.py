#!/usr/bin/env python3
"""Compare tool_tokenize with the `tokenizers` package (for development; not part of the test suite).

    compare_tokenizers.py TOOL [--random N] [--seed S] [--special] TOKENIZER.json [FILE ...]
    compare_tokenizers.py TOOL --vectors TEXT IDS TOKENIZER.json
    compare_tokenizers.py TOOL --configurations N [--seed S]

FILE is .jsonl (documents), or any text (its lines). --random adds N strings of random characters.
--vectors compares with a file of expected ids, one line of ids (", " between them) a line of TEXT, or one
line for all of TEXT. Lines of TEXT hold newlines and trailing spaces as \\n and \\s.
--configurations makes N random small tokenizers of every supported part and compares each on random strings.
--model MODEL lets the tool read the tokenizer of a model (a folder or a GGUF file) instead of TOKENIZER.json.
Prints what was compared, and the first differences; exits with 1 if there are any.

The last run, with tokenizers 0.23.3, PCRE2 10.42 and utf8proc 2.8: no difference in
  LLaMA-2's vectors (mixed 27672 tokens, small 4433, UTF-8 sample 7626);
  1000 web documents (4.7 MB): LLaMA-2 1189962 tokens, Qwen2.5 1009846, SmolLM2 1082287, stories260K 2815066;
  WikiText-2's test lines; every character of Unicode in one line; 3000 random strings for each of them;
  the tokenizers made from GGUF metadata, against transformers' with the steps it leaves out there (NFC for
  Qwen2.5: 1009844 tokens, Digits for SmolLM2: 1081792);
  10000 random configurations: 37 million tokens.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
import unicodedata


def run_tool(tool, tokenizer, texts, special):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        file.flush()
        command = [tool] + (["-s"] if special else []) + [tokenizer, file.name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()
    return [[int(word) for word in line.split()] for line in output.split("\n")[:-1]]


# Where tokenizers go wrong: spaces of all kinds, letters that fold or combine, marks, digits of other scripts,
# emoji with joiners, what splits words.
SPECIAL = ("  \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2000\u2009\u200b\u200d\u2028\u2029\u202f\u205f\u3000\ufeff\ufffd\0\x7f"
           "''’ſK'sS't'll're've.,!?…。，、।۔،()[]{}|\\/<>&@#$%^*-_=+~`\"\u0301\u0308\u0345\u093f\u0e33\u1100\u1161\u11a8"
           "0123456789٣४๙Ⅷ½²①ʼnŉßİıÅÅéé가각のいい中文字한국русскийالعربيةहिन्दीไทย👩‍👩‍👧🏃‍♂️🇩🇪𝔾𐐷𑂙▁ĠĊ")


def random_character(generator, first, end):
    """Not a surrogate, nor a character that Python's Unicode (14 in 3.11, as PCRE2 10.42's) does not know yet, nor
    U+07FD, a mark of Unicode 11 that the library's NFC (Unicode 9) does not put in order."""
    while True:
        character = chr(generator.randrange(first, end))
        if character != "\u07fd" and unicodedata.category(character) not in ("Cs", "Cn") or 0x40000 <= ord(character) < 0xe0000:
            return character


def random_text(generator, added):
    parts = []
    for _ in range(generator.randrange(1, 60)):
        kind = generator.randrange(8)
        if kind < 3:
            parts.append(generator.choice(SPECIAL) * generator.choice((1, 1, 1, 2, 3, 7)))
        elif kind == 3:
            parts.append(chr(generator.randrange(0x20, 0x7f)))
        elif kind == 4:
            end = generator.choice((0x100, 0x800, 0x3000, 0xfffe, 0x10ff00))
            parts.append(random_character(generator, end - 0x80, end))
        elif kind == 5:
            parts.append(random_character(generator, 0, 0x110000))
        elif kind == 6 and added:
            parts.append(generator.choice(added))
        else:
            parts.append(generator.choice((" the", "ing", "Hello", " world", "I'm", "don't", "we'LL", "123456", "\r\n", "  ")))
    return "".join(parts)


PATTERNS = (
    # GPT-2, Llama-3, BLOOM, GPT-4o, DeepSeek
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳ]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", r"[一-龥ࠀ-一가-\ud7ff]+",
    # one construct each
    r"[0-9][0-9][0-9]", r"\d", r"\p{N}{1,3}", r"\s?\p{L}++", r"(?<=\p{L})\p{N}|\w+?|\W", r"[^\s\d]", r"\p{Han}+|\P{Han}",
    r"(?>a|the)*", r"x*", r"\s", r"[a-c[x-z]\-]+", r"^ |$", r"(?=[A-Z])", r"\{|\t|{|}", r"[-a]|[a-]|[+--]", r"[^\r\n]+",
    r"\x{1F3C3}|\x41|\u4e2d", r"a{,2}b|l{2,}|o{1}", r".", r"(?i:k|ſ)+", r"\A\s|\z|\Z", r"[\p{^L}\S]+",
)


def random_configuration(generator):
    """A tokenizer.json: a vocabulary of single characters and random merges, and random steps."""
    byte_level = generator.random() < 0.5
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte_level:
        alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
        alphabet = [c for c in alphabet if generator.random() < 0.98]
    else:
        alphabet = sorted({c for c in SPECIAL + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c != "\0" and generator.random() < 0.8})
        alphabet += [f"<0x{b:02X}>" for b in range(256) if generator.random() < generator.choice((0, 1, 0.99))]
    tokens, merges = list(alphabet), []
    frequent = [c for c in alphabet if c in " ▁Ġtheingoldwr'1234ĊÃâ"] or alphabet
    for _ in range(generator.randrange(400)):
        pair = [generator.choice(tokens if generator.random() < 0.4 else merges and [a + b for a, b in merges] or frequent) if
                generator.random() < 0.6 else generator.choice(frequent) for _ in range(2)]
        if [*pair] not in merges and len("".join(pair)) < 12:
            merges.append(pair)
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
    tokens.append("<unk>")
    generator.shuffle(tokens)
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "BPE", "dropout": None, "unk_token": generator.choice((None, "<unk>")), "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": generator.random() < 0.5, "byte_fallback": generator.random() < 0.5,
             "ignore_merges": generator.random() < 0.3, "vocab": vocab,
             "merges": merges if generator.random() < 0.5 or any(" " in a + b for a, b in merges) else [" ".join(pair) for pair in merges]}

    def pattern():
        return {"Regex": generator.choice(PATTERNS)} if generator.random() < 0.8 else {"String": generator.choice((" ", "▁", "in", "’", "[.]"))}

    def normalizer(depth=0):
        kind = generator.randrange(5 if depth < 2 else 4)
        if kind == 4:
            return {"type": "Sequence", "normalizers": [normalizer(depth + 1) for _ in range(generator.randrange(4))]}
        return ({"type": "Prepend", "prepend": generator.choice(("▁", " ", "ab"))}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                {"type": "Replace", "pattern": {"Regex": generator.choice((r" {2,}", r"\s", r"\p{M}+", r"[‘’]", r"(?<=n)g"))},
                 "content": generator.choice(("", "'", "▁", "\\1"))}, {"type": "NFC"})[kind]

    def pre_tokenizer(depth=0):
        kind = generator.randrange(6 if depth < 2 else 5)
        if kind == 5:
            return {"type": "Sequence", "pretokenizers": [pre_tokenizer(depth + 1) for _ in range(generator.randrange(4))]}
        if kind == 2:
            return {"type": "ByteLevel", "add_prefix_space": generator.random() < 0.5, "trim_offsets": True, "use_regex": generator.random() < 0.5}
        if kind == 3:
            return {"type": "Digits", "individual_digits": generator.random() < 0.5}
        if kind == 4:
            return {"type": "Metaspace", "replacement": generator.choice("▁_"), "prepend_scheme": generator.choice(("always", "never")),
                    "split": generator.random() < 0.7}
        return {"type": "Split", "pattern": pattern(), "invert": generator.random() < 0.3,
                "behavior": generator.choice(("Removed", "Isolated", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"))}

    steps = [pre_tokenizer(1) for _ in range(generator.randrange(3))]
    first = generator.random() < 0.1
    if first:
        steps.insert(0, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": generator.random() < 0.5})
    if byte_level:
        steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": generator.random() < 0.5})
    contents = generator.sample(["<s>", "</s>", "<|endoftext|>", "<unk>", "the", "hello", "\n\n", "in", "ing", " world", "1", "中",
                                 *generator.choice((["  "], ["▁▁"])), *generator.choice((["é"], ["e\u0301"]))],  # not two of the same
                                generator.randrange(8))  # when normalized: the library takes one at random
    if "</s>" not in contents:
        contents.append("</s>")
    added, following = [], len(tokens)
    for content in contents:
        flags = {name: generator.random() < 0.3 for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        added.append({"id": vocab.get(content, following), "content": content, **flags})
        following += content not in vocab
    end = {"</s>": {"id": "</s>", "ids": [token["id"] for token in added if token["content"] == "</s>"], "tokens": ["</s>"]}}
    special, sequence = {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": generator.choice(([sequence], [special, sequence], [sequence, special], [special, special, sequence, special])),
                "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": end}
    offsets = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": generator.choice((None, {"type": "NFC"}) if first else (None, normalizer(), normalizer())),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if len(steps) != 1 or generator.random() < 0.5 else steps[0],
            "post_processor": generator.choice((None, template, offsets, {"type": "Sequence", "processors": [offsets, template]})),
            "decoder": None, "model": model}


def compare_configurations(tool, count, seed):
    import tokenizers
    faults = tokens = texts_compared = 0
    for index in range(count):
        generator = random.Random(f"{seed} {index}")
        configuration = random_configuration(generator)
        reference = tokenizers.Tokenizer.from_str(json.dumps(configuration))
        added = [token["content"] for token in configuration["added_tokens"]]
        normalized = [token["content"] for token in configuration["added_tokens"] if token["normalized"]]
        if reference.normalizer:
            normalized = [reference.normalizer.normalize_str(content) for content in normalized]
        if "" in normalized or len(set(normalized)) < len(normalized):
            continue  # the library finds an empty one everywhere, and one of two that are the same at random
        texts, expected = [], []
        for _ in range(40):
            text = random_text(generator, added)
            try:
                expected.append(reference.encode(text, add_special_tokens=True).ids)
                texts.append(text)
            except BaseException as fault:  # the library panics at times, as where lstrip and rstrip overlap
                if type(fault).__name__ != "PanicException":
                    raise
        if not texts:
            continue
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(configuration, file)
            file.flush()
            found = run_tool(tool, file.name, texts, True)
        tokens += sum(map(len, expected))
        texts_compared += len(texts)
        if found != expected:
            faults += 1
            shown = {key: value for key, value in configuration.items() if key != "model"}
            shown["model"] = {key: value for key, value in configuration["model"].items() if key not in ("vocab", "merges")}
            print(json.dumps(shown, ensure_ascii=False))
            compare(f"configuration {index} of seed {seed}", texts, expected, found)
    print(f"{count} configurations, seed {seed}: {texts_compared} texts, {tokens} tokens, {faults} configurations differ")
    return faults


def compare(name, texts, expected, found):
    different = [i for i in range(len(texts)) if i >= len(found) or expected[i] != found[i]]
    if len(found) != len(texts):
        print(f"{name}: {len(found)} answers for {len(texts)} texts")
    tokens = sum(len(ids) for ids in expected)
    print(f"{name}: {len(texts)} texts, {tokens} tokens, {len(different)} texts differ")
    for i in different[:5]:
        at = next((j for j, (a, b) in enumerate(zip(expected[i], found[i])) if a != b), min(len(expected[i]), len(found[i])))
        print(f"  text {i} {texts[i][:200]!r}: from token {at} expected {expected[i][at:at+8]}, found {found[i][at:at+8]}")
    return len(different) + abs(len(found) - len(texts))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("tokenizer", nargs="?")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--special", action="store_true")
    parser.add_argument("--vectors", nargs=2)
    parser.add_argument("--model")
    parser.add_argument("--configurations", type=int, default=0)
    options = parser.parse_intermixed_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    if options.configurations:
        return compare_configurations(options.tool, options.configurations, seed) != 0
    ours = options.model or options.tokenizer
    if options.vectors:
        text = open(options.vectors[0], encoding="utf-8", newline="").read()
        expected = [[int(word) for word in line.split(",")] for line in open(options.vectors[1]) if line.strip()]
        texts = [text] if len(expected) == 1 else [line.replace("\\n", "\n").replace("\\s", " ")
                                                  for line in text.split("\n") if line]
        found = run_tool(options.tool, ours, texts, options.special)
        return compare(options.vectors[1], texts, expected, found) != 0
    import tokenizers
    reference = tokenizers.Tokenizer.from_file(options.tokenizer)
    reference.no_truncation()
    faults = 0
    for path in options.files:
        with open(path, encoding="utf-8", newline="") as file:
            lines = file.read().split("\n")
        texts = [json.loads(line)["text"] for line in lines if line.strip()] if path.endswith(".jsonl") else lines
        expected = [reference.encode(text, add_special_tokens=options.special).ids for text in texts]
        faults += compare(path, texts, expected, run_tool(options.tool, ours, texts, options.special))
    if options.random:
        generator = random.Random(seed)
        added = [token.content for token in reference.get_added_tokens_decoder().values()]
        texts = [random_text(generator, added) for _ in range(options.random)]
        expected = [reference.encode(text, add_special_tokens=options.special).ids for text in texts]
        faults += compare(f"random strings, seed {seed}", texts, expected,
                          run_tool(options.tool, ours, texts, options.special))
    return faults != 0


if __name__ == "__main__":
    sys.exit(main())
