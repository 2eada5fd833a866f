/* MMLU: a CSV file for each subject (RFC 4180: fields in quotes may hold commas, line ends and
 * doubled quotes). */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "io/evaluation_internal.h"
#include "io/mapped_file.h"

enum { FIELDS = 6, CHOICES = 4, DEV_BYTES_MAX = 1 << 20 };
#define TEST_SUFFIX "_test.csv"

/* Rows of one file. */
struct table {
    const char *path;
    const char *at, *end;
    int64_t line;            /* where the next row begins */
    int64_t row_line;        /* where the last one began */
    struct text_buffer text; /* the last row's fields, each NUL ended */
    const char *fields[FIELDS];
};

static enum status out_of_memory(const char *path, struct error *error) {
    return error_set(error, STATUS_FAILED, "%s: out of memory", path);
}

static enum status fault(const struct table *table, const char *what, struct error *error) {
    return error_set(error, STATUS_INPUT, "%s:%lld: %s", table->path, (long long)table->row_line,
                     what);
}

/* One field with the comma or line end after it; *last: it was the row's last. */
static enum status read_field(struct table *table, bool *last, struct error *error) {
    bool quoted = table->at < table->end && *table->at == '"';
    table->at += quoted;
    *last = false;
    for (; table->at < table->end; table->at++) {
        const char byte = *table->at;
        table->line += byte == '\n';
        if (!byte)
            return fault(table, "there is a NUL byte in it", error);
        if (quoted && byte == '"') {
            if (table->at + 1 < table->end && table->at[1] == '"')
                table->at++;
            else {
                quoted = false;
                continue;
            }
        } else if (!quoted && (byte == ',' || byte == '\n')) {
            break;
        } else if (!quoted && byte == '\r' && table->at + 1 < table->end && table->at[1] == '\n') {
            continue;
        }
        if (!text_buffer_append(&table->text, table->at, 1))
            return out_of_memory(table->path, error);
    }
    if (quoted)
        return fault(table, "a quoted field does not end", error);
    *last = table->at == table->end || *table->at == '\n';
    table->at += table->at < table->end;
    return text_buffer_append(&table->text, "", 1) ? STATUS_OK : out_of_memory(table->path, error);
}

/* The next row of six fields; *found is false at the end. Empty lines are passed over. */
static enum status next_row(struct table *table, bool *found, struct error *error) {
    while (table->at < table->end && (*table->at == '\n' || *table->at == '\r'))
        table->line += *table->at++ == '\n';
    *found = table->at < table->end;
    if (!*found)
        return STATUS_OK;
    table->row_line = table->line;
    table->text.length = 0;
    int count = 0;
    for (bool last = false; !last; count++) {
        const enum status status = read_field(table, &last, error);
        if (status)
            return status;
        if (count == FIELDS)
            return fault(table, "there are more than 6 fields", error);
    }
    if (count != FIELDS)
        return fault(table, "there are fewer than 6 fields", error);
    const char *field = table->text.data;
    for (int i = 0; i < FIELDS; i++, field += strlen(field) + 1)
        table->fields[i] = field;
    return STATUS_OK;
}

/* Past the header row, if there is one. */
static enum status next_question(struct table *table, bool *found, struct error *error) {
    enum status status = next_row(table, found, error);
    if (!status && *found && table->row_line == 1 && !strcmp(table->fields[0], "question") &&
        !strcmp(table->fields[FIELDS - 1], "answer"))
        status = next_row(table, found, error);
    return status;
}

static enum status read_answer(const struct table *table, int *answer, struct error *error) {
    const char *text = table->fields[FIELDS - 1];
    if (text[0] >= 'A' && text[0] < 'A' + CHOICES && !text[1])
        *answer = text[0] - 'A';
    else if (text[0] >= '0' && text[0] < '0' + CHOICES && !text[1])
        *answer = text[0] - '0';
    else
        return fault(table, "the answer is neither A to D nor 0 to 3", error);
    return STATUS_OK;
}

/* "QUESTION\nA. ...\nB. ...\nC. ...\nD. ...\nAnswer:" after `before`, and the answer (-1: none). */
static bool print_question(char **text, const char *before, const struct table *table, int answer) {
    const char *const *fields = table->fields;
    const struct evaluation_span question =
        evaluation_strip((struct evaluation_span){fields[0], strlen(fields[0])});
    char shown[8] = "";
    if (answer >= 0)
        memcpy(shown, (const char[]){' ', (char)('A' + answer), '\n', '\n', 0}, 5);
    return evaluation_print(text, "%s%.*s\nA. %s\nB. %s\nC. %s\nD. %s\nAnswer:%s", before,
                            (int)question.length, question.text, fields[1], fields[2], fields[3],
                            fields[4], shown);
}

