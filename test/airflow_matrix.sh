#!/bin/bash
# What must hold on each Airflow that we know, with its own scheduler; prints a table, the last line is "N passed, N failed".
# Logs are in build/check.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
. test/child.sh
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

versions="3.0.6 3.1.8 3.2.2 3.3.2"
logs=build/check
# Each row with the results that it is made of.
rows=("hold and release" test_hold_and_release "two schedulers" test_two_schedulers clear test_clear drain test_drain
	"migrate to" 'test_migrate\[[0-9]' "migrate back to" back-to queue test_queue fixtures "made again")

run()
{
	E2E_MARK=matrix FIXTURES=$versions test/check.sh fixtures e2e | tee "$logs/matrix.log" | sed -E '/^[0-9]+ passed, [0-9]+ failed/d'
}

# cell PATTERN VERSION: one that failed spoils it
cell()
{
	local found

	found=$(grep -hE '^(not )?ok ' "$logs/fixtures.log" "$logs/e2e.log" | grep -E -- "$1" | grep -E -- "${2//./[._]}")
	case $found in
		'') echo - ;;
		*'not ok '*) echo FAILED ;;
		*'# skip'*) echo skipped ;;
		*) echo ok ;;
	esac
}

mkdir -p "$logs"
run_child run
status=$?
read -r passed _ failed _ < <(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/matrix.log" | tail -n 1 | tr -d ,)
printf '%-18s' "" && printf '%-9s' $versions && echo
for ((row = 0; row < ${#rows[@]}; row += 2)); do
	printf '%-18s' "${rows[row]}"
	for version in $versions; do
		result=$(cell "${rows[row + 1]}" "$version")
		printf '%-9s' "$result"
		# What was not tried has not passed; nobody goes back to the newest.
		[[ $result != - || ${rows[row]}$version = "migrate back to${versions##* }" ]] || failed=$((${failed:-0} + 1))
	done
	echo
done
echo "${passed:-0} passed, ${failed:-1} failed"
[ "$status" = 0 ] && [ "${failed:-1}" = 0 ]
