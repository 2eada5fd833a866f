#!/usr/bin/env python3
"""Compare tool_tokenize with the `tokenizers` package (for development; not part of the test suite).

    compare_tokenizers.py TOOL [--random N] [--seed S] [--special] TOKENIZER.json [FILE ...]
    compare_tokenizers.py TOOL --vectors TEXT IDS TOKENIZER.json

FILE is .jsonl (documents), or any text (its lines). --random adds N strings of random characters.
--vectors compares with a file of expected ids, one line of ids (", " between them) a line of TEXT, or one
line for all of TEXT. Lines of TEXT hold newlines and trailing spaces as \\n and \\s.
Prints what was compared, and the first differences; exits with 1 if there are any.
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile


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


def random_text(generator, added):
    parts = []
    for _ in range(generator.randrange(1, 60)):
        kind = generator.randrange(8)
        if kind < 3:
            parts.append(generator.choice(SPECIAL) * generator.choice((1, 1, 1, 2, 3, 7)))
        elif kind == 3:
            parts.append(chr(generator.randrange(0x20, 0x7f)))
        elif kind == 4:
            character = chr(generator.choice((0x100, 0x800, 0x3000, 0x10000, 0x110000)) - 1 - generator.randrange(0x80))
            parts.append(character if not 0xd800 <= ord(character) < 0xe000 else "x")
        elif kind == 5:
            character = generator.randrange(0x110000)
            parts.append(chr(character) if not 0xd800 <= character < 0xe000 else "y")
        elif kind == 6 and added:
            parts.append(generator.choice(added))
        else:
            parts.append(generator.choice((" the", "ing", "Hello", " world", "I'm", "don't", "we'LL", "123456", "\r\n", "  ")))
    return "".join(parts)


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
    parser.add_argument("tokenizer")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--special", action="store_true")
    parser.add_argument("--vectors", nargs=2)
    options = parser.parse_args()
    if options.vectors:
        text = open(options.vectors[0], encoding="utf-8", newline="").read()
        expected = [[int(word) for word in line.split(",")] for line in open(options.vectors[1]) if line.strip()]
        texts = [text] if len(expected) == 1 else [line.replace("\\n", "\n").replace("\\s", " ")
                                                  for line in text.split("\n") if line]
        found = run_tool(options.tool, options.tokenizer, texts, options.special)
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
        faults += compare(path, texts, expected, run_tool(options.tool, options.tokenizer, texts, options.special))
    if options.random:
        seed = random.randrange(1 << 32) if options.seed is None else options.seed
        generator = random.Random(seed)
        added = [token.content for token in reference.get_added_tokens_decoder().values()]
        texts = [random_text(generator, added) for _ in range(options.random)]
        expected = [reference.encode(text, add_special_tokens=options.special).ids for text in texts]
        faults += compare(f"random strings, seed {seed}", texts, expected,
                          run_tool(options.tool, options.tokenizer, texts, options.special))
    return faults != 0


if __name__ == "__main__":
    sys.exit(main())
