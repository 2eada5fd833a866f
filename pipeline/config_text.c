#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/config.h"

/* A TOML basic string. */
static void write_string(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *byte = (const unsigned char *)text; *byte; byte++) {
        if (*byte == '"' || *byte == '\\')
            fprintf(out, "\\%c", *byte);
        else if (*byte < 0x20 || *byte == 0x7f)
            fprintf(out, "\\u%04X", *byte);
        else
            fputc(*byte, out);
    }
    fputc('"', out);
}

/* The shortest decimal text that reads back as the same float. */
static void write_float(FILE *out, float value) {
    char text[40];
    const bool plain = value == 0 || (fabsf(value) >= 1e-3f && fabsf(value) < 1e7f);
    for (int digits = 1; digits <= 12; digits++) {
        snprintf(text, sizeof text, plain ? "%.*f" : "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    fputs(text, out);
    if (!strpbrk(text, ".einf"))
        fputs(".0", out);
}

static void write_integer(FILE *out, const struct config_key *key, const void *field) {
    const long long value =
        key->size == sizeof(int) ? *(const int *)field : *(const int64_t *)field;
    fprintf(out, "%lld", value);
}

static void write_data(FILE *out, const struct config_calibration *calibration, bool written) {
    if (calibration->random_tokens) {
        write_string(out, "random-tokens");
        return;
    }
    fputc('[', out);
    for (int i = 0; i < calibration->data_count; i++) {
        fputs(i > 0 ? ", " : "", out);
        write_string(out, written ? calibration->written[i] : calibration->data[i]);
    }
    fputc(']', out);
}

static void write_value(FILE *out, const struct config *config, const struct config_key *key,
                        bool written) {
    const void *field = (const char *)config + key->offset;
    switch (key->type) {
    case CONFIG_INTEGER:
    case CONFIG_BYTES:
    case CONFIG_SECONDS:
        write_integer(out, key, field);
        break;
    case CONFIG_FLOAT:
        write_float(out, *(const float *)field);
        break;
    case CONFIG_BOOLEAN:
        fputs(*(const bool *)field ? "true" : "false", out);
        break;
    case CONFIG_CHOICE:
        write_string(out, key->choices[*(const int *)field]);
        break;
    case CONFIG_WORD:
        write_string(out, *(const char *)field ? field : key->choices[0]);
        break;
    case CONFIG_INPUT:
    case CONFIG_FILE:
        write_string(out, *(char *const *)field);
        break;
    case CONFIG_MODEL: {
        const struct config_model *model = field;
        write_string(out, written ? model->written : model->path);
        break;
    }
    case CONFIG_DATA:
        write_data(out, field, written);
        break;
    }
}

/* A path that the user did not give. */
static bool missing(const struct config *config, const struct config_key *key) {
    return (key->type == CONFIG_INPUT || key->type == CONFIG_FILE) &&
           !*(char *const *)(const void *)((const char *)config + key->offset);
}

static enum status make_text(const struct config *config, bool content_only, char **text,
                             struct error *error) {
    *text = NULL;
    size_t size;
    FILE *out = open_memstream(text, &size);
    if (!out)
        return error_set(error, STATUS_FAILED, "out of memory writing the configuration");
    const char *section = "";
    for (int i = 0; i < config_key_count(); i++) {
        const struct config_key *key = config_key_at(i);
        if (content_only && !key->decides_content)
            continue;
        if (missing(config, key))
            continue;
        if (strcmp(section, key->section) != 0) {
            fprintf(out, "%s[%s]\n", section[0] ? "\n" : "", key->section);
            section = key->section;
        }
        fprintf(out, "%s = ", key->key);
        write_value(out, config, key, content_only);
        fputc('\n', out);
    }
    if (fclose(out) != 0) {
        free(*text);
        *text = NULL;
        return error_set(error, STATUS_FAILED, "out of memory writing the configuration");
    }
    return STATUS_OK;
}

enum status config_canonical_text(const struct config *config, char **text, struct error *error) {
    return make_text(config, true, text, error);
}

enum status config_full_text(const struct config *config, char **text, struct error *error) {
    return make_text(config, false, text, error);
}
