#include "pipeline/config_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/toml_reader.h"

#define RANDOM_TOKENS "random-tokens"

enum status config_fault(const struct config_origin *origin, struct error *error,
                         const char *format, ...) {
    char message[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (!origin->name)
        return error_set(error, STATUS_USAGE, "--set %s: %s", origin->text, message);
    if (origin->line == 0)
        return error_set(error, STATUS_INPUT, "%s: %s", origin->name, message);
    return error_set(error, STATUS_INPUT, "%s:%d: %s", origin->name, origin->line, message);
}

static enum status out_of_memory(struct error *error) {
    return error_set(error, STATUS_FAILED, "out of memory reading the configuration");
}

/* ---- The nearest known name ---- */

/* Levenshtein's edit distance, cut off at `NAME_LENGTH` characters. */
enum { NAME_LENGTH = 40 };

static int edit_distance(const char *a, const char *b) {
    int row[NAME_LENGTH + 1];
    const int columns = (int)strnlen(b, NAME_LENGTH);
    for (int j = 0; j <= columns; j++)
        row[j] = j;
    for (int i = 1; i <= NAME_LENGTH && a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= columns; j++) {
            const int substituted = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            const int shifted = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            row[j] = substituted < shifted ? substituted : shifted;
        }
    }
    return row[columns];
}

static const char *nearest_section(const char *name) {
    const char *best = NULL;
    int least = 0;
    for (int i = 0; i < config_key_count(); i++) {
        const int distance = edit_distance(name, config_key_at(i)->section);
        if (!best || distance < least) {
            best = config_key_at(i)->section;
            least = distance;
        }
    }
    return best;
}

static const char *nearest_key(const char *section, const char *name) {
    const char *best = NULL;
    int least = 0;
    for (int i = 0; i < config_key_count(); i++) {
        const struct config_key *key = config_key_at(i);
        if (strcmp(key->section, section) != 0)
            continue;
        const int distance = edit_distance(name, key->key);
        if (!best || distance < least) {
            best = key->key;
            least = distance;
        }
    }
    return best;
}

static bool section_known(const char *section) {
    for (int i = 0; i < config_key_count(); i++)
        if (strcmp(config_key_at(i)->section, section) == 0)
            return true;
    return false;
}

const struct config_key *config_find_key(const char *section, const char *name) {
    for (int i = 0; i < config_key_count(); i++) {
        const struct config_key *key = config_key_at(i);
        if (strcmp(key->section, section) == 0 && strcmp(key->key, name) == 0)
            return key;
    }
    return NULL;
}

static enum status check_section(const char *section, const struct config_origin *origin,
                                 struct error *error) {
    if (section_known(section))
        return STATUS_OK;
    return config_fault(origin, error, "there is no section [%s]; did you mean [%s]?", section,
                        nearest_section(section));
}

static enum status unknown_key(const char *section, const char *name,
                               const struct config_origin *origin, struct error *error) {
    for (int i = 0; i < config_key_count(); i++)
        if (strcmp(config_key_at(i)->key, name) == 0)
            return config_fault(origin, error, "\"%s\" is a key of [%s], not of [%s]", name,
                                config_key_at(i)->section, section);
    return config_fault(origin, error, "[%s] has no key \"%s\"; did you mean \"%s\"?", section,
                        name, nearest_key(section, name));
}

/* ---- Setting one key ---- */

static enum status wrong_type(const struct config_key *key, const struct config_origin *origin,
                              struct error *error) {
    char values[300];
    config_key_values(key, values, sizeof values);
    return config_fault(origin, error, "%s.%s must be %s", key->section, key->key, values);
}

static enum status set_integer(const struct config_key *key, int64_t value, void *field,
                               const struct config_origin *origin, struct error *error) {
    if ((double)value < key->minimum || (double)value > key->maximum) {
        char values[300];
        config_key_values(key, values, sizeof values);
        return config_fault(origin, error, "%s.%s is %lld, but must be %s", key->section, key->key,
                            (long long)value, values);
    }
    if (key->size == sizeof(int))
        *(int *)field = (int)value;
    else
        *(int64_t *)field = value;
    return STATUS_OK;
}

static enum status set_float(const struct config_key *key, double value, float *field,
                             const struct config_origin *origin, struct error *error) {
    if (!(value >= key->minimum && value <= key->maximum)) {
        char values[300];
        config_key_values(key, values, sizeof values);
        return config_fault(origin, error, "%s.%s is %g, but must be %s", key->section, key->key,
                            value, values);
    }
    *field = (float)value;
    return STATUS_OK;
}

