extern "C" {
#include "io/status.h"
}
#include "pipeline/toml_reader.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include <toml++/toml.h>

namespace {

struct bad_string {
    int line;
};

char *copy_string(const std::string &text, int line) {
    if (text.find('\0') != std::string::npos)
        throw bad_string{line};
    char *copy = static_cast<char *>(std::malloc(text.size() + 1));
    if (copy == nullptr)
        throw std::bad_alloc();
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

int line_of(const toml::node &node) {
    return static_cast<int>(node.source().begin.line);
}

void release(toml_value &value) {
    std::free(value.section);
    std::free(value.key);
    std::free(value.string);
    for (int i = 0; i < value.list_count; i++)
        std::free(value.list[i]);
    std::free(value.list);
}

/* The values read so far; they are released when reading fails half-way. */
struct collection {
    std::vector<toml_value> values;

    ~collection() {
        for (toml_value &value : values)
            release(value);
    }

    toml_value &add(const std::string &section, const std::string &key, int line) {
        values.push_back(toml_value{});
        toml_value &value = values.back();
        value.line = line;
        value.section = copy_string(section, line);
        value.key = copy_string(key, line);
        return value;
    }
};

void read_list(const toml::array &array, toml_value &value) {
    value.kind = TOML_OTHER;
    for (const toml::node &node : array)
        if (!node.is_string())
            return;
    value.kind = TOML_STRING_LIST;
    value.list = static_cast<char **>(std::calloc(array.size() + 1, sizeof *value.list));
    if (value.list == nullptr)
        throw std::bad_alloc();
    for (const toml::node &node : array)
        value.list[value.list_count++] = copy_string(node.as_string()->get(), line_of(node));
}

void read_value(const toml::node &node, toml_value &value) {
    if (const auto *string = node.as_string()) {
        value.kind = TOML_STRING;
        value.string = copy_string(string->get(), value.line);
    } else if (const auto *integer = node.as_integer()) {
        value.kind = TOML_INTEGER;
        value.integer = integer->get();
        value.number = static_cast<double>(value.integer);
    } else if (const auto *number = node.as_floating_point()) {
        value.kind = TOML_FLOAT;
        value.number = number->get();
    } else if (const auto *boolean = node.as_boolean()) {
        value.kind = TOML_BOOLEAN;
        value.boolean = boolean->get();
    } else if (const auto *array = node.as_array()) {
        read_list(*array, value);
    } else {
        value.kind = TOML_OTHER;
    }
}

void read_document(const toml::table &document, collection &found) {
    for (const auto &[key, node] : document) {
        const std::string name(key.str());
        const int line = static_cast<int>(key.source().begin.line);
        const toml::table *table = node.as_table();
        if (table == nullptr) {
            read_value(node, found.add("", name, line));
            continue;
        }
        found.add(name, "", line).kind = TOML_SECTION;
        for (const auto &[inner_key, inner] : *table)
            read_value(inner, found.add(name, std::string(inner_key.str()),
                                        static_cast<int>(inner_key.source().begin.line)));
    }
}

} // namespace

enum status toml_read(const char *text, size_t length, struct toml_list *list, int *line,
                      struct error *error) {
    *list = toml_list{};
    *line = 0;
    try {
        collection found;
        read_document(toml::parse(std::string_view(text, length)), found);
        std::stable_sort(found.values.begin(), found.values.end(),
                         [](const toml_value &a, const toml_value &b) { return a.line < b.line; });
        list->values =
            static_cast<toml_value *>(std::calloc(found.values.size() + 1, sizeof *list->values));
        if (list->values == nullptr)
            throw std::bad_alloc();
        std::copy(found.values.begin(), found.values.end(), list->values);
        list->count = static_cast<int>(found.values.size());
        found.values.clear();
        return STATUS_OK;
    } catch (const toml::parse_error &fault) {
        *line = static_cast<int>(fault.source().begin.line);
        const std::string what(fault.description());
        return error_set(error, STATUS_INPUT, "not TOML: %s", what.c_str());
    } catch (const bad_string &fault) {
        *line = fault.line;
        return error_set(error, STATUS_INPUT, "a NUL character in a string or a name");
    } catch (const std::exception &fault) {
        return error_set(error, STATUS_FAILED, "reading TOML: %s", fault.what());
    }
}

void toml_free(struct toml_list *list) {
    for (int i = 0; i < list->count; i++)
        release(list->values[i]);
    std::free(list->values);
    *list = toml_list{};
}
