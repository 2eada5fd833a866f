#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/checkpoint_internal.h"

struct verification {
    const char *file_name;
    hid_t file;
    struct checkpoint_manifest manifest;
    void (*report)(void *context, const char *dataset, const char *what);
    void *context;
    int64_t *checked, *bad;
};

static void fault(struct verification *verification, const char *path, const char *what) {
    (*verification->bad)++;
    if (verification->report)
        verification->report(verification->context, path, what);
}

static void unreadable(struct verification *verification, const char *path, const char *reason) {
    char what[1100];
    snprintf(what, sizeof what, "cannot be read: %s", reason);
    fault(verification, path, what);
}

static void verify_dataset(struct verification *verification, hid_t dataset, const char *path) {
    const ptrdiff_t index = checkpoint_manifest_find(&verification->manifest, path, "");
    (*verification->checked)++;
    if (index < 0) {
        fault(verification, path, "not in the manifest");
        return;
    }
    struct checkpoint_manifest_line *line = &verification->manifest.lines[index];
    line->seen = true;
    struct checkpoint_shape shape;
    struct error reason;
    char sum[65];
    if (checkpoint_shape_read(&shape, dataset, &reason) != STATUS_OK ||
        checkpoint_dataset_digest(dataset, &shape, sum, &reason) != STATUS_OK)
        unreadable(verification, path, reason.message);
    else if (strcmp(sum, line->sum) != 0)
        fault(verification, path, "differs from its checksum");
}

static void verify_attributes(struct verification *verification, hid_t object, const char *path) {
    const ptrdiff_t index = checkpoint_manifest_find(&verification->manifest, path, "@attributes");
    struct checkpoint_manifest_line *line = index < 0 ? NULL : &verification->manifest.lines[index];
    struct error reason;
    char sum[65];
    bool any = false;
    if (line)
        line->seen = true;
    if (checkpoint_attributes_digest(object, sum, &any, &reason) != STATUS_OK)
        unreadable(verification, path, reason.message);
    else if (!line && any)
        fault(verification, path, "its attributes are not in the manifest");
    else if (line && !any)
        fault(verification, path, "its attributes are missing");
    else if (line && strcmp(sum, line->sum) != 0)
        fault(verification, path, "its attributes differ from their checksum");
}

/* Where the walk is: path is "" for the root. */
struct place {
    hid_t group;
    const char *path;
    int depth;
    bool in_part; /* behind an external link */
};

/* Hard links, and external ones from the master to a file below its folder. HDF5 would open
 * whatever a damaged or hostile link names. */
static bool link_is_ours(const struct verification *verification, const struct place *place,
                         const char *name, bool *is_external) {
    H5L_info_t information;
    char value[2 * CHECKPOINT_MAX_PATH];
    const char *file, *object;
    unsigned flags;
    *is_external = false;
    if (H5Lget_info(place->group, name, &information, H5P_DEFAULT) < 0)
        return false;
    if (information.type == H5L_TYPE_HARD)
        return true;
    if (information.type != H5L_TYPE_EXTERNAL || place->in_part ||
        information.u.val_size > sizeof value ||
        H5Lget_val(place->group, name, value, sizeof value, H5P_DEFAULT) < 0 ||
        H5Lunpack_elink_val(value, information.u.val_size, &flags, &file, &object) < 0 ||
        file[0] == '/' || strstr(file, ".."))
        return false;
    *is_external = true;
    const char *slash = strrchr(verification->file_name, '/');
    const int folder = slash ? (int)(slash + 1 - verification->file_name) : 0;
    char *target = checkpoint_text("%.*s%s", folder, verification->file_name, file);
    struct stat status;
    const bool is_file = target && stat(target, &status) == 0 && S_ISREG(status.st_mode);
    free(target);
    return is_file;
}

static void verify_group(struct verification *verification, const struct place *place);

/* Only groups on the way to something in the manifest are entered, so the walk is bounded by the
 * manifest, whatever the links of a damaged file say. */
static void verify_object(struct verification *verification, hid_t object,
                          const struct place *place) {
    const H5I_type_t type = object < 0 ? H5I_BADID : H5Iget_type(object);
    if (type == H5I_DATASET || type == H5I_GROUP)
        verify_attributes(verification, object, place->path);
    if (type == H5I_DATASET)
        verify_dataset(verification, object, place->path);
    else if (type != H5I_GROUP)
        unreadable(verification, place->path, "there is no object behind its link");
    else if (checkpoint_manifest_has_below(&verification->manifest, place->path) &&
             place->depth < CHECKPOINT_MAX_DEPTH)
        verify_group(verification, place);
    else if (checkpoint_manifest_find(&verification->manifest, place->path, "@attributes") < 0)
        fault(verification, place->path, "not in the manifest");
}

static void verify_link(struct verification *verification, const struct place *place,
                        const char *name) {
    char *path = checkpoint_text("%s/%s", place->path, name);
    if (!path) {
        unreadable(verification, place->path, "out of memory");
        return;
    }
    if (!checkpoint_path_is_run(path) && strcmp(path, "/manifest") != 0) {
        bool is_external;
        const hid_t object = link_is_ours(verification, place, name, &is_external)
                                 ? H5Oopen(place->group, name, H5P_DEFAULT)
                                 : H5I_INVALID_HID;
        const struct place child = {object, path, place->depth + 1, place->in_part || is_external};
        verify_object(verification, object, &child);
        if (object >= 0)
            H5Oclose(object);
    }
    free(path);
}

static void verify_group(struct verification *verification, const struct place *place) {
    struct checkpoint_names names;
    struct error reason;
    if (checkpoint_names_of_links(place->group, &names, &reason) != STATUS_OK) {
        unreadable(verification, *place->path ? place->path : "/", reason.message);
        return;
    }
    for (size_t i = 0; i < names.count; i++)
        verify_link(verification, place, names.names[i]);
    checkpoint_names_free(&names);
}

static void report_missing(struct verification *verification) {
    for (size_t i = 0; i < verification->manifest.count; i++)
        if (!verification->manifest.lines[i].seen)
            fault(verification, verification->manifest.lines[i].path, "missing");
}

enum status checkpoint_verify(const char *path,
                              void (*report)(void *context, const char *dataset, const char *what),
                              void *context, int64_t *checked, int64_t *bad, struct error *error) {
    *checked = *bad = 0;
    struct verification verification = {
        .file_name = path, .report = report, .context = context, .checked = checked, .bad = bad};
    enum status status = checkpoint_hdf5_prepare(error);
    if (status == STATUS_OK)
        status = checkpoint_file_open(path, &verification.file, error);
    if (status != STATUS_OK)
        return status;
    status = checkpoint_manifest_read(&verification.manifest, verification.file, path, error);
    if (status == STATUS_OK) {
        const hid_t root = H5Gopen2(verification.file, "/", H5P_DEFAULT);
        verify_attributes(&verification, root, "/");
        verify_group(&verification, &(const struct place){root, "", 0, false});
        report_missing(&verification);
        H5Gclose(root);
        checkpoint_manifest_free(&verification.manifest);
    }
    H5Fclose(verification.file);
    return status;
}
