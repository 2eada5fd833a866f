#!/usr/bin/env python3
"""Write the demo's text: documents made from templates and word lists, in The Pile's record shape.

    tests/make_demo_text.py [--documents 480] [--seed 1] tests/demo/text.jsonl.zst

The same seed gives the same documents. Only the standard library and the zstd command are needed.
Every document keeps its own facts straight (names, sums, ingredients, prices), so that a small
model has something to learn. An OUTPUT that ends in .jsonl is written uncompressed.
"""

import argparse
import json
import random
import subprocess


def words(text):
    return [" ".join(word.split()) for word in text.split(",")]


def word_pairs(text):
    return [tuple(word.rsplit(maxsplit=1)) for word in words(text)]


PEOPLE = word_pairs("""
    Mira she, Tomas he, Zoë she, André he, Oluchi she, Bram he, Inés she, Jörg he, Hana she,
    Piotr he, Lucía she, Søren he, Nadia she, Emil he, Françoise she
""")
FORMS = {"she": ("her", "her"), "he": ("him", "his")}
ANIMALS = words("fox, heron, goat, otter, crow, hedgehog, donkey, cat, snail, badger")
PLACES = words("""
    harbour, orchard, old mill, market square, lighthouse, library, quarry, railway station,
    greenhouse, bakery, bridge, schoolyard
""")
TOWNS = words("""
    Mårvik, Saint-Élan, Brückstadt, Colina, Ashwick, Peñalba, Loděnice, Hollow Ford, Tarnów
    Dolny, Vila Açude, Kestrel Bay, Øystad
""")
THINGS = words("""
    brass key, blue lantern, torn map, silver whistle, wooden boat, red kite, clay jug, glass
    marble, music box, wool blanket, paper crown, small drum
""")
WEATHERS = words("cold and bright, grey and windy, warm and still, wet and foggy, clear and frosty")
FEELINGS = words("glad, tired, curious, worried, proud, surprised, calm, hungry")
ADVERBS = words("slowly, quietly, at once, carefully, with a laugh, without a word")
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words("""
    January, February, March, April, May, June, July, August, September, October, November,
    December
""")
NUMBER_WORDS = words("zero, one, two, three, four, five, six, seven, eight, nine, ten")
DISHES = words("soup, stew, pie, salad, purée, gratin, flan, crêpes, risotto, curry")
INGREDIENTS = word_pairs("""
    carrots g, leeks g, potatoes g, onions g, lentils g, mushrooms g, milk ml, cream ml, stock
    ml, flour g, butter g, rice g, apples g, jalapeños g, Gruyère g, spinach g, tomatoes g,
    olive oil ml
""")
SPICES = words("salt, pepper, thyme, nutmeg, paprika, cinnamon, bay leaf, cumin")
GOODS = words("""
    pencil, notebook, apple, candle, ticket, postcard, ribbon, teapot, button, sponge, basket,
    lamp
""")


def plural(noun):
    return noun + ("es" if noun.endswith(("ch", "x", "s")) else "s")


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(text):
    return text[0].upper() + text[1:]


