# Sourced by scripts that must leave no process behind: a command runs in a process group of its own, which ends with the script.
# The caller sets: trap end_child EXIT, or calls end_child in a trap of its own.

child=

run_child()
{
	local status

	set -m
	"$@" &
	child=$!
	set +m
	wait "$child"
	status=$?
	child=
	return "$status"
}

# Politely, then firmly.
end_child()
{
	local signal

	[ -n "$child" ] || return 0
	for signal in INT TERM KILL; do
		kill -s "$signal" -- -"$child" 2>/dev/null || return 0
		for _ in {1..300}; do
			kill -s 0 -- -"$child" 2>/dev/null || return 0
			sleep 0.1
		done
	done
}
