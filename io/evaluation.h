/* Evaluation sets: what a model is asked, as texts, from files in the sets' own formats.
 *
 * Perplexity of a text:
 *   wikitext2   wiki.test.raw (Merity et al. 2017): lines of white space alone become empty, all
 *               are joined with "\n\n" (the others keep their newline)
 *   ptb         ptb.test.txt (Marcus et al. 1993): lines stripped, joined with " "
 * Choice of the continuation with the largest log-probability, with the prompts of
 * lm-evaluation-harness (Gao et al.):
 *   piqa        a folder with valid.jsonl and valid-labels.lst (Bisk et al. 2020)
 *   hellaswag   a .jsonl file (Zellers et al. 2019): with ctx_a, ctx_b and activity_label as
 * published (mark-up is then cleaned), or with `ctx` ready to use arc_easy    a .jsonl file (Clark
 * et al. 2018): question.stem, question.choices[].text, answerKey as published; or question,
 * choices.text, choices.label, answerKey; or question, choices, answer (an index) mmlu        a
 * folder with test/SUBJECT_test.csv and, for shots, dev/SUBJECT_dev.csv (Hendrycks et al. 2021):
 * question, four choices, answer (A to D, or an index from 0); a header row "question,..." is
 * passed over winogrande  a .jsonl file (Sakaguchi et al. 2020): sentence with "_", option1,
 * option2, answer; the option stands in the context, the rest of the sentence is the continuation
 * The last word of a text:
 *   lambada     a .jsonl file with `text`, or a .txt file with one on each line (Paperno et al.
 * 2016)
 */
#ifndef FPTQ_IO_EVALUATION_H
#define FPTQ_IO_EVALUATION_H

#include <stdbool.h>
#include <stdint.h>

#include "io/status.h"
#include "io/text_buffer.h"

enum evaluation_set {
    EVALUATION_WIKITEXT2,
    EVALUATION_PTB,
    EVALUATION_PIQA,
    EVALUATION_HELLASWAG,
    EVALUATION_ARC_EASY,
    EVALUATION_MMLU,
    EVALUATION_LAMBADA,
    EVALUATION_WINOGRANDE,
    EVALUATION_SET_COUNT
};

enum { EVALUATION_CHOICES_MAX = 16 };

struct evaluation_item {
    int choices; /* 1 to EVALUATION_CHOICES_MAX */
    int answer;  /* index of the right one */
    /* UTF-8, NUL ended. Choice i continues contexts[i], which is NULL where it is contexts[0]. */
    char *contexts[EVALUATION_CHOICES_MAX];
    char *continuations[EVALUATION_CHOICES_MAX];
    int64_t characters[EVALUATION_CHOICES_MAX]; /* of the choice, without the space before it */
};

struct evaluation_items {
    struct evaluation_item *items;
    int64_t count, capacity;
};

/* "wikitext2", ... */
const char *evaluation_set_name(enum evaluation_set set);
/* Whether it is one text for perplexity, and not items. */
bool evaluation_set_is_text(enum evaluation_set set);

/* The whole text. STATUS_INPUT where there is none. */
enum status evaluation_read_text(enum evaluation_set set, const char *path,
                                 struct text_buffer *text, struct error *error);
/* The first `limit` items (0: all); of mmlu, subjects sorted by name, as many of each as there are
 * when one is taken of each subject in turn. shots: answered questions before each one, the first
 * of the subject's dev file (mmlu only). STATUS_INPUT naming file and line where an item is not as
 * it must be. */
enum status evaluation_read_items(enum evaluation_set set, const char *path, int64_t limit,
                                  int shots, struct evaluation_items *items, struct error *error);
void evaluation_items_free(struct evaluation_items *items);
/* Bytes of a text without the white space at its end (as Python's str.rstrip sees it). */
size_t evaluation_stripped_length(const char *text);

#endif