def story(rng):
    (name, subject), (friend, _) = rng.sample(PEOPLE, 2)
    thing, animal, feeling = rng.choice(THINGS), rng.choice(ANIMALS), rng.choice(FEELINGS)
    here, there = rng.sample(PLACES, 2)
    obj, possessive = FORMS[subject]
    opening = rng.choice(
        [
            (
                f"{name} lived near the {here} of {rng.choice(TOWNS)}. Every {rng.choice(DAYS)}"
                f" {subject} walked to the {there} with {possessive} {thing}."
            ),
            (
                f"Once, on a day that was {rng.choice(WEATHERS)}, {name} found {article(thing)} at"
                f" the {here}."
            ),
            (
                f"“Where is my {thing}?” asked {name}. {sentence(subject)} had looked at the"
                f" {here}, and it was not there."
            ),
        ]
    )
    middle = rng.choice(
        [
            (
                f"A {animal} sat by the door. It looked at {obj} and said {rng.choice(ADVERBS)}:"
                f" “What you want is at the {there}.” {name} was {feeling}, but {subject} went."
            ),
            (
                f"On the way to the {there} {subject} met {friend}. “Come with me,” said {name}, “I"
                f" have something to show you.” {friend} followed {rng.choice(ADVERBS)}."
            ),
            (
                f"It began to rain, so {subject} ran to the {there}. Inside, {article(animal)} was"
                f" asleep on the {thing}. {name} waited {rng.choice(ADVERBS)} until it woke."
            ),
        ]
    )
    turn = rng.choice(
        [
            (
                f"They counted the steps: {', '.join(NUMBER_WORDS[1:rng.randint(4, 8)])}. Behind"
                f" the last one lay the {thing}, and beside it a note."
            ),
            (
                f"The door of the {there} was shut. {name} knocked {rng.choice(NUMBER_WORDS[2:6])}"
                f" times, and {friend} opened it."
            ),
            (
                f"“If you give me the {thing},” said the {animal}, “I will tell you a secret.”"
                f" {name} thought about it, and said no."
            ),
        ]
    )
    end = rng.choice(
        [
            (
                f"In the evening {name} was {rng.choice(FEELINGS)}, and put the {thing} back where"
                " it belonged."
            ),
            f"{friend} and {name} went home together, and the {animal} went with them. The end.",
            (
                f"Since that day the {thing} has been at the {here}, and {name} looks at it every"
                " morning."
            ),
        ]
    )
    return (
        "\n\n".join([f"The {thing.title()}", opening, middle, turn, end][rng.randint(0, 1) :])
        + "\n"
    )


def recipe(rng):
    parts = rng.sample(INGREDIENTS, rng.randint(3, 5))
    spices = rng.sample(SPICES, 2)
    dish, people = rng.choice(DISHES), rng.randint(2, 8)
    minutes, heat = rng.randrange(10, 65, 5), rng.randrange(160, 225, 10)
    title = f"{sentence(parts[0][0])} and {parts[1][0]} {dish}"
    lines = [f"{title} (serves {people})", "", "Ingredients:"]
    lines += [f"- {rng.randrange(50, 650, 50)} {unit} {what}" for what, unit in parts]
    lines += [f"- {rng.choice(['½', '1', '2', '¼'])} tsp {spice}" for spice in spices]
    steps = [
        f"Heat the oven to {heat} °C.",
        f"Weigh the {parts[0][0]} and put all in a large pan.",
        f"Add the {parts[1][0]} and the {parts[2][0]}, then stir {rng.choice(ADVERBS[:4])}.",
        f"Season with {spices[0]} and {spices[1]}.",
        f"Cook for {minutes} minutes, until everything is soft.",
        (
            f"Serve the {dish} hot, with"
            f" {rng.choice(['bread', 'rice', 'a green salad', 'crème fraîche'])}."
        ),
    ]
    lines += ["", "Method:"] + [f"{i}. {step}" for i, step in enumerate(steps, 1)]
    return "\n".join(lines) + "\n"


def arithmetic(rng):
    lines = []
    for _ in range(rng.randint(4, 9)):
        kind, (name, subject) = rng.randrange(4), rng.choice(PEOPLE)
        good = rng.choice(GOODS)
        a, b = rng.randint(2, 60), rng.randint(2, 40)
        if kind == 0:
            lines.append(f"{a} + {b} = {a + b}; {a + b} - {b} = {a}.")
        elif kind == 1:
            a, b = rng.randint(2, 12), rng.randint(2, 12)
            lines.append(f"{a} × {b} = {a * b}, so {a * b} ÷ {a} = {b}.")
        elif kind == 2:
            lines.append(
                f"Q: {name} has {a} {plural(good)} and buys {b} more. How many {plural(good)} has "
                f"{subject} now?\nA: {a} + {b} = {a + b}. {name} has {a + b} {plural(good)}."
            )
        else:
            b = rng.randint(1, a - 1)
            lines.append(
                f"Q: There are {a} {plural(good)} in a box. {name} takes {b} of them. How many are "
                f"left?\nA: {a} - {b} = {a - b}. There are {a - b} left."
            )
    return "\n".join(lines) + "\n"


