# postgres as a user of its own: initdb (which runs postgres itself), start, queries, programs run by it, stop.
bin=/usr/lib/postgresql/15/bin
mkdir data
chown postgres: . data
server() { as postgres $bin/pg_ctl -D "$WORK/data" -w "$@" >control </dev/null 2>&1 || { cat control log; return 1; }; }
query() { $bin/psql -X -q -A -t -v ON_ERROR_STOP=1 -h "$WORK" -U postgres -c "$1"; }
finish() { [ ! -e data/postmaster.pid ] || server stop -m immediate; }

as postgres $bin/initdb --no-sync -D "$WORK/data" -A trust --locale C >control || { cat control; exit 1; }
server start -l "$WORK/log" -o "-k $WORK -c listen_addresses="
query 'CREATE TABLE numbers AS SELECT n FROM generate_series(1, 1000) n; SELECT sum(n) FROM numbers;
    SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SELECT max(n) FROM numbers'
# The server's children, with its variables; the backend itself, with its file.
query "CREATE TABLE told (line text); COPY told FROM PROGRAM 'echo \"variable: \${TOKEN-}\"; id -un; echo \${KERNELSEAL_SECRETS_DIR-} >$WORK/folder'; SELECT line FROM told"
folder=$(cat folder)
echo "file: $([ -z "$folder" ] || query "SELECT pg_read_file('$folder/TOKEN')")"
# It writes titles over its arguments and variables.
pgrep -a -u postgres | sed -n 's/^[0-9]* postgres: //p' | sort

echo "restart"
server restart -m fast -l "$WORK/log" -o "-k $WORK -c listen_addresses="
query 'SELECT count(*) FROM numbers'
server stop -m fast
grep -E 'FATAL|PANIC|ERROR|WARNING' log || echo "no complaints"
