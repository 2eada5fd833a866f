#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/checkpoint_internal.h"

/* Something that a part has: a dataset, or the attributes of an object. */
struct entry {
    char *path;
    int part;
    bool is_attributes;
    bool linked; /* reached through an external link: not to be copied */
    char sum[65];
};

struct assembly {
    const char *output;
    const char *const *parts;
    int part_count;
    const struct watch *watch;
    char *temporary;
    hid_t file;
    struct entry *entries;
    size_t count, capacity;
    struct checkpoint_manifest manifest; /* of all */
};

static enum status add_entry(struct assembly *assembly, const char *path, bool is_attributes,
                             int part, const char *sum, struct error *error) {
    if (assembly->count == assembly->capacity) {
        const size_t capacity = assembly->capacity ? 2 * assembly->capacity : 256;
        struct entry *larger = realloc(assembly->entries, capacity * sizeof *larger);
        if (!larger)
            return error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
        assembly->entries = larger;
        assembly->capacity = capacity;
    }
    struct entry entry = {.path = strdup(path), .part = part, .is_attributes = is_attributes};
    if (!entry.path)
        return error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
    memcpy(entry.sum, sum, sizeof entry.sum);
    assembly->entries[assembly->count++] = entry;
    return STATUS_OK;
}

/* What the part's manifest lists. */
static enum status list_manifest(struct assembly *assembly, int part,
                                 const struct checkpoint_manifest *manifest, struct error *error) {
    enum status status = STATUS_OK;
    for (size_t i = 0; i < manifest->count && status == STATUS_OK; i++) {
        const struct checkpoint_manifest_line *line = &manifest->lines[i];
        const bool is_attributes = checkpoint_manifest_is_attributes(line);
        if (is_attributes)
            *strrchr(line->path, '@') = '\0';
        status = add_entry(assembly, line->path, is_attributes, part, line->sum, error);
    }
    return status;
}

static enum status list_group(struct assembly *assembly, int part, hid_t group, const char *path,
                              int depth, struct error *error);

/* What is below /run is not in the manifest. */
static enum status list_run(struct assembly *assembly, int part, hid_t parent, const char *name,
                            const char *path, int depth, struct error *error) {
    const char no_sum[65] = "";
    struct checkpoint_names names;
    const hid_t object = H5Oopen(parent, name, H5P_DEFAULT);
    if (object < 0 || depth > CHECKPOINT_MAX_DEPTH)
        return checkpoint_hdf5_error(error, STATUS_FAILED, assembly->parts[part], "open", path);
    enum status status = checkpoint_names_of_attributes(object, &names, error);
    if (status == STATUS_OK && names.count > 0)
        status = add_entry(assembly, path, true, part, no_sum, error);
    checkpoint_names_free(&names);
    if (status == STATUS_OK && H5Iget_type(object) == H5I_DATASET)
        status = add_entry(assembly, path, false, part, no_sum, error);
    else if (status == STATUS_OK)
        status = list_group(assembly, part, object, path, depth, error);
    H5Oclose(object);
    return status;
}

static enum status list_group(struct assembly *assembly, int part, hid_t group, const char *path,
                              int depth, struct error *error) {
    struct checkpoint_names names;
    enum status status = checkpoint_names_of_links(group, &names, error);
    for (size_t i = 0; i < names.count && status == STATUS_OK; i++) {
        char *child = checkpoint_text("%s/%s", path, names.names[i]);
        status = child ? list_run(assembly, part, group, names.names[i], child, depth + 1, error)
                       : error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
        free(child);
    }
    checkpoint_names_free(&names);
    return status;
}

static enum status open_part(const struct assembly *assembly, int part, char **path, hid_t *file,
                             struct error *error) {
    *file = H5I_INVALID_HID;
    *path = checkpoint_part_path(assembly->output, assembly->parts[part]);
    if (!*path)
        return error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
    const enum status status = checkpoint_file_open(*path, file, error);
    if (status == STATUS_OK)
        return STATUS_OK;
    free(*path);
    *path = NULL;
    return status;
}

