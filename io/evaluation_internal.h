/* What the readers of evaluation sets share. */
#ifndef FPTQ_IO_EVALUATION_INTERNAL_H
#define FPTQ_IO_EVALUATION_INTERNAL_H

#include "io/evaluation.h"

/* A piece of a text. */
struct evaluation_span {
    const char *text;
    size_t length;
};

/* The next line of *rest, without its end; false when there is none. *rest is moved behind it. */
bool evaluation_next_line(struct evaluation_span *rest, struct evaluation_span *line);
/* Without white space (as Python's str.strip sees it) at both ends. */
struct evaluation_span evaluation_strip(struct evaluation_span span);

/* A new item at the end, all zero, or NULL when memory runs out. */
struct evaluation_item *evaluation_items_add(struct evaluation_items *items);
/* Text of malloc in *text, replacing what is there. */
bool evaluation_print(char **text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Continuation `index` of an item: " " and the choice. */
bool evaluation_set_choice(struct evaluation_item *item, int index, const char *choice);

enum status evaluation_read_lines(enum evaluation_set set, const char *path, int64_t limit,
                                  struct evaluation_items *items, struct error *error);
enum status evaluation_read_mmlu(const char *path, int64_t limit, int shots,
                                 struct evaluation_items *items, struct error *error);

#endif
