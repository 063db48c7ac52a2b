# A database that asks for a password, until we are told to end.
bin=/usr/lib/postgresql/15/bin
mkdir data
chown postgres: . data
chmod 755 .
echo hunter2 >password
chmod 644 password
finish() { as postgres $bin/pg_ctl -D "$WORK/data" -w stop -m immediate >/dev/null 2>&1; }
as postgres $bin/initdb --no-sync -D "$WORK/data" -A scram-sha-256 --pwfile password --locale C >control || { cat control; exit 1; }
as postgres $bin/pg_ctl -D "$WORK/data" -w start -l "$WORK/log" -o "-k $WORK -c listen_addresses=" >control </dev/null 2>&1 || { cat control log; exit 1; }
echo "$WORK" >place
echo up
trap 'exit 0' TERM
while :; do sleep 0.1; done