static enum status set_choice(const struct config_key *key, const char *word, void *field,
                              const struct config_origin *origin, struct error *error) {
    int index = 0;
    while (key->choices[index] && strcmp(key->choices[index], word) != 0)
        index++;
    if (!key->choices[index]) {
        char values[300];
        config_key_values(key, values, sizeof values);
        return config_fault(origin, error, "%s.%s is \"%s\", but must be one of %s", key->section,
                            key->key, word, values);
    }
    if (key->not_available >> index & 1u)
        return config_fault(origin, error, "%s.%s = \"%s\" is not available in this version",
                            key->section, key->key, word);
    if (key->type == CONFIG_WORD)
        snprintf(field, key->size, "%s", index == 0 ? "" : word);
    else
        *(int *)field = index; /* an enum of plain int size, checked below */
    return STATUS_OK;
}
_Static_assert(sizeof(enum quantization_method) == sizeof(int), "enums are stored as int");

struct unit {
    const char *name;
    double factor;
};

/* The first is the plain unit. */
static const struct unit byte_units[] = {
    {"B", 1},        {"kB", 1e3},     {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9}, {"TB", 1e12},
    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {NULL, 0}};
static const struct unit second_units[] = {{"s", 1},    {"m", 60},    {"min", 60},
                                           {"h", 3600}, {"d", 86400}, {NULL, 0}};

static enum status set_quantity(const struct config_key *key, const char *text, void *field,
                                const struct config_origin *origin, struct error *error) {
    const struct unit *units = key->type == CONFIG_BYTES ? byte_units : second_units;
    char *end;
    const double number = strtod(text, &end);
    while (*end == ' ')
        end++;
    if (end == text || !(number >= 0 && number <= 1e15) || strpbrk(text, "xXpP"))
        return wrong_type(key, origin, error);
    for (const struct unit *unit = units; unit->name; unit++)
        if (strcmp(end, unit->name) == 0)
            return number * unit->factor > key->maximum
                       ? wrong_type(key, origin, error)
                       : set_integer(key, (int64_t)(number * unit->factor), field, origin, error);
    return wrong_type(key, origin, error);
}

/* A path of the configuration file is relative to the file's folder. NULL when memory runs out. */
static char *resolve(const char *path, const struct config_origin *origin) {
    char *resolved = NULL;
    const int folder_length = path[0] == '/' || !origin->name ? 0 : origin->folder_length;
    if (asprintf(&resolved, "%.*s%s", folder_length, folder_length > 0 ? origin->name : "", path) <
        0)
        return NULL;
    return resolved;
}

static enum status set_file(const struct config_key *key, const char *path, char **field,
                            const struct config_origin *origin, struct error *error) {
    if (path[0] == '\0')
        return config_fault(origin, error, "%s.%s is empty", key->section, key->key);
    free(*field);
    *field = strdup(path);
    return *field ? STATUS_OK : out_of_memory(error);
}

/* An empty text takes back a path that was set before. */
static enum status set_input(const struct config_key *key, const char *path, char **field,
                             const struct config_origin *origin, struct error *error) {
    if (key->not_available)
        return config_fault(origin, error, "%s.%s is not available in this version", key->section,
                            key->key);
    free(*field);
    *field = NULL;
    if (path[0] == '\0')
        return STATUS_OK;
    *field = resolve(path, origin);
    return *field ? STATUS_OK : out_of_memory(error);
}

static enum status set_model(const struct config_key *key, const char *path,
                             struct config_model *model, const struct config_origin *origin,
                             struct error *error) {
    const enum status status = set_file(key, path, &model->written, origin, error);
    if (status != STATUS_OK)
        return status;
    free(model->path);
    model->path = resolve(path, origin);
    return model->path ? STATUS_OK : out_of_memory(error);
}

static void data_free(struct config_calibration *calibration) {
    for (int i = 0; i < calibration->data_count; i++) {
        free(calibration->data[i]);
        free(calibration->written[i]);
    }
    free(calibration->data);
    free(calibration->written);
    calibration->data = calibration->written = NULL;
    calibration->data_count = 0;
    calibration->random_tokens = false;
}

