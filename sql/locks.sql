-- What the lock report reads and keeps: statements, history, rules, bad input.
\getenv top PG_ABS_SRCDIR
\set ECHO none
\i test/fixtures/regress.sql
\set ECHO all
SET search_path = airflow;
