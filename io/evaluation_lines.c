/* Sets with an item on each line: PIQA, HellaSwag, ARC, LAMBADA, WinoGrande. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/evaluation_internal.h"
#include "io/mapped_file.h"

struct reader {
    const char *file;
    int64_t line;                  /* 1-based */
    struct evaluation_span labels; /* what is left of the file of labels (piqa) */
    struct error *error;
};

static enum status fault(const struct reader *reader, const char *what) {
    return error_set(reader->error, STATUS_INPUT, "%s:%lld: %s", reader->file,
                     (long long)reader->line, what);
}

static enum status out_of_memory(const struct reader *reader) {
    return error_set(reader->error, STATUS_FAILED, "%s: out of memory", reader->file);
}

/* A string of the object; NULL, with the message, when there is none. */
static const char *text_of(const struct reader *reader, const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    if (!text)
        error_set(reader->error, STATUS_INPUT, "%s:%lld: there is no text \"%s\"", reader->file,
                  (long long)reader->line, key);
    return text;
}

/* An index below `count`, as a number or a text of digits (`first` is what the first is called). */
static enum status read_index(const struct reader *reader, const json_t *value, int first,
                              int count, int *index) {
    int64_t number = -1;
    const char *text = json_string_value(value);
    if (json_is_integer(value))
        number = json_integer_value(value);
    else if (text && text[0] >= '0' && text[0] <= '9' && !text[1])
        number = text[0] - '0';
    if (number < first || number >= first + count)
        return fault(reader, "the right answer is missing, or is none of the choices");
    *index = (int)(number - first);
    return STATUS_OK;
}

/* Choices from a list of strings. */
static enum status read_choices(const struct reader *reader, const json_t *list,
                                struct evaluation_item *item) {
    const size_t count = json_array_size(list);
    if (count < 2 || count > EVALUATION_CHOICES_MAX)
        return fault(reader, "there are not 2 to 16 choices");
    for (size_t i = 0; i < count; i++) {
        const char *choice = json_string_value(json_array_get(list, i));
        if (!choice)
            return fault(reader, "a choice is no text");
        if (!evaluation_set_choice(item, (int)i, choice))
            return out_of_memory(reader);
    }
    item->choices = (int)count;
    return STATUS_OK;
}

static enum status read_piqa(struct reader *reader, const json_t *object,
                             struct evaluation_item *item) {
    const char *goal = text_of(reader, object, "goal");
    const char *first = goal ? text_of(reader, object, "sol1") : NULL;
    const char *second = first ? text_of(reader, object, "sol2") : NULL;
    if (!second)
        return STATUS_INPUT;
    struct evaluation_span label = {0};
    if (evaluation_next_line(&reader->labels, &label))
        label = evaluation_strip(label);
    if (label.length != 1 || (label.text[0] != '0' && label.text[0] != '1'))
        return fault(reader, "valid-labels.lst has no label 0 or 1 for it");
    item->answer = label.text[0] - '0';
    item->choices = 2;
    return evaluation_print(&item->contexts[0], "Question: %s\nAnswer:", goal) &&
                   evaluation_set_choice(item, 0, first) && evaluation_set_choice(item, 1, second)
               ? STATUS_OK
               : out_of_memory(reader);
}

/* As Python's str.capitalize: the first character in title case, the others in lower case. */
static bool append_capitalized(struct text_buffer *buffer, const char *text) {
    bool first = true;
    for (utf8proc_int32_t character; *text; first = false) {
        const utf8proc_ssize_t used =
            utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &character);
        if (used <= 0)
            return false; /* jansson's strings are valid UTF-8 */
        utf8proc_uint8_t bytes[4];
        const utf8proc_ssize_t made = utf8proc_encode_char(
            first ? utf8proc_totitle(character) : utf8proc_tolower(character), bytes);
        if (!text_buffer_append(buffer, (const char *)bytes, (size_t)made))
            return false;
        text += used;
    }
    return true;
}

/* WikiHow's mark-up: " [title]" becomes ". ", other brackets with what they hold vanish (not across
 * lines), then each pair of spaces becomes one. */
static bool clean_markup(struct evaluation_span raw, struct text_buffer *clean) {
    raw = evaluation_strip(raw);
    struct text_buffer plain = {0};
    bool complete = true;
    for (size_t i = 0; complete && i < raw.length;) {
        const char *at = raw.text + i;
        const size_t left = raw.length - i;
        const char *end = *at == '[' ? memchr(at, ']', left) : NULL;
        if (left >= 8 && !memcmp(at, " [title]", 8)) {
            complete = text_buffer_append(&plain, ". ", 2);
            i += 8;
        } else if (end && !memchr(at, '\n', (size_t)(end - at))) {
            i += (size_t)(end + 1 - at);
        } else {
            complete = text_buffer_append(&plain, at, 1);
            i++;
        }
    }
    for (size_t i = 0; complete && i < plain.length; i++) {
        complete = text_buffer_append(clean, plain.data + i, 1);
        if (plain.data[i] == ' ' && i + 1 < plain.length && plain.data[i + 1] == ' ')
            i++;
    }
    text_buffer_free(&plain);
    return complete && text_buffer_append(clean, "", 1);
}

