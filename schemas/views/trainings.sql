-- The trainings that count, one row each, with their test scores in per cent (null without test predictions): those
-- that are done, and of runs that agree in all that changes a result, and in seed and fold, the newest.
-- Means are taken in a given order, here and in table_2 and curves: sums of fractions in another one differ in their
-- last digits.
-- A fusion's settings end in those of the sub_deep run whose conv4 it reads, where they are not its own.
with trained as (
    select
        r.run_id,
        s.dataset,
        s.protocol,
        r.arguments ->> 'training_set' as training_set,
        r.arguments ->> 'experiment' as experiment,
        r.arguments ->> 'recipe' as recipe,
        concat_ws(
            ' ',
            nullif(r.arguments ->> 'settings', ''),
            case when c.run_id is not null and (
                c.arguments ->> 'recipe', c.arguments ->> 'settings', c.arguments ->> 'seed'
            ) is distinct from (r.arguments ->> 'recipe', r.arguments ->> 'settings', r.arguments ->> 'seed') then
                concat_ws(
                    ' ',
                    '(conv4:',
                    c.arguments ->> 'recipe',
                    nullif(c.arguments ->> 'settings', ''),
                    case when c.arguments ->> 'seed' <> r.arguments ->> 'seed' then 'seed=' || (c.arguments ->> 'seed')
                    end
                ) || ')'
            end
        ) as settings,
        case when r.arguments ->> 'experiment' <> 'deepest' then cast(r.arguments ->> 'width' as integer) end as width,
        cast(r.arguments ->> 'seed' as bigint) as seed,
        cast(r.arguments ->> 'fold' as integer) as fold,
        r.extractor_id,
        r.started_at,
        r.details ->> 'conv4_run' as conv4_run,
        len(s.classes) as classes
    from runs r
    join training_sets s on s.name = r.arguments ->> 'training_set'
    left join runs c on c.run_id = r.details ->> 'conv4_run'
    where r.command = 'train' and r.state = 'done'
    qualify row_number() over (
        -- training_sets has a seed too, which the bare name would mean here
        partition by training_set, experiment, recipe, settings, width, r.arguments ->> 'seed', fold, r.extractor_id
        order by r.started_at desc
    ) = 1
),
tested as (
    select run_id, label, predicted, count(*) as items
    from predictions
    where part = 'test'
    group by all
),
class_scores as (
    select
        run_id,
        class,
        sum(items) filter (label = class and predicted = class) as hits,
        sum(items) filter (label = class) as labelled,
        sum(items) filter (predicted = class) as predicted
    from (
        select run_id, label, predicted, items, unnest(list_distinct([label, predicted])) as class
        from tested
    )
    group by all
),
run_scores as (
    select
        c.run_id,
        100 * sum(coalesce(c.hits, 0)) / sum(c.labelled) as accuracy,
        -- A class that is neither in test nor predicted has no row here and counts as 0.
        100 * sum(2 * coalesce(c.hits, 0) / (coalesce(c.labelled, 0) + coalesce(c.predicted, 0)) order by c.class)
            / any_value(t.classes) as macro_f1,
        100 * avg(coalesce(c.hits, 0) / c.labelled order by c.class) filter (c.labelled > 0) as balanced_accuracy
    from class_scores c
    join trained t on t.run_id = c.run_id
    group by c.run_id
)
select t.* exclude (classes), s.accuracy, s.macro_f1, s.balanced_accuracy
from trained t
left join run_scores s on s.run_id = t.run_id
