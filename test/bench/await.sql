-- Wait until what is true of shared memory is true; an error after a minute.
CREATE PROCEDURE bench.await(condition text) LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '60 seconds';
	met boolean;
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		COMMIT;
		EXIT WHEN met;
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'not in a minute: %', condition;
		END IF;
	END LOOP;
END
$$;