def dialogue(rng):
    (first, _), (second, _) = rng.sample(PEOPLE, 2)
    place, thing = rng.choice(PLACES), rng.choice(THINGS)
    hour, minute = rng.randint(1, 12), rng.randrange(0, 60, 5)
    talk = [
        f"Good morning, {second}! How are you?",
        f"I am {rng.choice(FEELINGS)}, {first}, thank you. And you?",
        f"A little {rng.choice(FEELINGS)}. Have you seen my {thing}?",
        rng.choice(
            [
                f"Yes, it was at the {place} on {rng.choice(DAYS)}.",
                f"No... did you look at the {place}?",
                f"Your {thing}? I thought it was mine!",
            ]
        ),
        f"Then let us go to the {place} together.",
        f"At what time? I am free at {hour}:{minute:02d}.",
        f"{hour}:{minute:02d} is fine. See you at the {place}!",
        "See you later. Don’t forget your coat; it is " + rng.choice(WEATHERS) + " today.",
    ]
    mark = rng.choice([": ", " — "])
    return "\n".join(f"{(first, second)[i % 2]}{mark}{line}" for i, line in enumerate(talk)) + "\n"


def shopping(rng):
    lines, total = [f"Bill no. {rng.randint(1000, 9999)}, {rng.choice(TOWNS)}", ""], 0
    for good in rng.sample(GOODS, rng.randint(3, 7)):
        count, cents = rng.randint(1, 9), rng.randrange(20, 900, 5)
        total += count * cents
        lines.append(f"{count} × {good:<10} @ €{cents / 100:.2f} = €{count * cents / 100:.2f}")
    paid = -(-total // 1000) * 1000
    lines += [
        "-" * 36,
        f"Total: €{total / 100:.2f}",
        f"Paid: €{paid / 100:.2f}; change: €{(paid - total) / 100:.2f}. Thank you!",
    ]
    return "\n".join(lines) + "\n"


def letter(rng):
    (writer, _), (reader, _) = rng.sample(PEOPLE, 2)
    town, place, animal = rng.choice(TOWNS), rng.choice(PLACES), rng.choice(ANIMALS)
    date = f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1950, 2020)}"
    return (
        f"{town}, {date}\n\nDear {reader},\n\nI hope this letter finds you well. Here in {town} it"
        f" has been {rng.choice(WEATHERS)} for {rng.choice(NUMBER_WORDS[2:])} days. Yesterday I"
        f" went to the {place} and saw {article(animal)}, as"
        f" {rng.choice(['big', 'old', 'shy', 'loud'])} as the one we saw in {rng.choice(MONTHS)}. I"
        f" was {rng.choice(FEELINGS)} all day.\n\nPlease write to me soon, and bring the"
        f" {rng.choice(THINGS)} when you come on {rng.choice(DAYS)}.\n\nYours,\n{writer}\n\nP.S. My"
        f" new address is {rng.randint(1, 99)} {rng.choice(PLACES).title()} Street.\n"
    )


def entry(rng):
    town, other, third = rng.sample(TOWNS, 3)
    founded, people = rng.randint(900, 1900), rng.randint(2, 900) * 100
    north, east = rng.uniform(35, 65), rng.uniform(-9, 25)
    return (
        f"{town} is a town on the river"
        f" {rng.choice(['Elna', 'Tarn', 'Weir', 'Großbach', 'Río Claro'])}, {rng.randint(5, 90)} km"
        f" from {other} ({north:.2f}° N, {abs(east):.2f}° {'E' if east > 0 else 'W'}). It was"
        f" founded in {founded} and has about {people:,} inhabitants.\n\nThe town is known for its"
        f" {rng.choice(PLACES)}, which was built in {founded + rng.randint(5, 90)}, and for its"
        f" {rng.choice(INGREDIENTS)[0]}. The {rng.choice(ANIMALS)} on its flag stands for"
        f" {rng.choice(['patience', 'courage', 'good harvests', 'the sea'])}. A market is held"
        f" every {rng.choice(DAYS)}; in {rng.choice(MONTHS)} there is a festival with music,"
        f" lanterns and {rng.choice(DISHES)}.\n\nSee also: {other}, {third}.\n"
    )


