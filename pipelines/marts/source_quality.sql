-- Which sources bring prospects who get as far as a meeting?
-- One row per label; sources are labels in HiringCenter. Who has several labels counts in each.
--
-- label: the label; null: prospects without one
-- people: prospects who aren't deleted
-- with_note: those of them with a note
-- with_meeting: those of them with a meeting
-- percent_with_meeting: the same in percent
-- first_created_at: when the first of them was created
-- last_created_at: when the last of them was created
WITH people AS (
    SELECT id, created_at, TRY_CAST(labels AS VARCHAR[]) AS labels
    FROM prospects
    WHERE _hc_deleted_at IS NULL
),
labelled AS (
    SELECT DISTINCT people.id, people.created_at, listed.label
    FROM people
    CROSS JOIN UNNEST(people.labels) AS listed(label)
    WHERE listed.label IS NOT NULL
),
sourced AS (
    SELECT id, created_at, label FROM labelled
    UNION ALL
    SELECT id, created_at, NULL FROM people WHERE id NOT IN (SELECT id FROM labelled)
),
noted AS (
    SELECT DISTINCT prospect_id FROM notes WHERE _hc_deleted_at IS NULL
),
met AS (
    SELECT DISTINCT prospect_id FROM meetings WHERE _hc_deleted_at IS NULL
)
SELECT
    sourced.label,
    count(*) AS people,
    count(noted.prospect_id) AS with_note,
    count(met.prospect_id) AS with_meeting,
    CAST(round(100.0 * count(met.prospect_id) / count(*), 1) AS DOUBLE) AS percent_with_meeting,
    min(sourced.created_at) AS first_created_at,
    max(sourced.created_at) AS last_created_at
FROM sourced
LEFT JOIN noted ON noted.prospect_id = sourced.id
LEFT JOIN met ON met.prospect_id = sourced.id
GROUP BY sourced.label
