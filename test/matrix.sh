#!/bin/bash
# The tests on each PostgreSQL, each in a Debian of its own, which is kept; the last line is "N passed, N failed".
# usage: matrix.sh [MAJOR]...       without one: 15, 17 and 18.  SUITES: those of check.sh, unless set the ones that need a server only,
#                                    and of e2e what must hold on each Airflow, with the newest
#        matrix.sh --can MAJOR      set up its Debian; fails where that is not possible
# Needs root, or sudo, and the right to mount.  Logs are in build/matrix.  POSTGRES_SOURCE: for the suite core, see core.sh.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/elsewhere.sh
[ -n "${SUITES:-}" ] || suites+=" e2e"
trap end_child EXIT

logs=$PWD/build/matrix
# The newest Airflow, as the Pythons of the newer Debians are too new for older ones.
export E2E_VERSIONS=${E2E_VERSIONS:-3.3.2} E2E_MARK=${E2E_MARK-matrix}
mapfile -t passed_on < <(env | grep -E '^(E2E|CHAOS)_?[A-Z]*=')

# in_root MAJOR COMMAND...: run a command in a Debian that has it
in_root()
{
	local major=$1 root

	shift
	root=$(test/setup.sh debian "$major") && put_tree "$root" || return
	inside "$root" PG_MAJOR="$major" TAIL="${TAIL:-20}" CHECK_UNTIL="${CHECK_UNTIL:-}" "${passed_on[@]}" bash -c 'cd /work && exec "$@"' _ "$@"
}

run_one()
{
	in_root "$1" test/check.sh $suites
}

if [ "${1:-}" = --can ]; then
	in_root "$2" test/setup.sh
else
	run_all "PostgreSQL " ${*:-15 17 18}
fi
