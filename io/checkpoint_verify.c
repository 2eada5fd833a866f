#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/checkpoint_internal.h"
#include "io/text_buffer.h"

/* HDF5 itself may crash, or not return, on a file whose inner structure is damaged (a flipped bit
 * in the heap of variable-length strings is enough). So a child process reads the file and tells
 * what it finds through a pipe; what kills the child is one more finding.
 *
 * A message: its kind, then two texts, each ended by NUL. */
enum message {
    MESSAGE_OBJECT = 'o',  /* path: looked at from here on */
    MESSAGE_DATASET = 'd', /* path: a dataset was counted */
    MESSAGE_FAULT = 'f',   /* path, what */
    MESSAGE_REFUSED = 'r', /* status as a digit, error message */
    MESSAGE_END = 'e',
};

struct verification {
    const char *file_name;
    hid_t file;
    struct checkpoint_manifest manifest;
    FILE *messages;
};

static void tell(struct verification *verification, enum message kind, const char *first,
                 const char *second) {
    fprintf(verification->messages, "%c%s%c%s%c", kind, first, '\0', second, '\0');
    fflush(verification->messages);
}

/* The processor time that an object of so many bytes may take at most; the child ends when it is
 * over (SIGPROF). */
static void allow_time(size_t bytes) {
    const struct itimerval limit = {.it_value.tv_sec = 10 + (time_t)(bytes / 10000000)};
    setitimer(ITIMER_PROF, &limit, NULL);
}

static void fault(struct verification *verification, const char *path, const char *what) {
    tell(verification, MESSAGE_FAULT, path, what);
}

static void unreadable(struct verification *verification, const char *path, const char *reason) {
    char what[1100];
    snprintf(what, sizeof what, "cannot be read: %s", reason);
    fault(verification, path, what);
}

