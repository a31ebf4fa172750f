-- How old is the data, and is it proven complete?
-- One row per list.
--
-- resource: the list
-- live_rows: rows that aren't deleted
-- last_pull_at: when it was last pulled
-- last_complete_at: the last scan that was proven complete
-- is_complete: whether the last full scan was; null: the last scan wasn't a full one
-- why_incomplete: why not
-- last_event_at: the last event about one of its rows
-- hours_behind: how long before `as_of` it was last pulled
-- hours_since_complete: how long before `as_of` it was last proven complete; null: never
-- as_of: the time of the last pull
SELECT
    resource,
    rows AS live_rows,
    last_pull_at,
    last_complete_at,
    complete AS is_complete,
    why_incomplete,
    last_event_at,
    CAST(round(EXTRACT(EPOCH FROM (as_of - last_pull_at)) / 3600.0, 2) AS DOUBLE) AS hours_behind,
    CAST(round(EXTRACT(EPOCH FROM (as_of - last_complete_at)) / 3600.0, 2) AS DOUBLE)
        AS hours_since_complete,
    as_of
FROM _hc_freshness
CROSS JOIN (SELECT max(last_pull_at) AS as_of FROM _hc_freshness) AS seen
