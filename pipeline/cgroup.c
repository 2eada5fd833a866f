#include "pipeline/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* mount + path, then the same without path's last part, and so on up to mount itself. A container
 * sees paths of the host in /proc/self/cgroup that are not there below its own mount; what is above
 * them is, so the walk finds the container's own limit all the same. */
static void visit_upwards(const char *mount, char *path, int version,
                          void (*visit)(void *context, const char *folder, int version),
                          void *context) {
    for (;;) {
        char folder[PATH_MAX];
        const int length = snprintf(folder, sizeof folder, "%s%s", mount, path);
        if (length > 0 && (size_t)length < sizeof folder)
            visit(context, folder, version);
        char *slash = strrchr(path, '/');
        if (!slash)
            return;
        *slash = '\0';
    }
}

/* Whether a comma-separated list has this word. */
static bool list_has(const char *list, const char *word) {
    const size_t length = strlen(word);
    while (*list) {
        const size_t item = strcspn(list, ",");
        if (item == length && strncmp(list, word, length) == 0)
            return true;
        list += item + (list[item] == ',');
    }
    return false;
}

void cgroup_visit(const char *root, const char *controller,
                  void (*visit)(void *context, const char *folder, int version), void *context) {
    char name[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "r");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) { /* "4:memory:/path", or "0::/path" for version 2 */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        controllers++;
        if (strcmp(path, "/") == 0)
            path++;
        char again[PATH_MAX];
        snprintf(again, sizeof again, "%s", path);
        if (controllers[0] == '\0') {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
            visit_upwards(mount, path, 2, visit, context);
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/unified", root);
            visit_upwards(mount, again, 2, visit, context);
        } else if (list_has(controllers, controller)) {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, controller);
            visit_upwards(mount, path, 1, visit, context);
        }
    }
    fclose(file);
}

bool cgroup_read_line(const char *folder, const char *name, char *line, size_t size) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    const bool read = fgets(line, (int)size, file) != NULL;
    fclose(file);
    return read;
}

double cgroup_read_statistic(const char *folder, const char *name, const char *key) {
    char path[PATH_MAX], line[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    const size_t length = strlen(key);
    double value = 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0 && line[length] == ' ')
            value = strtod(line + length, NULL);
    fclose(file);
    return value;
}
