/* What a debugger or a memory reader does, one system call at a time.
 *
 *   demo-attack attach PID      PTRACE_ATTACH, as gdb does
 *   demo-attack seize PID       PTRACE_SEIZE, as strace does
 *   demo-attack vm-readv PID    process_vm_readv of its whole stack
 *   demo-attack pidfd-getfd PID takes its standard output, descriptor 1
 *
 * Prints what came of it. Exit status: 0 if it worked, 1 if it was refused, 2 for a wrong call. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static int result(const char *what, int worked)
{
    int error = errno;
    fprintf(worked ? stdout : stderr, "%s: %s\n", what, worked ? "it worked" : strerror(error));
    return worked ? 0 : 1;
}

static int attach(pid_t pid)
{
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) != 0)
        return result("ptrace(PTRACE_ATTACH)", 0);
    waitpid(pid, NULL, __WALL);
    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    return result("ptrace(PTRACE_ATTACH)", 1);
}

/* A tracer that ends lets go of what it seized. */
static int seize(pid_t pid)
{
    return result("ptrace(PTRACE_SEIZE)", ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0);
}

static int vm_readv(pid_t pid)
{
    char path[64], line[512];
    unsigned long from = 0, to = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "[stack]"))
            sscanf(line, "%lx-%lx", &from, &to);
    if (maps)
        fclose(maps);
    if (to <= from) { /* the maps are hidden: any address will do to be refused */
        from = (unsigned long)&from & ~4095UL;
        to = from + 4096;
    }
    void *buffer = malloc(to - from);
    struct iovec here = {buffer, to - from}, there = {(void *)from, to - from};
    return result("process_vm_readv", process_vm_readv(pid, &here, 1, &there, 1, 0) > 0);
}

static int pidfd_getfd(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return result("pidfd_open", 0);
    return result("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, 1, 0) >= 0);
}

int main(int argc, char **argv)
{
    pid_t pid = argc == 3 ? atoi(argv[2]) : 0;
    if (pid > 0 && strcmp(argv[1], "attach") == 0)
        return attach(pid);
    if (pid > 0 && strcmp(argv[1], "seize") == 0)
        return seize(pid);
    if (pid > 0 && strcmp(argv[1], "vm-readv") == 0)
        return vm_readv(pid);
    if (pid > 0 && strcmp(argv[1], "pidfd-getfd") == 0)
        return pidfd_getfd(pid);
    fprintf(stderr, "usage: demo-attack attach|seize|vm-readv|pidfd-getfd PID\n");
    return 2;
}
