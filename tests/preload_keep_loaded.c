/* Preloaded into programs built with AddressSanitizer (LD_PRELOAD): what they have loaded stays
 * loaded. Open MPI unloads plug-ins that leave memory behind; at the end, the leak checker reads
 * the map of the process anew for every address in one that is gone, which takes longer than most
 * tests. */
int dlclose(void *handle);

int dlclose(void *handle) {
    (void)handle;
    return 0;
}
