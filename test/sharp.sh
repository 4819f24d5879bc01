#!/bin/bash
# The tests on servers built to find more faults, each from Debian's source and kept; the last line is "N passed, N failed".
# usage: sharp.sh [KIND]...   without one: all of them.  SUITES: those of check.sh, unless set all that need a server and fit.
#   cassert    the server checks its assertions
#   sanitize   server and extension are built with ASan and UBSan
#   exec       each process starts anew and attaches to the shared memory (EXEC_BACKEND), as on Windows
#   valgrind   the server runs under valgrind: regress and plain only; all is slow there, so that only reports count
# Logs are in build/sharp, each with a copy of the tree.  What the tools report fails the suite "reports".
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/elsewhere.sh

logs=$PWD/build/sharp
scratch=
cleanup()
{
	trap '' INT TERM HUP
	end_child
	[ -z "$scratch" ] || rm -rf "$scratch"
}
trap cleanup EXIT

# A server program that runs itself under valgrind; initdb's runs of it are not ours.
put_under_valgrind()
{
	mv "$1/postgres" "$1/postgres.bin" && cat >"$1/postgres" <<END || return
#!/bin/sh
case \${1:-} in
	--* | -V) exec "$1/postgres.bin" "\$@" ;;
esac
exec valgrind -q --vgdb=no --leak-check=no --num-callers=30 --error-limit=no --suppressions="$2/valgrind.supp" \\
	--log-file="$2/reports/%p" "$1/postgres.bin" "\$@"
END
	chmod 755 "$1/postgres"
}

# PostgreSQL leaks by design.  A process writes its report to a file of its own.
tools()
{
	local source

	case $1 in
		sanitize)
			# A load of the usual length has time for few recounts.
			export STRESS_SECONDS=${STRESS_SECONDS:-40}
			export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:log_path=$scratch/reports/log
			export UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1:log_path=$scratch/reports/log
			;;
		valgrind)
			suites=${SUITES:-regress plain}
			export SLOW=1
			source=$(test/setup.sh source) && cp "$source/src/tools/valgrind.supp" "$scratch/" && put_under_valgrind "$scratch/server/bin" "$scratch"
			;;
	esac
}

# The suite that has one test for each kind: no tool reported a fault, and no process ended by one.
reports()
{
	local found=() line='runtime error:|ERROR: AddressSanitizer|TRAP:|terminated by signal (4|6|7|8|11)\b|^==[0-9]+== [A-Z]'

	mkdir -p "$logs/$1/build/check/reports"
	find "$scratch/reports" -type f -size +0 -exec cp {} "$logs/$1/build/check/reports/" \;
	mapfile -t found < <(grep -rlE "$line" "$logs/$1/build/check")
	if [ ${#found[@]} = 0 ]; then
		printf '[1/1] %-10s%5d passed %4d failed\n%d passed, %d failed\n' reports 1 0 1 0
		return
	fi
	printf '[1/1] %-10s%5d passed %4d failed\n' reports 0 1
	printf '# %s\n' "${found[@]#"$PWD/"}" | head -n 20
	grep -hE "$line" "${found[@]}" | sed -E 's/^.*\[[0-9]+\] *|^==[0-9]+== *//' | sort | uniq -c | sort -rn | head -n 20 | sed 's/^/# /'
	printf '%s\n' "not ok - no fault is reported" "0 passed, 1 failed"
}

# The server's user may not be able to read the cache; a server can be moved, but its programs look for libpq where they are told.
run_one()
{
	local server

	server=$(test/setup.sh && test/setup.sh server "$1") || return
	rm -rf "$scratch"/* "${logs:?}/$1" && cp -r "$server" "$scratch/server" && mkdir -m 1777 "$scratch/reports" || return
	mkdir -p "$logs/$1" && tree | tar -x -C "$logs/$1" || return
	export PG_CONFIG=$scratch/server/bin/pg_config LD_LIBRARY_PATH=$scratch/server/lib PG_TEST_TIMEOUT_DEFAULT=600 PGCTLTIMEOUT=600
	tools "$1" && (cd "$logs/$1" && TAIL="${TAIL:-20}" test/check.sh $suites)
	reports "$1"
}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/airflow_bp.XXXXXX") && chmod 755 "$scratch" || exit 1
run_all "" ${*:-cassert sanitize exec valgrind}
