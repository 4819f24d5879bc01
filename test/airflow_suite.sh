#!/bin/bash
# Airflow's own tests on a private PostgreSQL, once without our library and once with it, enforcing and parking without any quota; prints TAP.
# A test that passes without us and not with us has failed.
# usage: AIRFLOW_SOURCE=DIRECTORY airflow_suite.sh [VERSION] [TEST]...   VERSION: of the Airflow under test, 3.3.2 unless given
# TEST: files or directories in airflow-core/tests/unit, unless given those that schedule.  Logs are in build/airflow_suite.
# No package holds these tests, and release archives lack the plugin that they need.  So the directory is a clone:
#   git clone --depth 1 --branch 3.3.2 https://github.com/apache/airflow DIRECTORY
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/child.sh"

tests=(jobs models/test_{backfill,cleartasks,dagrun,mappedoperator,pool,taskinstance,trigger}.py ti_deps
	api_fastapi/execution_api/versions/head/test_task_instances.py)
with_us=(-c "shared_preload_libraries = airflow_bp" -c "airflow_bp.database = airflow" -c "airflow_bp.parking = on")
logs=$here/../build/airflow_suite

fail()
{
	echo "# $*"
	echo "not ok - the tests can be run"
	exit 1
}

sql()
{
	psql -X -q -At -v ON_ERROR_STOP=1 -d airflow "$@"
}

# From here on a note of status() is news: counters that are not ready, a missing worker, an unknown version.
enable()
{
	local _

	sql -c "CREATE EXTENSION airflow_bp" -c "SELECT airflow_bp.enable('enforce')" || return
	for _ in {1..300}; do
		[ -n "$(sql -c "SELECT note FROM airflow_bp.status()")" ] || return 0
		sleep 0.1
	done
	sql -x -c "SELECT * FROM airflow_bp.status()"
	return 1
}

# A run in which the gate had nothing to judge, or was gone before the end, says nothing.
judged()
{
	sql -F ' ' -c "SELECT (SELECT sum(admitted_total) FROM airflow_bp.tenants()),
		(SELECT count(*) FROM airflow_bp.decision WHERE verdict <> 'admit'), fail_open_total, drift_slots, coalesce(note, 'none') FROM airflow_bp.status()"
}

# Inside the cluster.  The plugin would have uv make a list of providers, which these tests do not use.
inside()
{
	local who=$1 venv=$2 status
	shift 2

	AIRFLOW_HOME=$(mktemp -d) || return
	trap 'rm -rf "$AIRFLOW_HOME"' EXIT
	ln -s "$(type -P true)" "$AIRFLOW_HOME/uv" && createdb airflow || return
	export AIRFLOW_HOME PATH=$AIRFLOW_HOME:$PATH BACKEND=postgres PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$AIRFLOW_SOURCE/devel-common/src
	export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://$PGUSER@localhost:$PGPORT/airflow
	"$venv/bin/airflow" db migrate >"$logs/$who.migrate.log" 2>&1 || { tail -n 20 "$logs/$who.migrate.log"; return 1; }
	[ "$who" = without ] || enable || return
	# The tables stay: the plugin would drop them, and the triggers with them.
	cd "$AIRFLOW_SOURCE/airflow-core" && "$venv/bin/python" -m pytest -p no:cacheprovider --without-db-init --include-long-running \
		--disable-capture-warnings --color=no "${@/#/tests/unit/}"
	status=$?
	[ "$who" = without ] || judged >"$logs/judged"
	return $status
}

run()
{
	local who=$1 conf=()
	shift

	[ "$who" = without ] || conf=("${with_us[@]}")
	"$here/cluster.sh" -l "$logs/$who.server.log" "${conf[@]}" "$here/airflow_suite.sh" --inside "$who" "$@" >"$logs/$who.log" 2>&1
}

both()
{
	run without "$@" &
	run with "$@"
	wait
}

# Name and outcome of each test; one that also fails in its teardown has two.
outcomes()
{
	sed -n -E 's/^(tests\/\S*::.*) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *[0-9]+%\]$/\1\t\2/p' "$logs/$1.log" |
		awk -F '\t' '{ all[$1] = all[$1] (all[$1] == "" ? "" : " and ") $2 } END { for (name in all) print name "\t" all[name] }'
}

compare()
{
	awk -F '\t' '
		function good(outcome) { return outcome == "PASSED" || outcome ~ /^(SKIPPED|XFAIL|XPASS)$/ }
		NR == FNR { without[$1] = $2; next }
		{ with[$1] = $2 }
		END {
			for (name in without)
				if (name in with && with[name] == without[name])
					print (good(without[name]) ? "ok - " name : "ok - " name ", which fails without us too") (without[name] == "SKIPPED" ? " # skip" : "")
				else if (good(without[name]))
					print "not ok - " name ": " without[name] " without us, " (name in with ? with[name] : "missing") " with us"
				else
					print "ok - " name ", which fails without us only"
		}' <(outcomes without) <(outcomes with) | sort -k 2
}

if [ "${1:-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

version=${1:-3.3.2}
[ $# -le 1 ] || tests=("${@:2}")
[ -n "${AIRFLOW_SOURCE:-}" ] || fail "AIRFLOW_SOURCE is not set: git clone --depth 1 --branch $version https://github.com/apache/airflow DIRECTORY"
AIRFLOW_SOURCE=$(cd "$AIRFLOW_SOURCE" && pwd) && [ -d "$AIRFLOW_SOURCE/devel-common/src/tests_common" ] ||
	fail "AIRFLOW_SOURCE is no clone of Airflow's source: a release archive lacks devel-common"
export AIRFLOW_SOURCE
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
rm -rf "$logs" && mkdir -p "$logs" || exit 1
venv=$("$here/setup.sh" airflow "$version-tests") || fail "no environment with Airflow $version"
run_child both "$venv" "${tests[@]}"
for who in without with; do
	summary=$(grep -E '^=+ .*(passed|failed).* in [0-9.]+s' "$logs/$who.log") || fail "$(tail -n 20 "$logs/$who.log")"
	echo "# $who us:$(tr -d = <<<"$summary")"
done
compare | tee "$logs/compared"
read -r admitted held unjudged drift note <"$logs/judged"
what="the gate admitted $admitted asks of the tests and held $held, $unjudged could not be judged, drift $drift, note: $note"
[ "${admitted:-0}" -gt 0 ] && [ "$held $note" = "0 none" ] && echo "ok - $what" || { echo "not ok - $what"; exit 1; }
! grep -q '^not ok' "$logs/compared"