/* The published form: activity label, two halves of the context, endings, all with mark-up. */
static bool build_hellaswag(const json_t *object, const char *label, const char *first,
                            const char *second, struct evaluation_item *item) {
    struct text_buffer raw = {0}, clean = {0};
    bool complete = text_buffer_append(&raw, label, strlen(label)) &&
                    text_buffer_append(&raw, ": ", 2) &&
                    text_buffer_append(&raw, first, strlen(first)) &&
                    text_buffer_append(&raw, " ", 1) && append_capitalized(&raw, second) &&
                    clean_markup((struct evaluation_span){raw.data, raw.length}, &clean) &&
                    evaluation_print(&item->contexts[0], "%s", clean.data);
    for (int i = 0; complete && i < item->choices; i++) {
        const char *ending =
            json_string_value(json_array_get(json_object_get(object, "endings"), (size_t)i));
        clean.length = 0;
        complete = clean_markup((struct evaluation_span){ending, strlen(ending)}, &clean) &&
                   evaluation_set_choice(item, i, clean.data);
    }
    text_buffer_free(&raw);
    text_buffer_free(&clean);
    return complete;
}

static enum status read_hellaswag(struct reader *reader, const json_t *object,
                                  struct evaluation_item *item) {
    enum status status = read_choices(reader, json_object_get(object, "endings"), item);
    if (!status)
        status =
            read_index(reader, json_object_get(object, "label"), 0, item->choices, &item->answer);
    if (status)
        return status;
    if (json_object_get(object, "activity_label")) {
        const char *label = text_of(reader, object, "activity_label");
        const char *first = label ? text_of(reader, object, "ctx_a") : NULL;
        const char *second = first ? text_of(reader, object, "ctx_b") : NULL;
        if (!second)
            return STATUS_INPUT;
        return build_hellaswag(object, label, first, second, item) ? STATUS_OK
                                                                   : out_of_memory(reader);
    }
    const char *context = text_of(reader, object, "ctx");
    if (!context)
        return STATUS_INPUT;
    return evaluation_print(&item->contexts[0], "%s", context) ? STATUS_OK : out_of_memory(reader);
}

/* A list with the member `key` of each element of `list`; NULL when memory runs out. */
static json_t *members(const json_t *list, const char *key) {
    json_t *found = json_array();
    for (size_t i = 0; found && i < json_array_size(list); i++) {
        json_t *member = json_object_get(json_array_get(list, i), key);
        if (json_array_append(found, member ? member : json_null())) {
            json_decref(found);
            return NULL;
        }
    }
    return found;
}

static enum status arc_answer(const struct reader *reader, const json_t *object,
                              const json_t *labels, struct evaluation_item *item) {
    if (!labels)
        return read_index(reader, json_object_get(object, "answer"), 0, item->choices,
                          &item->answer);
    const char *key = text_of(reader, object, "answerKey");
    if (!key)
        return STATUS_INPUT;
    for (int i = 0; i < item->choices; i++) {
        const char *label = json_string_value(json_array_get(labels, (size_t)i));
        if (label && !strcmp(label, key)) {
            item->answer = i;
            return STATUS_OK;
        }
    }
    return fault(reader, "answerKey is none of the choices' labels");
}

static enum status read_arc(struct reader *reader, const json_t *object,
                            struct evaluation_item *item) {
    const json_t *question = json_object_get(object, "question");
    const json_t *choices = json_object_get(object, "choices");
    json_t *texts = NULL, *labels = NULL;
    if (json_is_object(question)) { /* as published */
        choices = json_object_get(question, "choices");
        texts = members(choices, "text");
        labels = members(choices, "label");
    } else if (json_is_object(choices)) {
        texts = json_incref(json_object_get(choices, "text"));
        labels = json_incref(json_object_get(choices, "label"));
    } else {
        texts = json_deep_copy(choices);
    }
    const char *stem = json_is_object(question) ? text_of(reader, question, "stem")
                                                : text_of(reader, object, "question");
    enum status status = stem ? read_choices(reader, texts, item) : STATUS_INPUT;
    if (!status)
        status = arc_answer(reader, object, labels, item);
    if (!status && !evaluation_print(&item->contexts[0], "Question: %s\nAnswer:", stem))
        status = out_of_memory(reader);
    json_decref(texts);
    json_decref(labels);
    return status;
}

/* Context: all but the last word of `text`, whose words are separated by single spaces. */
static enum status split_last_word(const struct reader *reader, struct evaluation_span text,
                                   struct evaluation_item *item) {
    text = evaluation_strip(text);
    const char *space = memrchr(text.text, ' ', text.length);
    if (!space)
        return fault(reader, "there are not two words in it");
    const int context = (int)(space - text.text);
    char word[1000];
    if (text.length - (size_t)context > sizeof word)
        return fault(reader, "the last word has more than 999 bytes");
    memcpy(word, space + 1, text.length - (size_t)context - 1);
    word[text.length - (size_t)context - 1] = '\0';
    item->choices = 1;
    return evaluation_print(&item->contexts[0], "%.*s", context, text.text) &&
                   evaluation_set_choice(item, 0, word)
               ? STATUS_OK
               : out_of_memory(reader);
}

