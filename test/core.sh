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
source=$cache/core-${version:-$major}${POSTGRES_SOURCE:+-cloned}

fail()
{
	echo "# $*"
	echo "not ok - the suite can be run"
	exit 1
}

# The system's package sources with Types: deb-src, in a directory of our own: no system file changes and no root is needed.
fetch()
{
	local dir=$source.part apt

	rm -rf "$dir"
	mkdir -p "$dir/etc/sources" "$dir/lists/partial" "$dir/cache/archives/partial" || return 1
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
		case $list in
			*.list) sed -n 's/^deb /deb-src /p' "$list" ;;
			*.sources) sed 's/^Types:.*/Types: deb-src/' "$list" ;;
			*) continue ;;
		esac >"$dir/etc/sources/$(basename "$list")"
		# Only the archives that have the installed package.
		"${archives[@]}" "$dir/etc/sources/$(basename "$list")" || rm "$dir/etc/sources/$(basename "$list")"
	done 2>/dev/null
	apt=(-q -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$dir/etc/sources" -o "Dir::State::lists=$dir/lists"
		-o "Dir::Cache=$dir/cache" -o "Acquire::Retries=3" -o "APT::Sandbox::User=")
	apt-get update "${apt[@]}" || echo "some source lists could not be read"
	cd "$dir" || return 1
	# The installed version, or the nearest that can be had.
	for candidate in "$version" $(apt-cache "${apt[@]}" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -Vr); do
		apt-get source "${apt[@]}" --download-only "postgresql-$major=$candidate" && break
	done || return 1
	mkdir tree && tar -x -f postgresql-*.orig.tar.* -C tree --strip-components=1 --wildcards '*/src/test/regress' || return 1
	rm -rf lists cache etc postgresql-*
}

# Keeps the source of the suite and regress.so; only a finished directory has its final name.
prepare()
{
	local c=$source.part/tree/src/test/regress

	[ ! -d "$source" ] || return 0
	mapfile -t hosts < <(apt-cache policy "postgresql-$major" | sed -nE 's|^ +[0-9]+ https?://([^ ]+) .*|\1|p' | sort -u)
	archives=(grep -qsF)
	for host in "${hosts[@]}"; do
		archives+=(-e "$host")
	done
	[ ${#hosts[@]} -gt 0 ] || archives=(true)
	if [ -n "${POSTGRES_SOURCE:-}" ]; then
		rm -rf "$source.part" && mkdir -p "$source.part/tree/src/test" &&
			cp -r "$POSTGRES_SOURCE/src/test/regress" "$source.part/tree/src/test/" || return 1
	else
		(fetch) || return 1
	fi
	"${CC:-cc}" -O2 -fPIC -shared -I"$("$PG_CONFIG" --includedir-server)" -I"$c" -o "$c/regress.so" "$c/regress.c" || return 1
	for library in autoinc refint; do
		cp "$("$PG_CONFIG" --pkglibdir)/$library.so" "$c/" || return 1
	done
	rm -rf "$source" && mv "$source.part/tree/src/test/regress" "$source"
	rm -rf "$source.part"
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

	mkdir "$dir" && cp -r "$source/." "$dir/" || return 1
	[ "$(id -u)" != 0 ] || chown -R postgres: "$dir"
	"$here/cluster.sh" "$@" "$here/core.sh" --inside "$dir" >"$dir/log" 2>&1
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
sed -n -E 's/^(test| +)(\S*) +\.\.\. ok .*/ok - core \2/p' "$dir/with/log"
mapfile -t differ < <(sed -n -E 's/^(test| +)(\S*) +\.\.\. FAILED.*/\2/p' "$dir/with/log")
grep -q '^=* *shutting down\|^ All [0-9]* tests passed\|tests failed' "$dir/with/log" || fail "$(tail -n 20 "$dir/with/log")"
[ ${#differ[@]} -eq 0 ] || run_child run "$dir/without"
status=0
for test in "${differ[@]}"; do
	if cmp -s "$dir/with/results/$test.out" "$dir/without/results/$test.out"; then
		echo "ok - core $test, which fails without the library too"
	else
		diff -u "$dir/without/results/$test.out" "$dir/with/results/$test.out" | sed 's/^/# /'
		echo "not ok - core $test"
		status=1
	fi
done
exit $status
