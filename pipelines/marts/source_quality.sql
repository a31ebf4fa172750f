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
WITH noted AS (
    SELECT DISTINCT prospect_id FROM notes WHERE _hc_deleted_at IS NULL
),
met AS (
    SELECT DISTINCT prospect_id FROM meetings WHERE _hc_deleted_at IS NULL
),
people AS (
    SELECT
        prospects.id,
        prospects.created_at,
        TRY_CAST(prospects.labels AS VARCHAR[]) AS labels,
        noted.prospect_id IS NOT NULL AS has_note,
        met.prospect_id IS NOT NULL AS has_meeting
    FROM prospects
    LEFT JOIN noted ON noted.prospect_id = prospects.id
    LEFT JOIN met ON met.prospect_id = prospects.id
    WHERE prospects._hc_deleted_at IS NULL
),
listed AS (
    SELECT id, UNNEST(labels) AS label FROM people
),
labelled AS (
    SELECT DISTINCT id, label FROM listed WHERE label IS NOT NULL
)
SELECT
    labelled.label,
    count(*) AS people,
    count(*) FILTER (WHERE has_note) AS with_note,
    count(*) FILTER (WHERE has_meeting) AS with_meeting,
    CAST(round(100.0 * count(*) FILTER (WHERE has_meeting) / count(*), 1) AS DOUBLE)
        AS percent_with_meeting,
    min(created_at) AS first_created_at,
    max(created_at) AS last_created_at
FROM people
LEFT JOIN labelled ON labelled.id = people.id
GROUP BY labelled.label
