# Sourced by scripts that run check.sh on other servers, each for a list of names, and show the sum.
# The caller sets logs and defines run_one NAME, whose output has the table and a last line of check.sh.
. test/child.sh
trap 'exit 130' INT
trap 'exit 143' TERM HUP

suites=${SUITES:-regress plain isolation pgtap tap}

# The tree, as git knows it or could, as a tar file.
tree()
{
	git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T -
}

# With its log, and what of it is shown; the line of a suite that shows its tests comes in two parts.
show_one()
{
	run_one "$2" 2>&1 | tee "$logs/$2.log" |
		sed -u -n -E -e '/^\[[0-9/]+\] +\S+ *$/h' -e '/^ +[0-9]+ passed/{H;x;s/\n {16}//}' \
			-e "s/^\[[0-9/]+\] +(.* passed )/$1$2  \1/p" -e 's/^(not ok.*|# .*|setup: .*)/    \1/p'
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
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ]
}
