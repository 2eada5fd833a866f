/* Tables of aligned columns on standard output. */
#ifndef FPTQ_PIPELINE_TABLE_H
#define FPTQ_PIPELINE_TABLE_H

#include <stdio.h>

struct table;

/* headings: cells separated by tabs. alignment: 'l' or 'r' for each column, and so how many columns
 * there are. NULL when memory runs out; all functions take a NULL table and do nothing. */
struct table *table_create(const char *alignment, const char *headings);
/* One row: a printf format whose text has the cells separated by tabs. Missing cells are empty,
 * cells too many are left out. */
void table_add(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Headings and rows, two spaces between columns, no space at a line's end. */
void table_write(const struct table *table, FILE *file);
/* table_write to standard output if this process speaks (pipeline/log.h); then free the table. */
void table_print(struct table *table);
void table_free(struct table *table);

#endif