static enum status set_data(const struct config_key *key, char *const *paths, int count,
                            struct config_calibration *calibration,
                            const struct config_origin *origin, struct error *error) {
    data_free(calibration);
    if (count == 0)
        return config_fault(origin, error, "%s.%s is an empty list", key->section, key->key);
    if (count == 1 && strcmp(paths[0], RANDOM_TOKENS) == 0) {
        calibration->random_tokens = true;
        return STATUS_OK;
    }
    calibration->data = calloc((size_t)count, sizeof *calibration->data);
    calibration->written = calloc((size_t)count, sizeof *calibration->written);
    if (!calibration->data || !calibration->written)
        return out_of_memory(error);
    for (int i = 0; i < count; i++) {
        if (paths[i][0] == '\0')
            return config_fault(origin, error, "%s.%s has an empty path in it", key->section,
                                key->key);
        calibration->data[i] = resolve(paths[i], origin);
        calibration->written[i] = strdup(paths[i]);
        calibration->data_count = i + 1;
        if (!calibration->data[i] || !calibration->written[i])
            return out_of_memory(error);
    }
    return STATUS_OK;
}

static enum status set_value(struct config *config, const struct config_key *key,
                             const struct toml_value *value, const struct config_origin *origin,
                             struct error *error) {
    void *field = (char *)config + key->offset;
    const bool is_string = value->kind == TOML_STRING;
    switch (key->type) {
    case CONFIG_INTEGER:
        if (value->kind == TOML_INTEGER)
            return set_integer(key, value->integer, field, origin, error);
        break;
    case CONFIG_FLOAT:
        if (value->kind == TOML_INTEGER || value->kind == TOML_FLOAT)
            return set_float(key, value->number, field, origin, error);
        break;
    case CONFIG_BOOLEAN:
        if (value->kind != TOML_BOOLEAN)
            break;
        *(bool *)field = value->boolean;
        return STATUS_OK;
    case CONFIG_CHOICE:
    case CONFIG_WORD:
        if (is_string)
            return set_choice(key, value->string, field, origin, error);
        break;
    case CONFIG_INPUT:
        if (is_string)
            return set_input(key, value->string, field, origin, error);
        break;
    case CONFIG_FILE:
        if (is_string)
            return set_file(key, value->string, field, origin, error);
        break;
    case CONFIG_MODEL:
        if (is_string)
            return set_model(key, value->string, field, origin, error);
        break;
    case CONFIG_DATA:
        if (is_string)
            return set_data(key, &value->string, 1, field, origin, error);
        if (value->kind == TOML_STRING_LIST)
            return set_data(key, value->list, value->list_count, field, origin, error);
        break;
    case CONFIG_BYTES:
    case CONFIG_SECONDS:
        if (value->kind == TOML_INTEGER)
            return set_integer(key, value->integer, field, origin, error);
        if (is_string)
            return set_quantity(key, value->string, field, origin, error);
        break;
    }
    return wrong_type(key, origin, error);
}

/* ---- Layers: defaults, then the file, then overrides ---- */

static enum status set_from_list(struct config *config, const struct toml_list *list,
                                 struct config_origin *origin, struct error *error) {
    enum status status = STATUS_OK;
    for (int i = 0; i < list->count && status == STATUS_OK; i++) {
        const struct toml_value *value = &list->values[i];
        if (origin->name)
            origin->line = value->line;
        if (value->section[0] == '\0') {
            status = config_fault(origin, error, "\"%s\" stands before any [section]", value->key);
            continue;
        }
        status = check_section(value->section, origin, error);
        if (status != STATUS_OK || value->kind == TOML_SECTION)
            continue;
        const struct config_key *key = config_find_key(value->section, value->key);
        status = key ? set_value(config, key, value, origin, error)
                     : unknown_key(value->section, value->key, origin, error);
    }
    return status;
}

static enum status set_from_text(struct config *config, const char *text, size_t length,
                                 struct config_origin *origin, struct error *error) {
    struct toml_list list;
    const enum status status = toml_read(text, length, &list, &origin->line, error);
    if (status != STATUS_OK) {
        const struct error inner = *error;
        return status == STATUS_INPUT ? config_fault(origin, error, "%s", inner.message) : status;
    }
    const enum status set = set_from_list(config, &list, origin, error);
    toml_free(&list);
    return set;
}