static enum status list_part(struct assembly *assembly, int part, struct error *error) {
    char *path;
    hid_t file;
    enum status status = open_part(assembly, part, &path, &file, error);
    if (status != STATUS_OK)
        return status;
    struct checkpoint_manifest manifest = {NULL, 0, 0};
    status = checkpoint_manifest_read(&manifest, file, path, error);
    if (status == STATUS_OK)
        status = list_manifest(assembly, part, &manifest, error);
    if (status == STATUS_OK && H5Lexists(file, "run", H5P_DEFAULT) > 0)
        status = list_run(assembly, part, file, "run", "/run", 0, error);
    checkpoint_manifest_free(&manifest);
    H5Fclose(file);
    free(path);
    return status;
}

/* '/' before every other character: what is below a group follows it without a gap. */
static int compare_paths(const char *left, const char *right) {
    while (*left && *left == *right) {
        left++;
        right++;
    }
    const int a = *left == '/' ? 1 : (unsigned char)*left,
              b = *right == '/' ? 1 : (unsigned char)*right;
    return (a > b) - (a < b);
}

static int compare_entries(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    const int order = compare_paths(a->path, b->path);
    if (order != 0)
        return order;
    return a->is_attributes != b->is_attributes ? (int)a->is_attributes - (int)b->is_attributes
                                                : (a->part > b->part) - (a->part < b->part);
}

static enum status check_overlap(const struct assembly *assembly, struct error *error) {
    for (size_t i = 1; i < assembly->count; i++) {
        const struct entry *entry = &assembly->entries[i], *before = entry - 1;
        if (!entry->is_attributes && !before->is_attributes &&
            strcmp(entry->path, before->path) == 0)
            return error_set(error, STATUS_FAILED, "%s: %s is in part %s and in part %s",
                             assembly->output, entry->path, assembly->parts[before->part],
                             assembly->parts[entry->part]);
    }
    return STATUS_OK;
}

/* An external link at `path` to the same path of a part; relative, so that the files may be moved
 * together. */
static enum status make_link(struct assembly *assembly, const char *path, int part,
                             struct error *error) {
    char *target = checkpoint_part_path(assembly->output, assembly->parts[part]);
    if (!target)
        return error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
    const char *folder = strrchr(assembly->output, '/'); /* the same as target's, before NAME */
    const char *relative = folder ? target + (folder + 1 - assembly->output) : target;
    const hid_t creation = H5Pcreate(H5P_LINK_CREATE);
    enum status status = STATUS_OK;
    if (H5Pset_create_intermediate_group(creation, 1) < 0 ||
        H5Lcreate_external(relative, path, assembly->file, path, creation, H5P_DEFAULT) < 0)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, assembly->temporary, "link", path);
    H5Pclose(creation);
    free(target);
    return status;
}

/* Entries begin .. end - 1 are at or below a group whose path has `length` characters. Each of its
 * children that one part alone has becomes a link; the others are groups, treated the same way. */
static enum status link_group(struct assembly *assembly, size_t begin, size_t end, size_t length,
                              struct error *error) {
    enum status status = STATUS_OK;
    while (begin < end && status == STATUS_OK) {
        struct entry *first = &assembly->entries[begin];
        if (first->path[length] == '\0' || first->path[length + 1] == '\0') {
            begin++; /* attributes of the group itself */
            continue;
        }
        const size_t child = length + 1 + strcspn(first->path + length + 1, "/");
        size_t next = begin;
        bool one_part = true;
        while (next < end && strncmp(assembly->entries[next].path, first->path, child) == 0 &&
               (assembly->entries[next].path[child] == '\0' ||
                assembly->entries[next].path[child] == '/'))
            one_part = assembly->entries[next++].part == first->part && one_part;
        if (one_part) {
            char *path = checkpoint_text("%.*s", (int)child, first->path);
            status = path ? make_link(assembly, path, first->part, error)
                          : error_set(error, STATUS_FAILED, "%s: out of memory", assembly->output);
            free(path);
            for (size_t i = begin; i < next; i++)
                assembly->entries[i].linked = true;
        } else {
            status = link_group(assembly, begin, next, child, error);
        }
        begin = next;
    }
    return status;
}

