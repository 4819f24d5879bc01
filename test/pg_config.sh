# Sourced: which PostgreSQL the tests use.
if [ -z "${PG_CONFIG:-}" ]; then
	PG_CONFIG=/usr/lib/postgresql/${PG_MAJOR:-15}/bin/pg_config
	[ -x "$PG_CONFIG" ] || PG_CONFIG=pg_config
fi
PGXS_DIR=$(dirname "$("$PG_CONFIG" --pgxs 2>/dev/null)")/../..
export PG_CONFIG PGXS_DIR
case :$PATH: in
	*:"$("$PG_CONFIG" --bindir 2>/dev/null)":*) ;;
	*) PATH=$("$PG_CONFIG" --bindir 2>/dev/null):$PATH ;;
esac
