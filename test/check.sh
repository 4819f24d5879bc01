#!/bin/bash
# Build, install and run the tests; the last line is "N passed, N failed".
# usage: check.sh [SUITE]...   without one: all but upgrade, see upgrade.sh, airflow, which needs AIRFLOW_SOURCE, and chaos, which take long
# Logs are in build/check.  E2E holds more options for pytest, E2E_MARK chooses tests, E2E_VERSIONS the versions of Airflow that are
# installed for them, the newest last, FIXTURES those whose fixtures are made again.
# CHECK_UNTIL: the second of the epoch from which on no suite is begun.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/child.sh
. test/pg_config.sh

all="look spot unit regress plain isolation pgtap tap fixtures core e2e"
logs=$PWD/build/check
preload=(-c "shared_preload_libraries = airflow_bp" -c "max_prepared_transactions = 10")

scratch=
# Servers whose data is in the scratch directory go with it.
cleanup()
{
	trap '' INT TERM HUP
	end_child
	[ -n "$scratch" ] || return
	find "$scratch" -name postmaster.pid -exec head -n 1 {} \; | xargs -r kill -QUIT 2>/dev/null
	rm -rf "$scratch"
}
trap cleanup EXIT
trap 'echo; exit 130' INT
trap 'exit 143' TERM HUP

as_server_user()
{
	if [ "$(id -u)" = 0 ]; then
		runuser -u postgres -- "$@"
	else
		"$@"
	fi
}

# Each suite prints lines "ok ..." and "not ok ..." as TAP does.

suite_look()
{
	test/look.sh
}

suite_spot()
{
	test/spot.sh
}

# C that needs no server, with all files of ours that need none.
suite_unit()
{
	local test program file pure=()

	for file in src/*.c; do
		${CC:-cc} -MM -Isrc "$file" >/dev/null 2>&1 && pure+=("$file")
	done
	for test in test/unit/*_test.c; do
		[ -e "$test" ] || return
		program=build/unit/$(basename "$test" .c)
		mkdir -p build/unit
		if ${CC:-cc} -std=gnu11 -g -O1 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
			-fsanitize=address,undefined -fno-sanitize-recover=all -Isrc -Itest/unit -o "$program" "$test" \
			"${pure[@]}" -lm; then
			"$program" || echo "not ok - $test ended with $?"
		else
			echo "not ok - $test does not compile"
		fi
	done
}

# pg_regress and pg_isolation_regress, told apart by the name of the program.
# Where SLOW is set a test of another output is skipped: some show what is done within a time.
run_regress()
{
	local program=$1 out=$2 failed='not ok - \1'
	shift 2
	[ -z "${SLOW:-}" ] || failed='ok - \1 # skip another output, where all is slow'

	"$PGXS_DIR/$program" --bindir="$("$PG_CONFIG" --bindir)" --dlpath="$("$PG_CONFIG" --pkglibdir)" \
		--host="$PGHOST" --port="$PGPORT" --user=postgres --outputdir="$out" "$@" |
		sed -E -e 's/^test (\S+) +\.\.\. ok .*/ok - \1/' -e "s/^test (\S+) +\.\.\. FAILED.*/$failed/" || {
		cat "$out/regression.diffs"
		[ -n "${SLOW:-}" ]
	}
}

# Tests named plain_* run in a server without our library preloaded.
suite_regress()
{
	local tests=() test

	for test in sql/*.sql; do
		test=$(basename "$test" .sql)
		case $test in
			'*') return ;;
			plain_*) [ "$1" = plain ] && tests+=("$test") ;;
			*) [ "$1" = regress ] && tests+=("$test") ;;
		esac
	done
	[ ${#tests[@]} -gt 0 ] || return
	run_regress src/test/regress/pg_regress "$logs/$1" --inputdir=. --dbname=airflow_bp_regress "${tests[@]}"
}

# The specs share one database with the schema of an Airflow and the functions of tasks.sql.
suite_isolation()
{
	set -- test/specs/*.spec
	[ -e "$1" ] || return
	createdb isolation && psql -X -q -d isolation -v ON_ERROR_STOP=1 -f test/fixtures/airflow_3_3_2.sql \
		-c 'CREATE EXTENSION airflow_bp' -f test/fixtures/tasks.sql || return
	run_regress src/test/isolation/pg_isolation_regress "$logs/isolation" --inputdir=test --use-existing --dbname=isolation \
		$(basename -s .spec -a "$@")
}

suite_pgtap()
{
	set -- test/pgtap/*.sql
	[ -e "$1" ] || return
	createdb pgtap && psql -X -q -d pgtap -c 'CREATE EXTENSION pgtap' || return
	PGDATABASE=pgtap prove -v --ext .sql --exec "psql -X -q -A -t -v ON_ERROR_STOP=1 -f" "$@" 2>&1
}

# prove_tap SUITE FILE...: the server's user may not be able to read the working directory
prove_tap()
{
	local suite=$1
	shift
	[ -e "$1" ] || return
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX") || return
	cp -r test "$scratch/" && mkdir "$scratch/tmp" || return
	local as=()
	[ "$(id -u)" != 0 ] || as=(runuser -u postgres --)
	[ "$(id -u)" != 0 ] || chown -R postgres: "$scratch"
	cd "$scratch" && "${as[@]}" env PERL5LIB="$PGXS_DIR/src/test/perl" TESTDIR="$scratch" TMPDIR="$scratch/tmp" \
		PG_REGRESS="$PGXS_DIR/src/test/regress/pg_regress" prove -v --timer "$@" 2>&1
	local status=$?
	# What a test died of stands in its log.
	[ $status = 0 ] || find "$scratch" -name 'regress_log_*' -exec grep -h -A 3 'error running SQL' {} + | sed 's/^/# /'
	cp -r "$scratch/tmp_check/log/." "$logs/$suite"
	return $status
}

suite_tap()
{
	prove_tap tap test/t/*.pl
}

# Where test/upgrade.sh has installed two versions of PostgreSQL.
suite_upgrade()
{
	prove_tap upgrade test/upgrade/*.pl
}

suite_fixtures()
{
	local version file

	mkdir -p build/fixtures
	for version in ${FIXTURES:-3.3.2}; do
		test/fixtures/make.sh -o build/fixtures "$version" || return
		for file in airflow_${version//./_}.sql examine_${version//./_}.sql; do
			if diff "test/fixtures/$file" "build/fixtures/$file"; then
				echo "ok - $file is made again the same"
			else
				echo "not ok - $file is made again the same"
			fi
		done
	done
}

suite_core()
{
	test/core.sh
}

suite_airflow()
{
	test/airflow_suite.sh ${AIRFLOW_VERSION:-}
}

suite_e2e()
{
	local version versions=${E2E_VERSIONS:-3.3.2-celery 3.0.6 3.1.8 3.2.2 3.3.2} python

	for version in $versions; do
		python=$(test/setup.sh airflow "$version")/bin/python || return
	done
	[[ $versions != *celery* ]] || test/setup.sh redis >/dev/null
	PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -p no:cacheprovider -v -m "${E2E_MARK-not long}" ${E2E:-} test/e2e 2>&1 |
		sed -u -E -e 's/^(\S+::.*) PASSED.*/ok - \1/' -e 's/^(\S+::.*) SKIPPED.*/ok - \1 # skip/' -e 's/^(\S+::.*) (FAILED|ERROR).*/not ok - \1/'
}

