#!/bin/bash
# PostgreSQL's own regression suite against the installed server with our library preloaded; prints TAP.
# A test whose output is not the expected one, but the same without our library, passes: the source may be of another minor version.
# The source comes with the system's packages; where these lack it, from the clone of PostgreSQL that POSTGRES_SOURCE names.
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/pg_config.sh"
. "$here/child.sh"

cache=${AIRFLOW_BP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/airflow_bp}
major=$("$PG_CONFIG" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
version=$(dpkg-query -W -f '${Version}' "postgresql-$major" 2>/dev/null) || version=
suite=$cache/core-${version:-$major}${POSTGRES_SOURCE:+-cloned}

fail()
{
	echo "# $*"
	echo "not ok - the suite can be run"
	exit 1
}

# Keeps the source of the suite and regress.so; only a finished directory has its final name.
prepare()
{
	local tree c=$suite.part

	[ ! -d "$suite" ] || return 0
	mkdir -p "$cache"
	tree=${POSTGRES_SOURCE:-$(PG_MAJOR=$major "$here/setup.sh" source)}
	[ -n "$tree" ] && rm -rf "$c" && cp -r "$tree/src/test/regress" "$c" || return 1
	"${CC:-cc}" -O2 -fPIC -shared -I"$("$PG_CONFIG" --includedir-server)" -I"$c" -o "$c/regress.so" "$c/regress.c" || return 1
	for library in autoinc refint; do
		cp "$("$PG_CONFIG" --pkglibdir)/$library.so" "$c/" || return 1
	done
	mv "$c" "$suite"
}

# Inside the cluster: the server writes files to the directory of the suite.
inside()
{
	cd "$1" && $AS_POSTGRES "$PGXS_DIR/src/test/regress/pg_regress" --inputdir="$1" --outputdir="$1" --dlpath="$1" --max-concurrent-tests=20 \
		--bindir="$("$PG_CONFIG" --bindir)" --host="$PGHOST" --port="$PGPORT" --schedule=parallel_schedule --dbname=regression
}

# The arguments are for the cluster.
run()
{
	local dir=$1
	shift

	mkdir "$dir" && cp -r "$suite/." "$dir/" || return 1
	[ "$(id -u)" != 0 ] || chown -R postgres: "$dir"
	"$here/cluster.sh" "$@" "$here/core.sh" --inside "$dir" >"$dir/log" 2>&1
}

# Names of the tests that ended so, in the words of pg_regress from 16 on, which prints TAP, and before.
results()
{
	sed -n -E -e "s/^$1 +[0-9]+ +[-+] (\\S+) .*/\\1/p" -e "s/^(test| +)(\\S*) +\\.\\.\\. $2 .*/\\2/p" "$dir/with/log"
}

# Object numbers differ from run to run, and so may the order of what is shown with them.
unnumbered()
{
	sed -E 's/[0-9]{5,}/N/g; s/ +/ /g' "$dir/$1/results/$2.out" | sort
}

if [ "${1:-}" = --inside ]; then
	inside "$2"
	exit
fi
mkdir -p "$cache" || exit 1
exec 9>"$cache/core.lock"
flock 9
out=$(prepare 2>&1 9>&-) || fail "$(printf '%s' "$out" | tail -n 20)"
flock -u 9

dir=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX") && chmod 755 "$dir" || exit 1
trap 'end_child; rm -rf "$dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
run_child run "$dir/with" -c "shared_preload_libraries = airflow_bp"
results "ok" "ok" | sed 's/^/ok - core /'
mapfile -t differ < <(results "not ok" "FAILED")
grep -qE '^( |# )All [0-9]+ tests passed|tests failed' "$dir/with/log" || fail "$(tail -n 20 "$dir/with/log")"
[ ${#differ[@]} -eq 0 ] || run_child run "$dir/without"
status=0
for test in "${differ[@]}"; do
	if cmp -s <(unnumbered with "$test") <(unnumbered without "$test"); then
		echo "ok - core $test, which fails without the library too"
	else
		diff -u "$dir/without/results/$test.out" "$dir/with/results/$test.out" | sed 's/^/# /'
		echo "not ok - core $test"
		status=1
	fi
done
exit $status
