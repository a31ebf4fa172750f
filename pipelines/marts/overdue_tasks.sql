-- Which tasks are overdue?
-- One row per open task that was due before the last pull.
--
-- task_id: the task
-- task: what to do
-- assigned_to: who is to do it
-- prospect_id: whom it is about
-- first_name: of the prospect
-- last_name: of the prospect
-- current_stage: of the prospect
-- due_at: when it was due
-- days_overdue: whole days between that and `as_of`
-- as_of: the time of the last pull
SELECT
    tasks.id AS task_id,
    tasks.task,
    tasks.assigned_to,
    tasks.prospect_id,
    prospects.first_name,
    prospects.last_name,
    prospects.current_stage,
    tasks.due_at,
    CAST(floor(EXTRACT(EPOCH FROM (seen.as_of - tasks.due_at)) / 86400) AS BIGINT) AS days_overdue,
    seen.as_of
FROM tasks
CROSS JOIN (SELECT max(last_pull_at) AS as_of FROM _hc_freshness) AS seen
LEFT JOIN prospects ON prospects.id = tasks.prospect_id
WHERE tasks._hc_deleted_at IS NULL AND tasks.completed_at IS NULL AND tasks.due_at < seen.as_of
