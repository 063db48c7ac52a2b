# python: a server, children in each of its ways, and all that a program may want to read of itself.
cat >serve.py <<'END'
import ctypes, http.server, mmap, multiprocessing, os, subprocess, sys, threading

def own():
    """What /proc tells a process of itself, and memory read and written through it."""
    yield 'environ: %s' % (b'HOME=/root' in open('/proc/self/environ', 'rb').read().split(b'\0'))
    yield 'maps: %s' % all('[stack]' in open('/proc/self/' + f).read() for f in ('maps', 'smaps', 'numa_maps') if os.path.exists('/proc/self/' + f) and f != 'numa_maps')
    yield 'others: %s' % all(open('/proc/self/' + f, 'rb').read() for f in ('auxv', 'stat', 'status', 'limits', 'mountinfo', 'smaps_rollup', 'syscall', 'io', 'cmdline'))
    yield 'descriptors: %s' % (len(os.listdir('/proc/self/fd')) > 2 and os.readlink('/proc/self/fd/0') == '/dev/null')
    with open('/proc/self/fdinfo/0') as f:
        yield 'fdinfo: %s' % ('flags' in f.read())
    buffer = ctypes.create_string_buffer(b'before')
    with open('/proc/self/mem', 'r+b', buffering=0) as memory:
        memory.seek(ctypes.addressof(buffer))
        first = memory.read(6)
        memory.seek(ctypes.addressof(buffer))
        memory.write(b'behind')
    yield 'mem: %s %s' % (first.decode(), buffer.value.decode())
    with open('/proc/self/pagemap', 'rb') as pages:
        pages.seek(ctypes.addressof(buffer) // mmap.PAGESIZE * 8)
        yield 'pagemap: %s' % len(pages.read(8))
    with open('/proc/self/clear_refs', 'w') as refs:
        refs.write('1')
    with open('/proc/thread-self/comm') as f:
        yield 'comm: ' + f.read().strip()

def double(n):
    return 2 * n

class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == '/end':
            lines = ['bye']
            threading.Thread(target=self.server.shutdown).start()
        else:
            folder = os.environ.get('KERNELSEAL_SECRETS_DIR')
            lines = ['variable: ' + os.environ.get('TOKEN', '')]
            lines.append('file: ' + (open(folder + '/TOKEN').read() if folder else ''))
            lines += own()
            child = subprocess.Popen(['sleep', '100'])
            # Empty for a moment: its descriptors are closed, which is waited for, before its stack is made.
            shown = b''
            while not shown and child.poll() is None:
                with open('/proc/%d/environ' % child.pid, 'rb') as f:
                    shown = f.read()
            lines.append('my child: %s' % (b'HOME=/root' in shown))
            child.kill()
            child.wait()
            for way in ('fork', 'spawn', 'forkserver'):
                with multiprocessing.get_context(way).Pool(1) as pool:
                    lines.append('%s: %s' % (way, pool.map(double, range(4))))
            again = [sys.executable, '-c', 'import os; print(len(os.environ.get("TOKEN", "")))']
            lines.append('run again: %s' % (subprocess.check_output(again).decode().strip() == str(len(os.environ.get('TOKEN', '')))))
        body = ('\n'.join(lines) + '\n').encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

if __name__ == '__main__':
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 8082), Answer)
    # Or the answer to the last request may be lost: whoever gives it would not be waited for.
    server.daemon_threads = False
    open('up', 'w').close()
    server.serve_forever()
END
finish() { kill $! 2>/dev/null || true; }
python3 serve.py </dev/null &
soon test -e up
get 8082 /
get 8082 /end
wait $!
echo "status $?"
