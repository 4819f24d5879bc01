# Sourced by scripts that run check.sh on other servers, each for a list of names, and show the sum.
# The caller sets logs and defines run_one NAME, whose output has the table and a last line of check.sh.
. test/child.sh
. test/root.sh
trap 'exit 130' INT
trap 'exit 143' TERM HUP

suites=${SUITES:-regress plain isolation pgtap tap}

# With its log, and what of it is shown.
show_one()
{
	run_one "$2" 2>&1 | tee "$logs/$2.log" |
		sed -u -n -E -e "s/^\[[0-9/]+\] +(.* passed )/$1$2  \1/p" -e 's/^(not ok.*|# .*|setup: .*|left out: .*)/    \1/p'
}

# What passed of each suite for each name.
table()
{
	local suite name

	printf '%-12s' "" && printf '%20s' "$@" && echo
	for suite in $(sed -n -E 's/^\[[0-9/]+\] +([a-z0-9]+) .* passed .*/\1/p; s/^left out: ([a-z0-9]+),.*/\1/p' $(printf "$logs/%s.log " "$@") | awk '!seen[$0]++'); do
		printf '%-12s' "$suite"
		for name; do
			printf '%20s' "$(sed -n -E "s/^\[[0-9/]+\] +$suite +([0-9]+) passed +([0-9]+) failed.*/\1 passed, \2 failed/p
				s/^left out: $suite,.*/left out/p" "$logs/$name.log")"
		done
		echo
	done
}

# usage: run_all TITLE NAME...   the last line is "N passed, N failed"
run_all()
{
	local title=$1 name passed=0 failed=0 p f
	shift

	mkdir -p "$logs"
	for name; do
		run_child show_one "$title" "$name"
		read -r p f < <(awk '/^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3; some = 1 } END { if (some) print p, f }' "$logs/$name.log")
		# What did not come to its end has not passed.
		[ -n "$f" ] || { tail -n 20 "$logs/$name.log"; p=0 f=1; }
		passed=$((passed + p)) failed=$((failed + f))
	done
	table "$@"
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ]
}