static enum status copy_dataset(struct assembly *assembly, hid_t part, const struct entry *entry,
                                struct error *error) {
    const char *name = assembly->parts[entry->part];
    const hid_t source = H5Dopen2(part, entry->path, H5P_DEFAULT);
    if (source < 0)
        return checkpoint_hdf5_error(error, STATUS_FAILED, name, "open", entry->path);
    struct checkpoint_shape shape;
    struct error reason;
    enum status status = checkpoint_shape_read(&shape, source, &reason);
    if (status != STATUS_OK)
        error_set(error, status, "part %s: %s: %s", name, entry->path, reason.message);
    else
        status = checkpoint_dataset_copy(source, &shape, assembly->file, assembly->temporary,
                                         entry->path, error);
    H5Dclose(source);
    return status;
}

/* One attribute; where several parts have it, they must agree. */
static enum status copy_attribute(struct assembly *assembly, hid_t source, hid_t destination,
                                  const struct entry *entry, const char *name,
                                  struct error *error) {
    struct checkpoint_attribute attribute, present = {.text = NULL};
    enum status status = checkpoint_attribute_read(source, name, &attribute, error);
    if (status != STATUS_OK)
        return status;
    if (H5Aexists(destination, name) <= 0) {
        if (!checkpoint_attribute_write(destination, name, &attribute))
            status = checkpoint_hdf5_error(error, STATUS_FAILED, assembly->temporary,
                                           "write an attribute of", entry->path);
        free(attribute.text);
        return status;
    }
    status = checkpoint_attribute_read(destination, name, &present, error);
    char *line = checkpoint_attribute_line(name, &attribute);
    char *present_line = checkpoint_attribute_line(name, &present);
    if (status == STATUS_OK && (!line || !present_line || strcmp(line, present_line) != 0))
        status = error_set(error, STATUS_FAILED,
                           "%s: attribute %s of %s differs between part %s and another",
                           assembly->output, name, entry->path, assembly->parts[entry->part]);
    free(line);
    free(present_line);
    free(attribute.text);
    free(present.text);
    return status;
}

static enum status copy_attributes(struct assembly *assembly, hid_t part, const struct entry *entry,
                                   struct error *error) {
    const hid_t source = H5Oopen(part, entry->path, H5P_DEFAULT);
    if (source < 0)
        return checkpoint_hdf5_error(error, STATUS_FAILED, assembly->parts[entry->part], "open",
                                     entry->path);
    const hid_t destination = checkpoint_object_open(assembly->file, entry->path);
    if (destination < 0) {
        checkpoint_hdf5_error(error, STATUS_FAILED, assembly->temporary, "make", entry->path);
        H5Oclose(source);
        return STATUS_FAILED;
    }
    struct checkpoint_names names;
    enum status status = checkpoint_names_of_attributes(source, &names, error);
    for (size_t i = 0; i < names.count && status == STATUS_OK; i++)
        status = copy_attribute(assembly, source, destination, entry, names.names[i], error);
    checkpoint_names_free(&names);
    H5Oclose(destination);
    H5Oclose(source);
    return status;
}

/* What of a part is not behind a link: in the single layout all of it. */
static enum status copy_part(struct assembly *assembly, int part, struct error *error) {
    char *path;
    hid_t file;
    enum status status = open_part(assembly, part, &path, &file, error);
    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < assembly->count && status == STATUS_OK; i++) {
        const struct entry *entry = &assembly->entries[i];
        if (entry->part != part || entry->linked)
            continue;
        status = watch_check(assembly->watch, error);
        if (status == STATUS_OK)
            status = entry->is_attributes ? copy_attributes(assembly, file, entry, error)
                                          : copy_dataset(assembly, file, entry, error);
    }
    H5Fclose(file);
    free(path);
    return status;
}

