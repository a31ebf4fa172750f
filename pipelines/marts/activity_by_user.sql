-- Who is busy with what?
-- One row per week and user who did something in it. Weeks are ISO weeks in UTC.
--
-- week: Monday of the week
-- user_id: the user
-- notes: notes that they wrote; those made through the API don't count
-- tasks_completed: tasks assigned to them that were completed
-- meetings: their meetings that take place in the week, also in the future
WITH acts AS (
    SELECT created_at AS done_at, user_id, 1 AS notes, 0 AS tasks_completed, 0 AS meetings
    FROM notes
    WHERE _hc_deleted_at IS NULL AND created_by_api IS NOT TRUE
    UNION ALL
    SELECT completed_at, assigned_to, 0, 1, 0
    FROM tasks
    WHERE _hc_deleted_at IS NULL
    UNION ALL
    SELECT meeting_date, owner_id, 0, 0, 1
    FROM meetings
    WHERE _hc_deleted_at IS NULL
)
SELECT
    CAST(date_trunc('week', done_at AT TIME ZONE 'UTC') AS DATE) AS week,
    user_id,
    CAST(sum(notes) AS BIGINT) AS notes,
    CAST(sum(tasks_completed) AS BIGINT) AS tasks_completed,
    CAST(sum(meetings) AS BIGINT) AS meetings
FROM acts
WHERE done_at IS NOT NULL AND user_id IS NOT NULL
GROUP BY 1, 2
