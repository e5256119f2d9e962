/* Remembers how much of each file is on disk: preloaded into a server, so that a test can
 * cut the power. Each fsync appends "path size" to SYNCS_LOG when it has returned, with the
 * size the file had when it began. While SYNCS_HOLD exists none begins. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int remembered(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  const char *log = getenv("SYNCS_LOG"), *hold = getenv("SYNCS_HOLD");
  while (hold && access(hold, F_OK) == 0) usleep(1000);
  struct stat before;
  int known = fstat(fd, &before) == 0;
  int result = real(fd);
  if (result == 0 && known && log) {
    char link[64], path[PATH_MAX], line[PATH_MAX + 32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int out = open(log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (length > 0 && out >= 0) {
      path[length] = 0;
      int size = snprintf(line, sizeof line, "%s %lld\n", path, (long long)before.st_size);
      if (write(out, line, size) != size) abort();
    }
    if (out >= 0) close(out);
  }
  return result;
}

int fsync(int fd) { return remembered(fd, "fsync"); }
int fdatasync(int fd) { return remembered(fd, "fdatasync"); }
