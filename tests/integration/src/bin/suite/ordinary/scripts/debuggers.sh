# gdb and strace on programs they start and on programs that run.
cat >tracee.c <<'END'
#include <stdio.h>
#include <unistd.h>
char text[] = "in its memory";
volatile int released, turns;
int deeper(void)
{
    while (!released && turns < 1000000) {
        turns++;
        usleep(10000);
    }
    return released;
}
int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("up");
    printf("released by %d\n", deeper());
    return 0;
}
END
gcc -g -O0 -o tracee tracee.c
debug() { gdb -nx -q -batch "$@" </dev/null 2>&1; }

echo "gdb: attach, read, write, let go"
./tracee >told &
soon grep -q up told
debug -p $! -ex 'print text' -ex backtrace -ex 'x/s text' -ex 'call (int)getppid()' -ex 'set var released = 7' -ex detach >gdb
grep -oE '"in its memory"|deeper \(\)|main \(\)|detached' gdb
grep -c "^\$2 = $$" gdb
wait
cat told

echo "gdb: start, breakpoint, watchpoint"
debug -ex 'break deeper' -ex run -ex 'watch turns' -ex continue -ex 'info registers rip' -ex 'delete' -ex 'set var released = 5' -ex continue ./tracee >gdb
grep -oE '^Breakpoint 1, deeper|^Hardware watchpoint 2: turns|^New value = 1|released by 5|exited normally' gdb

echo "gdb: a core of a running program"
./tracee >told &
soon grep -q up told
debug -p $! -ex 'generate-core-file core' -ex detach | grep -o 'Saved corefile'
kill $!
wait || true
debug ./tracee core -ex 'print text' -ex backtrace >gdb
grep -oE '"in its memory"|in main \(\)' gdb

echo "strace: a new program and its children"
strace -f -o new sh -c 'cat /etc/hosts; exit 3' || echo "status $?"
grep -oE 'execve\("/usr/bin/(sh|cat)"|openat\(AT_FDCWD, "/etc/hosts"|exited with [0-9]' new | sort | uniq -c

echo "strace: with a filter in the kernel"
strace -f --seccomp-bpf -e trace=openat -o filtered sh -c 'cat /etc/hosts'
grep -c '"/etc/hosts"' filtered

echo "strace: a running program"
bash -c 'while sleep 0.05; do echo tick; done' >ticks &
ticking=$!
strace -s 100 -o attached -e trace=write -p $ticking &
tracing=$!
soon grep -q 'write(1, "tick' attached
kill $tracing
wait $tracing || true
before=$(wc -l <ticks)
soon bash -c "[ \$(wc -l <ticks) -gt $((before + 2)) ]"
kill $ticking
wait $ticking || echo "it went on until: $?"
