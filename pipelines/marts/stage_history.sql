-- Who was in which stage, from when to when?
-- One row per stay: one prospect in one stage, without a break.
--
-- prospect_id: whose stay
-- stay: number of the prospect's stay, from 1
-- stage: name of the stage; the last one, if the stage was renamed meanwhile
-- stage_id: id of the stage
-- former_stage: where the prospect was before; null: not known
-- next_stage: where the prospect went; null: still here, or deleted
-- is_start_known: whether we saw the stay begin; false: it had begun before the history did
-- entered_at: when a pull first saw the prospect here
-- entered_after: the stay began after this; null: not known
-- entered_before: the stay had begun by then
-- outcome: `moved` or `deleted`; null: still here
-- left_at: when a pull first saw that the stay was over; null: still here
-- left_after: the prospect was still here then; null: still here
-- left_before: the stay was over by then; null: still here
-- hours_at_least: how long the stay was at least; null: still here
-- hours_at_most: how long it was at most; null: still here, or not known
WITH versions AS (
    SELECT
        id, current_stage, current_stage_id, created_at,
        _hc_valid_from, _hc_valid_to, _hc_changed_after, _hc_changed_before,
        lag(current_stage) OVER prospect AS former_stage,
        lag(current_stage_id) OVER prospect AS former_stage_id,
        lag(_hc_valid_from) OVER prospect AS former_from,
        lag(_hc_valid_to) OVER prospect AS former_to
    FROM prospects_history
    WINDOW prospect AS (PARTITION BY id ORDER BY _hc_valid_from)
),
marked AS (
    SELECT
        *,
        CASE
            WHEN former_from IS NULL OR former_to < _hc_valid_from THEN 1  -- new, or back again
            WHEN current_stage_id IS NOT NULL AND former_stage_id IS NOT NULL
                THEN CASE WHEN current_stage_id <> former_stage_id THEN 1 ELSE 0 END
            WHEN current_stage IS DISTINCT FROM former_stage THEN 1
            ELSE 0
        END AS begins
    FROM versions
),
numbered AS (
    SELECT
        *,
        sum(begins) OVER (PARTITION BY id ORDER BY _hc_valid_from) AS stay,
        CASE
            WHEN coalesce(lead(begins) OVER (PARTITION BY id ORDER BY _hc_valid_from), 1) = 1 THEN 1
            ELSE 0
        END AS ends
    FROM marked
),
stays AS (
    SELECT
        id,
        stay,
        max(CASE WHEN ends = 1 THEN current_stage END) AS stage,
        max(CASE WHEN ends = 1 THEN current_stage_id END) AS stage_id,
        min(created_at) AS created_at,
        min(_hc_valid_from) AS entered_at,
        max(CASE WHEN begins = 1 THEN _hc_changed_after END) AS changed_after,
        max(CASE WHEN begins = 1 THEN coalesce(_hc_changed_before, _hc_valid_from) END)
            AS entered_before,
        max(_hc_valid_from) AS last_seen_at,
        max(CASE WHEN ends = 1 THEN _hc_valid_to END) AS ended_at
    FROM numbered
    GROUP BY id, stay
),
bounded AS (
    SELECT
        *,
        CASE WHEN stay = 1 THEN coalesce(changed_after, created_at) ELSE changed_after END
            AS entered_after
    FROM stays
),
followed AS (
    SELECT
        *,
        lag(stage) OVER prospect AS stage_before,
        lag(ended_at) OVER prospect AS stage_before_to,
        lead(stage) OVER prospect AS stage_after,
        lead(entered_at) OVER prospect AS next_at,
        lead(entered_after) OVER prospect AS next_after,
        lead(entered_before) OVER prospect AS next_before
    FROM bounded
    WINDOW prospect AS (PARTITION BY id ORDER BY stay)
),
settled AS (
    SELECT
        *,
        CASE WHEN ended_at IS NULL THEN NULL WHEN next_at = ended_at THEN 'moved' ELSE 'deleted' END
            AS outcome
    FROM followed
),
timed AS (
    SELECT
        *,
        CASE
            WHEN outcome = 'moved' THEN greatest(next_after, last_seen_at, entered_before)
            WHEN outcome = 'deleted' THEN greatest(last_seen_at, entered_before)
        END AS here_at,
        CASE WHEN outcome = 'moved' THEN next_before ELSE ended_at END AS gone_at
    FROM settled
)
SELECT
    id AS prospect_id,
    CAST(stay AS BIGINT) AS stay,
    stage,
    stage_id,
    CASE WHEN stage_before_to = entered_at THEN stage_before END AS former_stage,
    CASE WHEN outcome = 'moved' THEN stage_after END AS next_stage,
    stay > 1 OR coalesce(created_at >= (SELECT min(_hc_valid_from) FROM versions), FALSE)
        AS is_start_known,
    entered_at,
    entered_after,
    entered_before,
    outcome,
    ended_at AS left_at,
    here_at AS left_after,
    gone_at AS left_before,
    floor(EXTRACT(EPOCH FROM (here_at - entered_before)) / 36) / 100
        AS hours_at_least,
    ceil(EXTRACT(EPOCH FROM (gone_at - entered_after)) / 36) / 100 AS hours_at_most
FROM timed
