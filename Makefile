EXTENSION = airflow_bp
EXTVERSION = 0.1.0
MODULE_big = airflow_bp
PGFILEDESC = "airflow_bp - queue analysis and admission control for Apache Airflow"

# C files in alphabetical order.
OBJS = \
	src/account.o \
	src/admit.o \
	src/age.o \
	src/airflow_bp.o \
	src/catalog.o \
	src/gate.o \
	src/guc.o \
	src/log.o \
	src/park.o \
	src/pending.o \
	src/policy.o \
	src/queue.o \
	src/recount.o \
	src/serialized.o \
	src/shmem.o \
	src/show.o \
	src/spi.o \
	src/state.o \
	src/tick.o \
	src/worker.o

# The install script is these files in this order.
SQL_PARTS = \
	src/schema.sql \
	src/floor.api.sql \
	src/policy.tables.sql \
	src/log.tables.sql \
	src/catalog.api.sql \
	src/policy.api.sql \
	src/gate.api.sql \
	src/park.api.sql \
	src/worker.api.sql \
	src/queue.api.sql

DATA = $(wildcard updates/*.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql

PG_CPPFLAGS = -Isrc
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
SHLIB_LINK = -lz

ifdef ASSERT
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING
endif

EXTRA_CLEAN = $(DATA_built) tmp_check log

# Inlining into queries gains nothing here, and it would need clang.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard src/*.h) Makefile

$(DATA_built): $(SQL_PARTS) Makefile
	@{ printf '%s\n\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; cat $(SQL_PARTS); } > $@.tmp
	@mv $@.tmp $@
