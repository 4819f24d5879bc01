#!/bin/bash
# The tests on each PostgreSQL, each in a Debian of its own, which is kept; the last line is "N passed, N failed".
# usage: matrix.sh [MAJOR]...   without one: 15, 17 and 18.  SUITES: those of check.sh, unless set the ones that need a server only.
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
# One version.
version()
{
	local root

	root=$(test/setup.sh debian "$1") || return
	put_tree "$root" || return
	inside "$root" PG_MAJOR="$1" TAIL="${TAIL:-20}" bash -c 'cd /work && exec test/check.sh "$@"' _ $suites
}

# With its log, and what of it is shown.
run_version()
{
	version "$1" 2>&1 | tee "$logs/$1.log" |
		sed -u -n -E -e "s/^\[[0-9/]+\] +/PostgreSQL $1  /p" -e 's/^(not ok.*|# .*|setup: .*)/    \1/p'
}

mkdir -p "$logs"
passed=0 failed=0
for major in ${*:-15 17 18}; do
	run_child run_version "$major"
	read -r p _ f _ < <(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/$major.log" | tail -n 1)
	# What did not come to its end has not passed.
	[ -n "${f:-}" ] || { tail -n 20 "$logs/$major.log"; p=0 f=1; }
	passed=$((passed + p)) failed=$((failed + f)) f=
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
