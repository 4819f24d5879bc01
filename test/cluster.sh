#!/bin/bash
# Run a command with a private PostgreSQL cluster, which goes when the command ends.
# usage: cluster.sh [-c 'name = value']... [-l LOGFILE] COMMAND [ARGUMENT]...
# The command finds PGHOST, PGPORT, PGUSER (a superuser), PGDATABASE, PGDATA, and AS_POSTGRES,
# which is put before a server program such as pg_ctl.
set -u
. "$(dirname "$0")/child.sh"
. "$(dirname "$0")/pg_config.sh"

bindir=$("$PG_CONFIG" --bindir)
conf=() log=
while getopts c:l: opt; do
	case $opt in
		c) conf+=("$OPTARG") ;;
		l) log=$OPTARG ;;
		*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX") || exit 1
AS_POSTGRES=
if [ "$(id -u)" = 0 ]; then
	AS_POSTGRES="runuser -u postgres --"
	chown postgres: "$dir"
fi
export AS_POSTGRES PGDATA=$dir/data PGHOST=$dir PGUSER=postgres PGDATABASE=postgres
unset PGPORT PGSERVICE PGOPTIONS PGPASSWORD PGHOSTADDR PGSSLMODE

pg()
{
	(cd / && exec $AS_POSTGRES "$bindir/$@")
}

cleanup()
{
	trap '' INT TERM HUP
	end_child
	if [ -f "$PGDATA/postmaster.pid" ]; then
		pg pg_ctl stop -s -m fast -t 30 >/dev/null 2>&1 || pg pg_ctl stop -s -m immediate >/dev/null 2>&1
	fi
	[ -z "$log" ] || cp "$dir/log" "$log" 2>/dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Start on a port that nobody listens on; another process may take it first.
start()
{
	local try

	for try in {1..5}; do
		PGPORT=$((20000 + (RANDOM << 15 | RANDOM) % 12000))
		(exec 3<>"/dev/tcp/localhost/$PGPORT") 2>/dev/null && continue
		pg pg_ctl start -s -w -t 120 -l "$dir/log" -o "-p $PGPORT" >/dev/null 2>&1 && return
		grep -q 'Address already in use' "$dir/log" || break
	done
	echo "cluster.sh: the server does not start:" >&2
	tail -n 20 "$dir/log" >&2
	return 1
}

pg initdb -D "$PGDATA" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/initdb.log" 2>&1 || {
	cat "$dir/initdb.log" >&2
	exit 1
}
printf '%s\n' "listen_addresses = 'localhost'" "unix_socket_directories = '$dir'" "fsync = off" \
	"log_line_prefix = '%m [%p] %a '" "${conf[@]}" >>"$PGDATA/postgresql.conf" || exit 1
start || exit 1
export PGPORT

run_child "$@"
