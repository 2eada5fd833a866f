/* A fuzz target without a fuzzer: each file of the folders, and beginnings of it.
 *   replay_TARGET FOLDER...
 * Where there is no clang, this still shows that the targets hold on their seeds. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

enum { CUTS = 8, LARGEST = 1 << 20 };

/* Memory of just that size: what is read beyond the end is found. */
static void run(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + !size);
    fuzz_require(copy != NULL, "no memory");
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void replay(const char *folder, const char *name, uint8_t *data) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    fuzz_require(file != NULL, "a seed can be read");
    const size_t size = fread(data, 1, LARGEST, file);
    fclose(file);
    for (size_t cut = 0; cut <= CUTS; cut++)
        run(data, size * cut / CUTS);
}

int main(int argc, char **argv) {
    uint8_t *data = malloc(LARGEST);
    int files = 0;
    fuzz_require(data != NULL, "no memory");
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        fuzz_require(folder != NULL, "the folder is there");
        for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
            if (entry->d_name[0] != '.') {
                replay(argv[i], entry->d_name, data);
                files++;
            }
        closedir(folder);
    }
    free(data);
    printf("%d files, %d inputs each: none crashed\n", files, CUTS + 1);
    return files == 0;
}
