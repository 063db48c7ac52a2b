# node: a server, child processes in each of its ways, workers, compiled code.
cat >serve.js <<'END'
const { execFileSync, fork } = require('child_process');
const { Worker, isMainThread, parentPort } = require('worker_threads');
const fs = require('fs');
const crypto = require('crypto');
if (process.argv[2] === 'child') { process.send(process.env.TOKEN || 'none'); process.disconnect(); return; }
if (!isMainThread) { parentPort.postMessage(6 * 7); return; }
const folder = process.env.KERNELSEAL_SECRETS_DIR;
const content = folder ? fs.readFileSync(folder + '/TOKEN', 'utf8') : '';
let warm = 0;
for (let n = 0; n < 100000; n++) warm = (warm * 31 + n) % 65537;
require('http').createServer((request, answer) => {
    if (request.url === '/end') { answer.end('bye\n', () => process.exit(0)); return; }
    const lines = [`variable: ${process.env.TOKEN || ''}`, `file: ${content}`, `warm ${warm}`];
    lines.push('shell: ' + execFileSync('/bin/sh', ['-c', 'echo run by $0 $HOME', 'node']).toString().trim());
    lines.push('digest: ' + crypto.createHash('sha256').update('x').digest('hex').slice(0, 8));
    lines.push('memory: ' + (process.memoryUsage().rss > 1e6) + ' ' + (process.resourceUsage().maxRSS > 1000));
    lines.push('links: ' + fs.readlinkSync('/proc/self/exe') + ' ' + (fs.readdirSync('/proc/self/fd').length > 3));
    new Worker(__filename).on('message', (product) => {
        lines.push('worker: ' + product);
        fork(__filename, ['child']).on('message', (told) => {
            lines.push('the child has it too: ' + (told === (process.env.TOKEN || 'none')));
            answer.end(lines.join('\n') + '\n');
        });
    });
}).listen(8081, '127.0.0.1', () => fs.writeFileSync('up', ''));
END
finish() { kill $! 2>/dev/null || true; }
node serve.js &
soon test -e up
get 8081 /
get 8081 /end
wait $!
echo "status $?"