static enum status set_defaults(struct config *config, struct error *error) {
    enum status status = STATUS_OK;
    for (int i = 0; i < config_key_count() && status == STATUS_OK; i++) {
        const struct config_key *key = config_key_at(i);
        if (!key->default_text)
            continue;
        char text[200];
        const int length =
            snprintf(text, sizeof text, "%s.%s = %s", key->section, key->key, key->default_text);
        struct config_origin origin = {.name = "default"};
        status = set_from_text(config, text, (size_t)length, &origin, error);
    }
    return status;
}

/* Whether a text that is not TOML may count as a string without quotes. */
static bool bare_word(const char *value) {
    return value[0] != '\0' && !strchr("\"'[{", value[0]) && !strchr(value, '\n');
}

static enum status set_override(struct config *config, const char *override, struct error *error) {
    struct config_origin origin = {.text = override};
    const char *dot = strchr(override, '.');
    const char *equals = strchr(override, '=');
    if (!dot || !equals || dot > equals || dot == override || equals == dot + 1)
        return config_fault(&origin, error, "must look like section.key=value");
    char section[NAME_LENGTH + 1], name[NAME_LENGTH + 1];
    snprintf(section, sizeof section, "%.*s", (int)(dot - override), override);
    snprintf(name, sizeof name, "%.*s", (int)(equals - dot - 1), dot + 1);
    enum status status = check_section(section, &origin, error);
    if (status != STATUS_OK)
        return status;
    const struct config_key *key = config_find_key(section, name);
    if (!key)
        return unknown_key(section, name, &origin, error);

    char *text = NULL;
    if (asprintf(&text, "value = %s", equals + 1) < 0)
        return out_of_memory(error);
    struct toml_list list;
    int line;
    struct toml_value word = {.kind = TOML_STRING, .string = text + strlen("value = ")};
    status = toml_read(text, strlen(text), &list, &line, error);
    if (status == STATUS_OK && list.count == 1)
        status = set_value(config, key, &list.values[0], &origin, error);
    else if (status != STATUS_FAILED && bare_word(word.string))
        status = set_value(config, key, &word, &origin, error);
    else if (status != STATUS_FAILED)
        status = wrong_type(key, &origin, error);
    toml_free(&list);
    free(text);
    return status;
}

typedef enum status check_config(const struct config *config, const struct config_origin *origin,
                                 struct error *error);

static enum status parse(struct config *config, const char *text, size_t length, const char *name,
                         const char *const *overrides, int override_count, check_config *check,
                         struct error *error) {
    *config = (struct config){0};
    const char *slash = strrchr(name, '/');
    struct config_origin origin = {.name = name,
                                   .folder_length = slash ? (int)(slash + 1 - name) : 0};
    enum status status = set_defaults(config, error);
    if (status == STATUS_OK)
        status = set_from_text(config, text, length, &origin, error);
    for (int i = 0; i < override_count && status == STATUS_OK; i++)
        status = set_override(config, overrides[i], error);
    const struct config_origin whole = {.name = name};
    if (status == STATUS_OK)
        status = config_check_model(config, &whole, error);
    if (status == STATUS_OK)
        status = check(config, &whole, error);
    if (status != STATUS_OK)
        config_free(config);
    return status;
}

enum status config_parse(struct config *config, const char *text, size_t length, const char *name,
                         const char *const *overrides, int override_count, struct error *error) {
    return parse(config, text, length, name, overrides, override_count, config_check_quantization,
                 error);
}

enum status config_parse_evaluation(struct config *config, const char *text, size_t length,
                                    const char *name, const char *const *overrides,
                                    int override_count, struct error *error) {
    return parse(config, text, length, name, overrides, override_count, config_check_evaluation,
                 error);
}

static enum status check_nothing(const struct config *config, const struct config_origin *origin,
                                 struct error *error) {
    (void)config, (void)origin, (void)error;
    return STATUS_OK;
}

enum status config_parse_content(struct config *config, const char *text, size_t length,
                                 const char *name, struct error *error) {
    return parse(config, text, length, name, NULL, 0, check_nothing, error);
}

void config_free(struct config *config) {
    free(config->model.path);
    free(config->model.written);
    data_free(&config->calibration);
    free(config->calibration.ranges);
    free(config->output.checkpoint);
    for (int set = 0; set < EVALUATION_SET_COUNT; set++)
        free(config->evaluation.sets[set]);
    free(config->evaluation.checkpoint);
    *config = (struct config){0};
}
