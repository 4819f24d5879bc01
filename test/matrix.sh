#!/bin/bash
# The tests on each PostgreSQL, each in a Debian of its own, which is kept; the last line is "N passed, N failed".
# usage: matrix.sh [MAJOR]...       without one: 15, 17 and 18.  SUITES: those of check.sh, unless set the ones that need a server only.
#        matrix.sh --can MAJOR      set up its Debian; fails where that is not possible
# Needs root, or sudo, and the right to mount.  Logs are in build/matrix.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/child.sh
. test/root.sh
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

suites=${SUITES:-regress plain isolation pgtap tap}
logs=$PWD/build/matrix
# in_root MAJOR COMMAND...: run a command in a Debian that has it
in_root()
{
	local major=$1 root

	shift
	root=$(test/setup.sh debian "$major") && put_tree "$root" || return
	inside "$root" PG_MAJOR="$major" TAIL="${TAIL:-20}" CHECK_UNTIL="${CHECK_UNTIL:-}" bash -c 'cd /work && exec "$@"' _ "$@"
}

# With its log, and what of it is shown.
run_version()
{
	in_root "$1" test/check.sh $suites 2>&1 | tee "$logs/$1.log" |
		sed -u -n -E -e "s/^\[[0-9/]+\] +/PostgreSQL $1  /p" -e 's/^(not ok.*|# .*|setup: .*|left out: .*)/    \1/p'
}

# What passed of each suite on each version.
table()
{
	local suite major

	printf '%-12s' PostgreSQL
	printf '%20s' "$@"
	for suite in $suites; do
		printf '\n%-12s' "$suite"
		for major; do
			printf '%20s' "$(sed -n -E "s/^\[[0-9/]+\] +$suite +([0-9]+) passed +([0-9]+) failed.*/\1 passed, \2 failed/p
				s/^left out: $suite,.*/left out/p" "$logs/$major.log")"
		done
	done
	echo
}

if [ "${1:-}" = --can ]; then
	in_root "$2" test/setup.sh
	exit
fi
mkdir -p "$logs"
passed=0 failed=0
majors=${*:-15 17 18}
for major in $majors; do
	run_child run_version "$major"
	read -r p _ f _ < <(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/$major.log" | tail -n 1)
	# What did not come to its end has not passed.
	[ -n "${f:-}" ] || { tail -n 20 "$logs/$major.log"; p=0 f=1; }
	passed=$((passed + p)) failed=$((failed + f)) f=
done
table $majors
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
