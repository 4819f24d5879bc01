# Sourced: which PostgreSQL the tests use.
if [ -z "${PG_CONFIG:-}" ]; then
	PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config
	[ -x "$PG_CONFIG" ] || PG_CONFIG=pg_config
fi
export PG_CONFIG
case :$PATH: in
	*:"$("$PG_CONFIG" --bindir)":*) ;;
	*) PATH=$("$PG_CONFIG" --bindir):$PATH ;;
esac
