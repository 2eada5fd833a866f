#include "pipeline/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/log.h"

struct table {
    char *alignment;
    int columns;
    char **rows; /* (row_count) tab-separated; row 0 is the headings */
    int row_count, row_capacity;
};

static void add_row(struct table *table, char *row) {
    if (!row)
        return;
    if (table->row_count == table->row_capacity) {
        const int capacity = table->row_capacity ? 2 * table->row_capacity : 16;
        char **rows = realloc(table->rows, (size_t)capacity * sizeof *rows);
        if (!rows) {
            free(row);
            return;
        }
        table->rows = rows;
        table->row_capacity = capacity;
    }
    table->rows[table->row_count++] = row;
}

struct table *table_create(const char *alignment, const char *headings) {
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->alignment = strdup(alignment);
    add_row(table, strdup(headings));
    if (!table->alignment || table->row_count == 0) {
        table_free(table);
        return NULL;
    }
    table->columns = (int)strlen(alignment);
    return table;
}

void table_add(struct table *table, const char *format, ...) {
    if (!table)
        return;
    char *row = NULL;
    va_list arguments;
    va_start(arguments, format);
    const int length = vasprintf(&row, format, arguments);
    va_end(arguments);
    if (length >= 0)
        add_row(table, row);
}

/* The cell at *row, `*length` bytes; *row moves to the next one. */
static const char *next_cell(const char **row, int *length) {
    const char *cell = *row;
    *length = (int)strcspn(cell, "\t");
    *row += *length + (cell[*length] == '\t');
    return cell;
}

/* Characters of UTF-8 text: bytes that do not continue one. */
static int text_width(const char *text, int length) {
    int width = 0;
    for (int i = 0; i < length; i++)
        width += ((unsigned char)text[i] & 0xc0) != 0x80;
    return width;
}

static void write_row(const struct table *table, const char *row, const int *widths, FILE *file) {
    int owed = 0; /* spaces to write before the next text */
    for (int column = 0; column < table->columns; column++) {
        int length;
        const char *cell = next_cell(&row, &length);
        const int padding = widths[column] - text_width(cell, length);
        if (table->alignment[column] == 'r')
            owed += padding;
        if (length > 0) {
            fprintf(file, "%*s%.*s", owed, "", length, cell);
            owed = 0;
        }
        if (table->alignment[column] != 'r')
            owed += padding;
        owed += 2;
    }
    fputc('\n', file);
}

void table_write(const struct table *table, FILE *file) {
    if (!table)
        return;
    int *widths = calloc((size_t)table->columns + 1, sizeof *widths);
    if (!widths)
        return;
    for (int i = 0; i < table->row_count; i++) {
        const char *row = table->rows[i];
        for (int column = 0; column < table->columns; column++) {
            int length;
            const char *cell = next_cell(&row, &length);
            const int width = text_width(cell, length);
            widths[column] = width > widths[column] ? width : widths[column];
        }
    }
    for (int i = 0; i < table->row_count; i++)
        write_row(table, table->rows[i], widths, file);
    free(widths);
}

void table_print(struct table *table) {
    if (log_speaks())
        table_write(table, stdout);
    table_free(table);
}

void table_free(struct table *table) {
    if (!table)
        return;
    for (int i = 0; i < table->row_count; i++)
        free(table->rows[i]);
    free(table->rows);
    free(table->alignment);
    free(table);
}
