# Sourced by the benchmarks.

missed=0

sql()
{
	psql -X -q -At -v ON_ERROR_STOP=1 "$@"
}

# verdict VALUE OPERATOR BOUND TEXT
verdict()
{
	if [ "$(sql -d postgres -c "SELECT $1 $2 $3")" = t ]; then
		echo "ok      $4"
	else
		echo "MISSED  $4"
		missed=1
	fi
}