/* Sums of datasets come from the parts; those of attributes are made anew, since the parts' add up.
 */
static enum status write_manifest(struct assembly *assembly, struct error *error) {
    enum status status = STATUS_OK;
    const char *attributed = "";
    for (size_t i = 0; i < assembly->count && status == STATUS_OK; i++) {
        const struct entry *entry = &assembly->entries[i];
        if (checkpoint_path_is_run(entry->path))
            continue;
        if (!entry->is_attributes)
            status =
                checkpoint_manifest_add(&assembly->manifest, entry->path, "", entry->sum, error);
        else if (strcmp(attributed, entry->path) != 0)
            status = checkpoint_manifest_add_attributes(&assembly->manifest, assembly->file,
                                                        entry->path, error);
        if (entry->is_attributes)
            attributed = entry->path;
    }
    if (status == STATUS_OK)
        status = checkpoint_manifest_write(&assembly->manifest, assembly->file, assembly->temporary,
                                           error);
    return status;
}

static enum status build(struct assembly *assembly, enum checkpoint_layout layout,
                         struct error *error) {
    enum status status = STATUS_OK;
    for (int part = 0; part < assembly->part_count && status == STATUS_OK; part++)
        status = list_part(assembly, part, error);
    if (status != STATUS_OK)
        return status;
    if (assembly->count > 0)
        qsort(assembly->entries, assembly->count, sizeof *assembly->entries, compare_entries);
    status = check_overlap(assembly, error);
    if (status == STATUS_OK)
        status = checkpoint_file_create(assembly->temporary, &assembly->file, error);
    if (status == STATUS_OK && layout == CHECKPOINT_SHARDED)
        status = link_group(assembly, 0, assembly->count, 0, error);
    for (int part = 0; part < assembly->part_count && status == STATUS_OK; part++)
        status = copy_part(assembly, part, error);
    if (status == STATUS_OK)
        status = write_manifest(assembly, error);
    if (status == STATUS_OK && H5Fflush(assembly->file, H5F_SCOPE_GLOBAL) < 0)
        status = checkpoint_hdf5_error(error, STATUS_FAILED, assembly->temporary, "write", "");
    return status;
}

/* The checkpoint is complete without them: a part that cannot be removed does no harm. */
static void remove_parts(const struct assembly *assembly) {
    for (int part = 0; part < assembly->part_count; part++) {
        char *path = checkpoint_part_path(assembly->output, assembly->parts[part]);
        if (path)
            unlink(path);
        free(path);
    }
    char *folder = checkpoint_parts_folder(assembly->output);
    if (folder)
        rmdir(folder);
    free(folder);
}

enum status checkpoint_assemble(const char *output, const char *const *parts, int part_count,
                                enum checkpoint_layout layout, const struct watch *watch,
                                struct error *error) {
    struct assembly assembly = {.output = output,
                                .parts = parts,
                                .part_count = part_count,
                                .watch = watch,
                                .file = H5I_INVALID_HID,
                                .temporary = checkpoint_text("%s.tmp", output)};
    enum status status = assembly.temporary
                             ? checkpoint_hdf5_prepare(error)
                             : error_set(error, STATUS_FAILED, "%s: out of memory", output);
    if (status == STATUS_OK)
        status = build(&assembly, layout, error);
    if (status == STATUS_OK && !checkpoint_file_close(&assembly.file))
        status = checkpoint_hdf5_error(error, STATUS_FAILED, assembly.temporary, "close", "");
    if (status == STATUS_OK)
        status = checkpoint_file_commit(assembly.temporary, output, error);
    if (status != STATUS_OK)
        checkpoint_file_discard(assembly.file, assembly.temporary);
    else if (layout == CHECKPOINT_SINGLE)
        remove_parts(&assembly);
    for (size_t i = 0; i < assembly.count; i++)
        free(assembly.entries[i].path);
    free(assembly.entries);
    checkpoint_manifest_free(&assembly.manifest);
    free(assembly.temporary);
    return status;
}
