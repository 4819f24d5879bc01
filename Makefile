EXTENSION = airflow_bp
EXTVERSION = 0.1.0
MODULE_big = airflow_bp
PGFILEDESC = "airflow_bp - queue analysis and admission control for Apache Airflow"

# C files in alphabetical order.
OBJS = \
	src/account.o \
	src/admit.o \
	src/admit_build.o \
	src/admit_fill.o \
	src/admit_line.o \
	src/admit_turn.o \
	src/age.o \
	src/airflow_bp.o \
	src/catalog.o \
	src/deployment.o \
	src/drain.o \
	src/drain_state.o \
	src/examine.o \
	src/gate.o \
	src/guc.o \
	src/heap.o \
	src/held.o \
	src/locks.o \
	src/locks_class.o \
	src/locks_copy.o \
	src/locks_graph.o \
	src/locks_sample.o \
	src/locks_state.o \
	src/log.o \
	src/park.o \
	src/park_state.o \
	src/park_turn.o \
	src/pending.o \
	src/policy.o \
	src/pool.o \
	src/preview.o \
	src/queue.o \
	src/recount.o \
	src/serialized.o \
	src/shmem.o \
	src/show.o \
	src/spi.o \
	src/state.o \
	src/stuck.o \
	src/tick.o \
	src/version.o \
	src/worker.o

# The install script is these files in this order.
SQL_PARTS = \
	src/schema.sql \
	src/floor.api.sql \
	src/policy.tables.sql \
	src/log.tables.sql \
	src/park.tables.sql \
	src/pool.tables.sql \
	src/dlq.tables.sql \
	src/drain.tables.sql \
	src/rebalance.tables.sql \
	src/priority.tables.sql \
	src/stuck.tables.sql \
	src/locks.tables.sql \
	src/speed.tables.sql \
	src/catalog.api.sql \
	src/policy.api.sql \
	src/gate.api.sql \
	src/preview.api.sql \
	src/park.api.sql \
	src/stuck.api.sql \
	src/history.api.sql \
	src/locks.api.sql \
	src/lock_rule.api.sql \
	src/worker.api.sql \
	src/queue.api.sql \
	src/speed.api.sql \
	src/timeline.api.sql \
	src/clear.api.sql \
	src/explain.api.sql \
	src/drain.api.sql \
	src/pool.api.sql \
	src/rebalance.api.sql \
	src/priority.api.sql \
	src/audit.api.sql \
	src/dlq.api.sql \
	src/dlq_batch.api.sql \
	src/dlq_auto.api.sql \
	src/privileges.sql

DATA = $(wildcard updates/*.sql)
DATA_built = $(EXTENSION)--$(EXTVERSION).sql

PG_CPPFLAGS = -Isrc -DBP_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
SHLIB_LINK = -lz

ifdef ASSERT
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING
endif

EXTRA_CLEAN = $(DATA_built) build

# For make installcheck against a running server.
REGRESS = $(sort $(basename $(notdir $(wildcard sql/*.sql))))
ISOLATION = $(sort $(basename $(notdir $(wildcard test/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test

# Inlining into queries gains nothing here, and it would need clang.
override with_llvm = no

# These install what they need, also PostgreSQL.  make check SUITES="unit regress" runs some of the tests.
HOUSE = check check-matrix check-airflow-matrix check-upgrade check-sharp check-airflow check-e2e check-e2e-long unit core demo chaos fuzz bench fixtures
ifneq ($(filter $(HOUSE),$(MAKECMDGOALS)),)

.PHONY: $(HOUSE)
check:
	@test/check.sh $(SUITES)
unit core chaos:
	@test/check.sh $@
check-matrix:
	@test/matrix.sh
check-upgrade:
	@test/upgrade.sh
check-airflow-matrix:
	@test/airflow_matrix.sh
check-sharp:
	@test/sharp.sh
check-airflow:
	@test/check.sh airflow
check-e2e:
	@test/check.sh e2e
check-e2e-long:
	@E2E_MARK= test/check.sh e2e
demo:
	@test/setup.sh && test/setup.sh build && venv=$$(test/setup.sh airflow 3.3.2) && exec $$venv/bin/python test/demo.py
bench:
	@test/setup.sh && test/setup.sh build && missed=0; for b in test/bench/*.sh; do $$b || missed=1; done; exit $$missed
fixtures:
	@test/setup.sh && exec test/fixtures/make.sh
fuzz:
	@test/fuzz.sh

else

PG_MAJOR ?= 15
PG_CONFIG ?= $(or $(wildcard /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config),pg_config)
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(or $(wildcard $(PGXS)),$(error no PostgreSQL to build against: run test/setup.sh))

$(OBJS): $(wildcard src/*.h) Makefile

$(DATA_built): $(SQL_PARTS) Makefile
	@{ printf '%s\n\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; cat $(SQL_PARTS); } > $@.tmp
	@mv $@.tmp $@

endif
