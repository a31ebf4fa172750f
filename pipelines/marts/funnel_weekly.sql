-- How many prospects enter and leave each stage, week by week?
-- One row per week and stage, from the week in which the history begins to the week of the last pull.
-- Weeks are ISO weeks in UTC. A move counts in the week in which a pull first saw it.
--
-- week: Monday of the week
-- stage: name of the stage
-- entered: stays that began, as far as we saw them begin
-- moved_on: stays that ended with a move to another stage
-- deleted: stays that ended with the prospect's deletion
-- people_at_end: prospects in the stage at the end of the week, or now
WITH RECURSIVE moves AS (
    SELECT
        CAST(date_trunc('week', entered_at AT TIME ZONE 'UTC') AS DATE) AS week,
        stage,
        CASE WHEN is_start_known THEN 1 ELSE 0 END AS entered,
        0 AS moved_on,
        0 AS deleted,
        1 AS change
    FROM stage_history
    UNION ALL
    SELECT
        CAST(date_trunc('week', left_at AT TIME ZONE 'UTC') AS DATE),
        stage,
        0,
        CASE WHEN outcome = 'moved' THEN 1 ELSE 0 END,
        CASE WHEN outcome = 'deleted' THEN 1 ELSE 0 END,
        -1
    FROM stage_history
    WHERE left_at IS NOT NULL
),
counted AS (
    SELECT
        week,
        stage,
        sum(entered) AS entered,
        sum(moved_on) AS moved_on,
        sum(deleted) AS deleted,
        sum(change) AS change
    FROM moves
    GROUP BY week, stage
),
span AS (
    SELECT
        (SELECT min(week) FROM moves) AS first_week,
        (
            SELECT CAST(date_trunc('week', max(last_pull_at) AT TIME ZONE 'UTC') AS DATE)
            FROM _hc_freshness
        ) AS last_week
),
weeks AS (
    SELECT first_week AS week, last_week FROM span
    UNION ALL
    SELECT CAST(week + INTERVAL 7 DAY AS DATE), last_week FROM weeks WHERE week < last_week
),
stages AS (
    SELECT DISTINCT stage FROM moves
)
SELECT
    weeks.week,
    stages.stage,
    CAST(coalesce(counted.entered, 0) AS BIGINT) AS entered,
    CAST(coalesce(counted.moved_on, 0) AS BIGINT) AS moved_on,
    CAST(coalesce(counted.deleted, 0) AS BIGINT) AS deleted,
    CAST(sum(coalesce(counted.change, 0)) OVER (PARTITION BY stages.stage ORDER BY weeks.week) AS BIGINT)
        AS people_at_end
FROM weeks
CROSS JOIN stages
LEFT JOIN counted ON counted.week = weeks.week AND counted.stage IS NOT DISTINCT FROM stages.stage