suite_chaos()
{
	local python

	python=$(test/setup.sh airflow 3.3.2)/bin/python && "$python" test/chaos.py
}

# Called for one suite, in a cluster where it needs one.
if [ "${1:-}" = --suite ]; then
	suite_"$2" "$3"
	exit
fi

run_suite()
{
	local log=$logs/$1.log

	case $1 in
		regress | isolation | pgtap) test/cluster.sh -l "$logs/$1.server.log" "${preload[@]}" test/check.sh --suite "$1" "$1" ;;
		plain) test/cluster.sh -l "$logs/$1.server.log" test/check.sh --suite regress plain ;;
		*) test/check.sh --suite "$1" "$1" ;;
	esac 2>&1 | tee "$log" | progress "$1"
}

# Tests that take long are shown as they end.
progress()
{
	case $1 in
		tap | upgrade) echo && sed -u -n -E 's/^((not )?ok [-0-9])/    \1/p' ;;
		e2e) echo && sed -u -n -E 's/^((not )?ok [-0-9]|# )/    \1/p' ;;
		chaos) echo && sed -u 's/^/    /' ;;
		*) cat >/dev/null ;;
	esac
}

[ $# -gt 0 ] || set -- $all
for suite; do
	[[ " $all upgrade airflow chaos " == *" $suite "* ]] || { echo "no suite $suite; there are: $all airflow chaos" >&2; exit 2; }
done
test/setup.sh && . test/pg_config.sh && run_child test/setup.sh build asserts || exit 1
mkdir -p "$logs"

# What failed, each with the line below it, and what pg_regress found: the last lines are what is read where logs are cut.
reasons()
{
	local suite

	for suite; do
		grep -A 1 -E '^not ok [-0-9]' "$logs/$suite.log" | grep -vE '^(--|ok .*|[[:space:]]*)$'
		[ ! -e "$logs/$suite/regression.diffs" ] || sed -n 's/^[-+@].*/# &/p' "$logs/$suite/regression.diffs" | head -n 20
	done | cut -c 1-600 | head -n 30
}

passed=0 failed=0 skipped=0 number=0
for suite; do
	number=$((number + 1))
	[ "$(date +%s)" -lt "${CHECK_UNTIL:-99999999999}" ] || { echo "left out: $suite, as the time is over"; continue; }
	header=$(printf '[%d/%d] %-10s' $number $# "$suite")
	printf '%s' "$header"
	rm -rf "$logs/$suite" "$logs/$suite".*
	mkdir -p "$logs/$suite"
	began=$SECONDS
	run_child run_suite "$suite"
	status=$?
	[[ ! $suite =~ ^(tap|upgrade|e2e|chaos)$ ]] || printf '%s' "$header"
	good=$(grep -cE '^ok [-0-9]' "$logs/$suite.log")
	bad=$(grep -cE '^not ok [-0-9]' "$logs/$suite.log")
	skip=$(grep -ciE '^ok [-0-9].*# skip' "$logs/$suite.log")
	good=$((good - skip))
	# A suite that broke off, or had nothing to run, has not passed.
	[ $((good + bad)) -gt 0 ] && { [ $status = 0 ] || [ "$bad" -gt 0 ]; } || bad=$((bad + 1))
	passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + skip))
	printf '%5d passed %4d failed %5d s\n' "$good" "$bad" $((SECONDS - began))
	if [ "$bad" -gt 0 ]; then
		grep -A 8 -E '^not ok [-0-9]' "$logs/$suite.log" | head -n 60
		tail -n "${TAIL:-60}" "$logs/$suite.log" | sed -e 's/^/    /' -e '$a\'
	fi
done
run_child test/setup.sh build || failed=$((failed + 1))
[ "$failed" = 0 ] || reasons "$@"
echo "$passed passed, $failed failed$([ $skipped = 0 ] || echo ", $skipped skipped")"
[ "$failed" = 0 ]