static void verify_dataset(struct verification *verification, hid_t dataset, const char *path) {
    const ptrdiff_t index = checkpoint_manifest_find(&verification->manifest, path, "");
    tell(verification, MESSAGE_DATASET, path, "");
    if (index < 0) {
        fault(verification, path, "not in the manifest");
        return;
    }
    struct checkpoint_manifest_line *line = &verification->manifest.lines[index];
    line->seen = true;
    struct checkpoint_shape shape;
    struct error reason;
    char sum[65];
    enum status status = checkpoint_shape_read(&shape, dataset, &reason);
    if (status == STATUS_OK) {
        allow_time(checkpoint_shape_bytes(&shape));
        status = checkpoint_dataset_digest(dataset, &shape, sum, &reason);
    }
    if (status != STATUS_OK)
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
        tell(verification, MESSAGE_OBJECT, path, "");
        allow_time(0);
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

/* All of it, in the child. */
static void verify_file(const char *path, FILE *messages) {
    struct verification verification = {.file_name = path, .messages = messages};
    struct error error;
    allow_time(0);
    enum status status = checkpoint_hdf5_prepare(&error);
    if (status == STATUS_OK)
        status = checkpoint_file_open(path, &verification.file, &error);
    if (status == STATUS_OK)
        status = checkpoint_manifest_read(&verification.manifest, verification.file, path, &error);
    if (status != STATUS_OK) {
        tell(&verification, MESSAGE_REFUSED, status == STATUS_INPUT ? "1" : "3", error.message);
        return;
    }
    const hid_t root = H5Gopen2(verification.file, "/", H5P_DEFAULT);
    tell(&verification, MESSAGE_OBJECT, "/", "");
    verify_attributes(&verification, root, "/");
    verify_group(&verification, &(const struct place){root, "", 0, false});
    report_missing(&verification);
    tell(&verification, MESSAGE_END, "", "");
}

/* What the parent has heard. */
struct hearing {
    void (*report)(void *context, const char *dataset, const char *what);
    void *context;
    int64_t *checked, *bad;
    char object[CHECKPOINT_MAX_PATH + 32]; /* the last one looked at */
    bool ended;
    enum status refused;
};

static void hear_fault(struct hearing *hearing, const char *path, const char *what) {
    (*hearing->bad)++;
    if (hearing->report)
        hearing->report(hearing->context, path, what);
}

static void hear_message(struct hearing *hearing, int kind, const char *first, const char *second,
                         struct error *error) {
    switch (kind) {
    case MESSAGE_OBJECT:
        snprintf(hearing->object, sizeof hearing->object, "%s", first);
        break;
    case MESSAGE_DATASET:
        (*hearing->checked)++;
        break;
    case MESSAGE_FAULT:
        hear_fault(hearing, first, second);
        break;
    case MESSAGE_REFUSED:
        hearing->refused = *first == '1' ? STATUS_INPUT : STATUS_FAILED;
        error_set(error, hearing->refused, "%s", second);
        hearing->ended = true;
        break;
    default:
        hearing->ended = true;
    }
}

/* Names come from the file: nothing in them is to reach a terminal as control characters. */
static void make_printable(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

/* The bytes of the first message at `bytes`, or 0 where it is not whole yet. */
static size_t message_length(const char *bytes, size_t length) {
    const char *first_end = length > 0 ? memchr(bytes + 1, '\0', length - 1) : NULL;
    if (!first_end)
        return 0;
    const size_t used = (size_t)(first_end + 1 - bytes);
    const char *second_end = memchr(first_end + 1, '\0', length - used);
    return second_end ? (size_t)(second_end + 1 - bytes) : 0;
}

/* Until the child closes its end. Not by stdio, which takes a signal for the end. */
static void hear_messages(struct hearing *hearing, int descriptor, struct error *error) {
    struct text_buffer heard = {NULL, 0, 0};
    ssize_t got = 1;
    while (got != 0 && text_buffer_reserve(&heard, PIPE_BUF)) {
        got = read(descriptor, heard.data + heard.length, PIPE_BUF);
        if (got < 0 && errno != EINTR)
            break;
        heard.length += got > 0 ? (size_t)got : 0;
        size_t begin = 0, length;
        while ((length = message_length(heard.data + begin, heard.length - begin)) > 0) {
            char *message = heard.data + begin, *first = message + 1;
            char *second = first + strlen(first) + 1;
            make_printable(first);
            make_printable(second);
            hear_message(hearing, *message, first, second, error);
            begin += length;
        }
        heard.length -= begin;
        memmove(heard.data, heard.data + begin, heard.length);
    }
    text_buffer_free(&heard);
}

static bool wait_for_child(pid_t child, int *child_status) {
    pid_t ended;
    do
        ended = waitpid(child, child_status, 0);
    while (ended < 0 && errno == EINTR);
    return ended == child;
}

/* The child ended before it had said all. */
static enum status child_died(struct hearing *hearing, const char *path, int child_status,
                              struct error *error) {
    const int number = WIFSIGNALED(child_status) ? WTERMSIG(child_status) : 0;
    const char *reason = number == SIGPROF ? "it does not come to an end"
                         : number != 0     ? strsignal(number)
                                           : "it stopped";
    char what[200];
    snprintf(what, sizeof what, "cannot be read: HDF5 fails on it (%s)", reason);
    if (*hearing->object)
        hear_fault(hearing, hearing->object, what);
    return error_set(error, STATUS_INPUT,
                     "%s: damaged so that HDF5 fails on it (%s); looked at %lld datasets", path,
                     reason, (long long)*hearing->checked);
}

/* A crash is to end the child, whatever handlers the program has (MPI has some); with no core file
 * and nothing on the terminal from a C library that finds its heap corrupted: the parent says it.
 */
static void verify_in_child(const char *path, FILE *messages) {
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPROF};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
    setrlimit(RLIMIT_CORE, &(const struct rlimit){0, 0});
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0)
        dup2(nowhere, STDERR_FILENO);
    verify_file(path, messages);
}

enum status checkpoint_verify(const char *path,
                              void (*report)(void *context, const char *dataset, const char *what),
                              void *context, int64_t *checked, int64_t *bad, struct error *error) {
    *checked = *bad = 0;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return error_set(error, STATUS_FAILED, "%s: no pipe: %s", path, strerror(errno));
    fflush(NULL); /* or the child would have it to write, too */
    const pid_t child = fork();
    if (child == 0) {
        FILE *messages = fdopen(ends[1], "w");
        if (messages)
            verify_in_child(path, messages);
        _exit(0);
    }
    close(ends[1]);
    struct hearing hearing = {.report = report, .context = context, .checked = checked, .bad = bad};
    int child_status = 0;
    if (child > 0)
        hear_messages(&hearing, ends[0], error);
    close(ends[0]);
    if (child < 0 || !wait_for_child(child, &child_status))
        return error_set(error, STATUS_FAILED, "%s: no child process: %s", path, strerror(errno));
    return hearing.ended ? hearing.refused : child_died(&hearing, path, child_status, error);
}
