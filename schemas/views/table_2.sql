-- The paper's Table 2 for one's own data: test accuracy in per cent, one row a data set, protocol, experiment and
-- recipe, each with the mean and the sample standard deviation over its runs (seeds and folds; null of a single run).
-- What changes a result makes a row of its own: another training set, width, option of the recipe (settings) or
-- extractor. A fusion's settings end in those of the sub_deep run whose conv4 it reads, where they are not its own.
-- Of runs that agree in all that and in seed and fold, the newest counts.
-- weights_kind says when features come from random weights.
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
        len(s.classes) as classes
    from runs r
    join training_sets s on s.name = r.arguments ->> 'training_set'
    left join runs c on c.run_id = r.details ->> 'conv4_run'
    where r.command = 'train' and r.state = 'done'
    qualify row_number() over (
        -- training_sets has a seed too, which the bare name would mean here
        partition by
            training_set, experiment, recipe, settings, width, r.arguments ->> 'seed', fold, r.extractor_id
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
        100 * sum(2 * coalesce(c.hits, 0) / (coalesce(c.labelled, 0) + coalesce(c.predicted, 0))) / any_value(t.classes)
            as macro_f1,
        100 * avg(coalesce(c.hits, 0) / c.labelled) filter (c.labelled > 0) as balanced_accuracy
    from class_scores c
    join trained t on t.run_id = c.run_id
    group by c.run_id
),
kinds as (
    select dataset, arg_max(arguments ->> 'kind', started_at) as kind
    from runs
    where command = 'ingest'
    group by dataset
),
paper as (
    from (
        values
            ('ferplus', 'deepest', 47.7), ('ferplus', 'sub_deep', 59.4), ('ferplus', 'fusion', 63.6),
            ('ckplus', 'deepest', 97.2), ('ckplus', 'sub_deep', 98.9), ('ckplus', 'fusion', 99.4),
            ('jaffe', 'deepest', 61.9), ('jaffe', 'sub_deep', 72.3), ('jaffe', 'fusion', 75.5)
    ) as v (kind, experiment, accuracy)
)
select
    t.dataset,
    t.protocol,
    t.experiment,
    t.recipe,
    t.width,
    t.settings,
    t.training_set,
    count(*) as runs,
    count(distinct t.seed) as seeds,
    count(distinct t.fold) as folds,
    avg(s.accuracy) as accuracy,
    stddev_samp(s.accuracy) as accuracy_sd,
    avg(s.macro_f1) as macro_f1,
    stddev_samp(s.macro_f1) as macro_f1_sd,
    avg(s.balanced_accuracy) as balanced_accuracy,
    stddev_samp(s.balanced_accuracy) as balanced_accuracy_sd,
    cast(any_value(p.accuracy) as double) as paper_accuracy,
    any_value(e.weights_kind) as weights_kind,
    t.extractor_id
from trained t
join run_scores s on s.run_id = t.run_id
left join kinds k on k.dataset = t.dataset
left join paper p on p.kind = k.kind and p.experiment = t.experiment
left join extractors e on e.extractor_id = t.extractor_id
group by t.dataset, t.protocol, t.experiment, t.recipe, t.width, t.settings, t.training_set, t.extractor_id
order by t.dataset, t.protocol, t.training_set, t.experiment, t.recipe