/* What stands before every question of a subject. */
static enum status read_preamble(const char *folder, const char *subject, int shots, char **text,
                                 struct error *error) {
    char *path = NULL, *name = strdup(subject);
    struct mapped_file file = {0};
    for (char *byte = name; byte && *byte; byte++)
        if (*byte == '_')
            *byte = ' ';
    enum status status = STATUS_OK;
    if (!name || !evaluation_print(&path, "%s/dev/%s_dev.csv", folder, subject) ||
        !evaluation_print(text,
                          "The following are multiple choice questions (with answers) about "
                          "%s.\n\n",
                          name))
        status = out_of_memory(folder, error);
    if (!status && shots)
        status = mapped_file_open(path, &file, error);
    if (!status && file.size > DEV_BYTES_MAX)
        status = error_set(error, STATUS_INPUT, "%s: more than 1 MiB is no dev file", path);
    const char *data = (const char *)file.data;
    struct table table = {
        .path = path, .at = data, .end = data ? data + file.size : NULL, .line = 1};
    for (int shot = 0; !status && shot < shots; shot++) {
        bool found;
        int answer;
        status = next_question(&table, &found, error);
        if (!status && !found)
            status = error_set(error, STATUS_INPUT, "%s: %d questions are too few for %d shots",
                               path, shot, shots);
        if (!status)
            status = read_answer(&table, &answer, error);
        if (!status && !print_question(text, *text, &table, answer))
            status = out_of_memory(path, error);
    }
    text_buffer_free(&table.text);
    mapped_file_close(&file);
    free(path);
    free(name);
    return status;
}

/* The first `most` questions of a subject, or their number alone where items is NULL. */
static enum status read_subject(const char *folder, const char *subject, int64_t most, int shots,
                                struct evaluation_items *items, int64_t *count,
                                struct error *error) {
    static const char *const letters[CHOICES] = {"A", "B", "C", "D"};
    char *path = NULL, *preamble = NULL;
    struct mapped_file file = {0};
    enum status status = evaluation_print(&path, "%s/test/%s" TEST_SUFFIX, folder, subject)
                             ? mapped_file_open(path, &file, error)
                             : out_of_memory(folder, error);
    if (!status && items)
        status = read_preamble(folder, subject, shots, &preamble, error);
    const char *data = (const char *)file.data;
    struct table table = {
        .path = path, .at = data, .end = data ? data + file.size : NULL, .line = 1};
    for (*count = 0; !status && *count < most; ++*count) {
        bool found;
        status = next_question(&table, &found, error);
        if (status || !found)
            break;
        if (!items)
            continue;
        struct evaluation_item *item = evaluation_items_add(items);
        bool complete = item && print_question(&item->contexts[0], preamble, &table, -1);
        for (int i = 0; complete && i < CHOICES; i++)
            complete = evaluation_set_choice(item, i, letters[i]);
        if (!complete)
            status = out_of_memory(path, error);
        else {
            item->choices = CHOICES;
            status = read_answer(&table, &item->answer, error);
        }
    }
    text_buffer_free(&table.text);
    mapped_file_close(&file);
    free(preamble);
    free(path);
    return status;
}

static int is_test_file(const struct dirent *entry) {
    const size_t length = strlen(entry->d_name), suffix = strlen(TEST_SUFFIX);
    return length > suffix && !strcmp(entry->d_name + length - suffix, TEST_SUFFIX);
}

static int by_name(const struct dirent **left, const struct dirent **right) {
    return strcmp((*left)->d_name, (*right)->d_name);
}

/* Questions there are when none of the subjects has more than `level`. */
static int64_t total_at(const int64_t *counts, int subjects, int64_t level) {
    int64_t total = 0;
    for (int i = 0; i < subjects; i++)
        total += counts[i] < level ? counts[i] : level;
    return total;
}

/* counts: questions of each subject; lowered to what a limit leaves when one is taken of each
 * subject in turn. */
static void share_out(int64_t *counts, int subjects, int64_t limit) {
    int64_t level = 0; /* whole turns */
    while (total_at(counts, subjects, level + 1) <= limit &&
           total_at(counts, subjects, level + 1) > total_at(counts, subjects, level))
        level++;
    int64_t left = limit - total_at(counts, subjects, level);
    for (int i = 0; i < subjects; i++)
        if (counts[i] > level) {
            counts[i] = level + (left > 0);
            left -= left > 0;
        }
}

static enum status read_subjects(const char *folder, char **subjects, int count, int64_t limit,
                                 int shots, struct evaluation_items *items, struct error *error) {
    int64_t *counts = calloc((size_t)count + 1, sizeof *counts);
    enum status status = counts ? STATUS_OK : out_of_memory(folder, error);
    for (int i = 0; !status && i < count; i++)
        status = read_subject(folder, subjects[i], limit ? limit : INT64_MAX, shots, NULL,
                              &counts[i], error);
    if (!status && limit)
        share_out(counts, count, limit);
    for (int i = 0; !status && i < count; i++) {
        int64_t read;
        status = read_subject(folder, subjects[i], counts[i], shots, items, &read, error);
    }
    free(counts);
    return status;
}

enum status evaluation_read_mmlu(const char *path, int64_t limit, int shots,
                                 struct evaluation_items *items, struct error *error) {
    char *folder = NULL;
    if (!evaluation_print(&folder, "%s/test", path))
        return out_of_memory(path, error);
    struct dirent **entries = NULL;
    const int count = scandir(folder, &entries, is_test_file, by_name);
    if (count < 0) {
        const enum status status =
            error_set(error, STATUS_INPUT, "%s: %s", folder, strerror(errno));
        free(folder);
        return status;
    }
    char **subjects = calloc((size_t)count + 1, sizeof *subjects);
    enum status status = subjects ? STATUS_OK : out_of_memory(path, error);
    for (int i = 0; !status && i < count; i++) {
        subjects[i] = entries[i]->d_name;
        subjects[i][strlen(subjects[i]) - strlen(TEST_SUFFIX)] = '\0';
    }
    if (!status)
        status = read_subjects(path, subjects, count, limit, shots, items, error);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    free(subjects);
    free(folder);
    return status;
}