def listing(rng):
    kind = rng.randrange(3)
    if kind == 0:
        items = rng.sample(THINGS, rng.randint(4, 8))
        head = f"Things to bring to the {rng.choice(PLACES)}:"
        return head + "\n" + "\n".join(f"* {article(item)}" for item in items) + "\n"
    if kind == 1:
        day = rng.randrange(7)
        lines = [
            f"{DAYS[(day + i) % 7]}: {rng.choice(WEATHERS)}, {rng.randint(-8, 31)} °C"
            for i in range(rng.randint(4, 7))
        ]
        return f"The weather in {rng.choice(TOWNS)}\n" + "\n".join(lines) + "\n"
    start, step = rng.randint(0, 20), rng.randint(1, 9)
    count = rng.randint(8, 20)
    return (
        f"Count from {start} in steps of {step}: "
        + ", ".join(str(start + i * step) for i in range(count))
        + ".\n"
    )


def program(rng):
    good = rng.choice(GOODS)
    price, limit = rng.randint(2, 20), rng.randint(3, 9)
    total = price * limit
    return rng.choice(
        [
            (
                f'def price_of_{good}s(count):\n    """Each {good} costs {price}."""\n    if count'
                f' < 0:\n        raise ValueError("count < 0")\n    return {price} *'
                f" count\n\n\nassert price_of_{good}s({limit}) == {total}\n"
            ),
            f'{{"item": "{good}", "price": {price}, "count": {limit}, "total": {total}}}\n',
            (
                f"for (int i = 0; i < {limit}; i++)\n    total += {good}[i] * {price}; /* at most"
                f" {total} */\n"
            ),
            (
                f"# {good}.conf\n[{good}]\nprice = {price}\ncount = {limit}\nowner ="
                f' "{good}@example.org"\n'
            ),
        ]
    )


KINDS = [
    (story, "Stories", 6),
    (recipe, "Recipes", 4),
    (arithmetic, "Arithmetic", 4),
    (dialogue, "Dialogues", 4),
    (shopping, "Bills", 2),
    (letter, "Letters", 3),
    (entry, "Towns", 3),
    (listing, "Lists", 3),
    (program, "Programs", 1),
]


def documents(count, seed):
    """Yield (kind, text); some documents are several pieces of one kind."""
    rng = random.Random(seed)
    for _ in range(count):
        make, kind, _ = rng.choices(KINDS, [weight for *_, weight in KINDS])[0]
        pieces = [make(rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        yield kind, "\n".join(pieces)


def record(number, kind, text):
    """The Pile's shape. Its shards have `meta` as object or string, and escape differently."""
    meta = {"pile_set_name": "Demo-" + kind}
    fields = {"text": text, "meta": str(meta) if number % 5 == 4 else meta}
    return json.dumps(fields, ensure_ascii=number % 3 == 0) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=480)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=3, help="zstd frames, one after the other")
    parser.add_argument("output")
    options = parser.parse_args()

    lines = [
        record(i, *pair).encode()
        for i, pair in enumerate(documents(options.documents, options.seed))
    ]
    with open(options.output, "wb") as output:
        if options.output.endswith(".jsonl"):
            output.writelines(lines)
            return
        # Frames end where they may: also in the middle of a line.
        text = b"".join(lines)
        cuts = [len(text) * i // options.frames for i in range(options.frames + 1)]
        for begin, end in zip(cuts, cuts[1:]):
            output.write(
                subprocess.run(
                    ["zstd", "-19", "-c", "-q"],
                    input=text[begin:end],
                    check=True,
                    stdout=subprocess.PIPE,
                ).stdout
            )


if __name__ == "__main__":
    main()
