-- How long do prospects stay in each stage?
-- One row per stage. A pull sees a move only afterwards, so each time has a lower and an upper bound.
--
-- stage: name of the stage
-- people_now: prospects who are in it now
-- moved_on: stays that ended with a move to another stage
-- deleted: stays that ended with the prospect's deletion
-- median_days_at_least: lower bound of the median length of the stays that ended with a move
-- median_days_at_most: its upper bound; null: not known, as too many began before the history did
-- longest_days_at_least: lower bound of the longest of these stays
-- median_days_now_at_least: lower bound of how long those who are in it now have been there; the median
-- longest_days_now_at_least: the same of the one who has been there longest
WITH proven AS (
    SELECT max(last_complete_at) AS proven_at FROM _hc_freshness WHERE resource = 'prospects'
),
stays AS (
    SELECT
        stage,
        outcome,
        CASE WHEN outcome = 'moved' THEN hours_at_least END AS moved_at_least,
        CASE WHEN outcome = 'moved' THEN coalesce(hours_at_most, 1e12) END AS moved_at_most,
        CASE
            WHEN outcome IS NULL
                THEN EXTRACT(EPOCH FROM (greatest(proven_at, entered_before) - entered_before)) / 3600
        END AS now_at_least
    FROM stage_history
    CROSS JOIN proven
)
SELECT
    stage,
    count(*) FILTER (WHERE outcome IS NULL) AS people_now,
    count(*) FILTER (WHERE outcome = 'moved') AS moved_on,
    count(*) FILTER (WHERE outcome = 'deleted') AS deleted,
    floor(percentile_disc(0.5) WITHIN GROUP (ORDER BY moved_at_least) / 24 * 100) / 100
        AS median_days_at_least,
    ceil(nullif(percentile_disc(0.5) WITHIN GROUP (ORDER BY moved_at_most), 1e12) / 24 * 100) / 100
        AS median_days_at_most,
    floor(max(moved_at_least) / 24 * 100) / 100 AS longest_days_at_least,
    floor(percentile_disc(0.5) WITHIN GROUP (ORDER BY now_at_least) / 24 * 100) / 100
        AS median_days_now_at_least,
    floor(max(now_at_least) / 24 * 100) / 100 AS longest_days_now_at_least
FROM stays
GROUP BY stage
