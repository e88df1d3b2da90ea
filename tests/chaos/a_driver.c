/* Stands in for libnvidia-ml.so.1: a driver of the accelerators that a folder says there are.
 *
 *   A_DRIVER        the folder; missing: NVML does not start
 *   DIR/cards       a line for each: TOTAL NAME
 *   DIR/N-*.held    a process that holds memory of card N: the size in the file, and a POSIX lock on it while it lives
 *   DIR/linger      seconds for which a size is still shown when its process is gone
 *
 * The kernel says who has the lock, in the caller's own numbers, as the driver does. Layout of the types: nvml.h.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;
enum { SUCCESS = 0, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

static struct { char file[300]; unsigned pid; double seen; } known[256];
static int known_count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static FILE *in_folder(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", getenv("A_DRIVER"), name);
    return fopen(path, "r");
}

/* The process that holds that file's memory, or held it a moment ago; 0 is nobody. */
static unsigned holder(const char *file, int descriptor, double linger) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int at = 0;
    fcntl(descriptor, F_GETLK, &lock);
    while (at < known_count && strcmp(known[at].file, file)) at++;
    if (lock.l_type != F_UNLCK && at < 256) {
        if (at == known_count) known_count++;
        snprintf(known[at].file, sizeof known[at].file, "%s", file);
        known[at].pid = (unsigned)lock.l_pid;
        known[at].seen = now();
    }
    int shown = lock.l_type != F_UNLCK || (at < known_count && now() - known[at].seen < linger);
    return shown && at < known_count ? known[at].pid : 0;
}

static unsigned held(unsigned card, process_t *found, unsigned room) {
    unsigned count = 0;
    double linger = 0;
    FILE *file = in_folder("linger");
    if (file) { if (fscanf(file, "%lf", &linger) != 1) linger = 0; fclose(file); }
    DIR *folder = opendir(getenv("A_DRIVER"));
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char *end;
        unsigned long long size;
        if (!strstr(entry->d_name, ".held") || strtoul(entry->d_name, &end, 10) != card || *end != '-') continue;
        if (!(file = in_folder(entry->d_name))) continue;
        unsigned pid = holder(entry->d_name, fileno(file), linger);
        if (pid && fscanf(file, "%llu", &size) == 1 && count < room)
            found[count++] = (process_t){.pid = pid, .used = size, .gpu_instance = -1, .compute_instance = -1};
        fclose(file);
    }
    if (folder) closedir(folder);
    return count;
}

static int described(unsigned card, unsigned long long *total, char *name) {
    FILE *cards = in_folder("cards");
    int found = 0;
    for (unsigned at = 0; cards && !found && fscanf(cards, "%llu %63[^\n]", total, name) == 2; at++) found = at == card;
    if (cards) fclose(cards);
    return found;
}

int nvmlInitWithFlags(unsigned flags) { return getenv("A_DRIVER") && flags == 0 ? SUCCESS : DRIVER_NOT_LOADED; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { return error == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Failed"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    unsigned long long total;
    char name[64];
    for (*count = 0; described(*count, &total, name);) ++*count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned number, void **device) {
    *device = (void *)(size_t)(number + 1);
    return SUCCESS;
}

static unsigned number(void *device) { return (unsigned)(size_t)device - 1; }

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    unsigned long long total;
    char text[64];
    if (!described(number(device), &total, text)) return NOT_FOUND;
    snprintf(name, length, "%s", text);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-%08x", number(device) * 0x1111);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    process_t found[64];
    char name[64];
    if (!described(number(device), &memory->total, name)) return NOT_FOUND;
    memory->used = 0;
    for (unsigned at = 0, count = held(number(device), found, 64); at < count; at++) memory->used += found[at].used;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *processes) {
    process_t found[64];
    unsigned room = *count;
    *count = held(number(device), found, 64);
    if (*count > room) return INSUFFICIENT_SIZE;
    if (processes) memcpy(processes, found, *count * sizeof *found);
    return SUCCESS;
}
