# gcc builds and runs programs; one with sanitizers, which read their own /proc and trace their own threads.
cat >hello.c <<'END'
#include <stdio.h>
int main(void) { puts("hello"); return 0; }
END
gcc -O2 -Wall -o hello hello.c
./hello
gcc -O2 -static -o hello-static hello.c
./hello-static

cat >checked.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>
static char *lost;
static void *work(void *number) { return memset(malloc(100000), 1, 100000) ? number : NULL; }
int main(int argc, char **argv)
{
    char path[200], secret[100] = "";
    const char *folder = getenv("KERNELSEAL_SECRETS_DIR"), *variable = getenv("TOKEN");
    snprintf(path, sizeof path, "%s/TOKEN", folder ? folder : "/nowhere");
    FILE *file = fopen(path, "r");
    if (file && fgets(secret, sizeof secret, file)) fclose(file);
    printf("variable: %s\nfile: %s\n", variable ? variable : "", secret);
    pthread_t threads[4];
    for (long n = 0; n < 4; n++) pthread_create(&threads[n], NULL, work, (void *)n);
    for (int n = 0; n < 4; n++) pthread_join(threads[n], NULL);
    fflush(stdout);
    if (fork() == 0) { printf("a child\n"); fflush(stdout); _exit(0); }
    wait(NULL);
    lost = malloc(4321);
    lost = NULL;
    fflush(stdout);
    if (argc > 1) return argv[0][strlen(argv[0]) + argc] + *(int *)(lost + argc);
    return 0;
}
END
gcc -g -fsanitize=address,undefined -o checked checked.c -pthread
# Leaks are found by a task that shares the memory and traces the threads: within a sealed program, too.
./checked >found 2>&1 || echo "status $?"
grep -v '^=*$\|#\|^==' found | grep -oE 'LeakSanitizer: detected memory leaks|^a child|^variable:.*|^file:.*' | sort -u
export ASAN_OPTIONS=detect_leaks=0
./checked
./checked once more >found 2>&1 || echo "status $?"
grep -oE 'AddressSanitizer: [a-zA-Z-]+|runtime error: [a-z ]+' found | sort -u
unset ASAN_OPTIONS
cp checked leaking
./leaking >found 2>&1 || echo "status $?"
grep -oE 'LeakSanitizer: detected memory leaks|Direct leak of 4321 byte|checked.c:[0-9]+' found | sort -u
grep -c 'LeakSanitizer has encountered' found || true