static enum status read_lambada(struct reader *reader, const json_t *object,
                                struct evaluation_item *item) {
    const char *text = text_of(reader, object, "text");
    if (!text)
        return STATUS_INPUT;
    return split_last_word(reader, (struct evaluation_span){text, strlen(text)}, item);
}

static enum status read_winogrande(struct reader *reader, const json_t *object,
                                   struct evaluation_item *item) {
    const char *sentence = text_of(reader, object, "sentence");
    const char *options[2] = {NULL, NULL};
    options[0] = sentence ? text_of(reader, object, "option1") : NULL;
    options[1] = options[0] ? text_of(reader, object, "option2") : NULL;
    if (!options[1])
        return STATUS_INPUT;
    const char *blank = strchr(sentence, '_');
    if (!blank)
        return fault(reader, "the sentence has no \"_\"");
    const enum status status =
        read_index(reader, json_object_get(object, "answer"), 1, 2, &item->answer);
    if (status)
        return status;
    const struct evaluation_span rest =
        evaluation_strip((struct evaluation_span){blank + 1, strlen(blank + 1)});
    item->choices = 2;
    for (int i = 0; i < 2; i++) {
        char *target = NULL;
        const bool complete = evaluation_print(&item->contexts[i], "%.*s%s",
                                               (int)(blank - sentence), sentence, options[i]) &&
                              evaluation_print(&target, "%.*s", (int)rest.length, rest.text) &&
                              evaluation_set_choice(item, i, target);
        free(target);
        if (!complete)
            return out_of_memory(reader);
    }
    return STATUS_OK;
}

typedef enum status read_object(struct reader *reader, const json_t *object,
                                struct evaluation_item *item);

static read_object *const readers[EVALUATION_SET_COUNT] = {
    [EVALUATION_PIQA] = read_piqa,
    [EVALUATION_HELLASWAG] = read_hellaswag,
    [EVALUATION_ARC_EASY] = read_arc,
    [EVALUATION_LAMBADA] = read_lambada,
    [EVALUATION_WINOGRANDE] = read_winogrande,
};

static enum status read_line(struct reader *reader, enum evaluation_set set, bool plain,
                             struct evaluation_span line, struct evaluation_item *item) {
    if (plain)
        return memchr(line.text, '\0', line.length) ? fault(reader, "there is a NUL byte in it")
                                                    : split_last_word(reader, line, item);
    json_error_t where;
    json_t *object = json_loadb(line.text, line.length, 0, &where);
    if (!json_is_object(object)) {
        json_decref(object);
        return error_set(reader->error, STATUS_INPUT, "%s:%lld: not a JSON object: %s",
                         reader->file, (long long)reader->line, where.text);
    }
    const enum status status = readers[set](reader, object, item);
    json_decref(object);
    return status;
}

static enum status read_file(struct reader *reader, enum evaluation_set set, int64_t limit,
                             struct evaluation_span rest, struct evaluation_items *items) {
    const size_t name = strlen(reader->file);
    const bool plain =
        set == EVALUATION_LAMBADA && name > 4 && !strcmp(reader->file + name - 4, ".txt");
    struct evaluation_span line;
    enum status status = STATUS_OK;
    while (!status && (!limit || items->count < limit) && evaluation_next_line(&rest, &line)) {
        reader->line++;
        if (!evaluation_strip(line).length)
            continue;
        struct evaluation_item *item = evaluation_items_add(items);
        status = item ? read_line(reader, set, plain, line, item) : out_of_memory(reader);
    }
    return status;
}

enum status evaluation_read_lines(enum evaluation_set set, const char *path, int64_t limit,
                                  struct evaluation_items *items, struct error *error) {
    char *file = NULL, *labels = NULL;
    struct mapped_file data = {0}, label_data = {0};
    const bool folder = set == EVALUATION_PIQA;
    if (!evaluation_print(&file, "%s%s", path, folder ? "/valid.jsonl" : "") ||
        !evaluation_print(&labels, "%s/valid-labels.lst", path)) {
        free(file);
        return error_set(error, STATUS_FAILED, "%s: out of memory", path);
    }
    enum status status = mapped_file_open(file, &data, error);
    if (!status && folder)
        status = mapped_file_open(labels, &label_data, error);
    struct reader reader = {
        .file = file,
        .labels = {(const char *)label_data.data, label_data.size},
        .error = error,
    };
    if (!status)
        status = read_file(&reader, set, limit,
                           (struct evaluation_span){(const char *)data.data, data.size}, items);
    mapped_file_close(&data);
    mapped_file_close(&label_data);
    free(file);
    free(labels);
    return status;
}
