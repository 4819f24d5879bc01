-- What the sampler has seen, as looks and waits of the last day, in minutes of a month, in hours of a year; rules against sessions that block.

CREATE TABLE airflow_bp.lock_statement (
	print bigint PRIMARY KEY,
	class text,
	shape text NOT NULL
);
COMMENT ON TABLE airflow_bp.lock_statement IS 'Statements of lock_history, without values. print: FNV-1a of the shape. class: a few words, as in lock_tree().';

CREATE TABLE airflow_bp.lock_history (
	resolution int NOT NULL,
	from_at timestamptz NOT NULL,
	to_at timestamptz NOT NULL,
	episode bigint,
	blocker bigint NOT NULL,
	blocked bigint NOT NULL,
	blocker_component text NOT NULL,
	blocked_component text NOT NULL,
	lock_type text NOT NULL,
	relation text,
	airflow_row jsonb,
	episodes bigint NOT NULL,
	samples bigint NOT NULL,
	waiter_seconds float8 NOT NULL,
	idle_seconds float8 NOT NULL,
	longest interval NOT NULL,
	most_waiters int NOT NULL,
	sessions jsonb
);
CREATE INDEX lock_history_from ON airflow_bp.lock_history (resolution, from_at);
COMMENT ON TABLE airflow_bp.lock_history IS 'Episodes of waiting in pieces, for lock_episodes() and lock_report(). resolution: seconds that a row sums up; 0: a piece of one episode. blocker, blocked: print of the statements. episodes: that begin in it. samples: looks that saw it. waiter_seconds: waiting sessions, times the time that each look stands for; idle_seconds: the part of it in which the blocker was idle in its transaction. longest: wait. Pieces are kept for a day, minutes for 30 days, hours for 366 days.';

CREATE TABLE airflow_bp.sampler_tick (
	resolution int NOT NULL,
	from_at timestamptz NOT NULL,
	to_at timestamptz NOT NULL,
	planned timestamptz,
	ticks bigint NOT NULL,
	late float8 NOT NULL,
	latest float8 NOT NULL,
	took float8 NOT NULL,
	longest float8 NOT NULL,
	period float8 NOT NULL,
	waiting bigint NOT NULL,
	most_waiters int NOT NULL,
	cut bigint NOT NULL,
	errors bigint NOT NULL,
	error text
);
CREATE INDEX sampler_tick_from ON airflow_bp.sampler_tick (resolution, from_at);
COMMENT ON TABLE airflow_bp.sampler_tick IS 'Looks of the sampler, all of them: where there is none, it was blind, not idle. resolution: seconds that a row sums up; 0: one look, which began at from_at and was planned for planned. Sums in seconds: late, took, period (the time that they stand for); greatest: latest, longest, most_waiters. waiting: looks that saw somebody wait; cut: looks that could not read all holders of a lock; error: SQLSTATE, of the last one. Kept as lock_history.';

CREATE TABLE airflow_bp.critical_hold (
	resolution int NOT NULL,
	from_at timestamptz NOT NULL,
	to_at timestamptz NOT NULL,
	pid int NOT NULL,
	client text,
	xact bigint,
	samples bigint NOT NULL,
	at_least float8 NOT NULL,
	at_most float8
);
CREATE INDEX critical_hold_from ON airflow_bp.critical_hold (resolution, from_at);
COMMENT ON TABLE airflow_bp.critical_hold IS 'Looks that found a session in the critical section of the schedulers. xact: number of its transaction in the session. at_least, at_most: seconds of the longest hold, from its first look to its last, and from the begin of its transaction. Kept as lock_history.';

CREATE TABLE airflow_bp.deadlock (
	at timestamptz NOT NULL,
	deadlocks bigint NOT NULL,
	total bigint NOT NULL,
	source text,
	sessions jsonb
);
COMMENT ON TABLE airflow_bp.deadlock IS 'Deadlocks of this database. deadlocks: since the row before, by the counter of PostgreSQL, total; 0: the count begins, or was reset. source: cycle (the sampler saw sessions wait for each other), waits (it saw none, so these are the waits before), NULL: nothing was seen. Kept for 366 days.';

CREATE TABLE airflow_bp.lock_rule (
	name text PRIMARY KEY CHECK (name <> '' AND octet_length(name) <= 1024),
	after interval NOT NULL CHECK (after BETWEEN interval '1 second' AND interval '30 days'),
	action text NOT NULL CHECK (action IN ('cancel', 'terminate')),
	component text,
	relation text,
	waiters int NOT NULL CHECK (waiters >= 0),
	act boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE airflow_bp.lock_rule IS 'Rules of set_lock_rule(). after: idle in a transaction for longer; component, relation: of these only; waiters: while at least so many wait for it; act: it is done, not only logged.';

CREATE TABLE airflow_bp.lock_action (
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	rule text NOT NULL,
	action text NOT NULL,
	acted boolean NOT NULL,
	done boolean,
	pid int NOT NULL,
	backend_start timestamptz NOT NULL,
	xact_start timestamptz NOT NULL,
	evidence jsonb NOT NULL
);
COMMENT ON TABLE airflow_bp.lock_action IS 'What rules did, or would have done where acted is false: once for each transaction and rule. done: the signal was sent; false: the session was not idle any more. evidence: the session, its locks on tables of Airflow, and who waited. Kept for 366 days.';

SELECT pg_catalog.pg_extension_config_dump('airflow_bp.lock_rule', '');

